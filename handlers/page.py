"""Pages: a document at its address, and the files it loads at /web/.

Rules of this module:

- Files are read once, when the routes are made, and only those that are named: no part of a
  request ever becomes a path on the disk.
- A page loads nothing from elsewhere and runs no script but its own files (CSP), and puts no
  string into itself as HTML but through the one sanitizer (Trusted Types).
- Files are asked for anew each time and mostly answered 304, so a new version is never mixed
  with an old one.
"""

import logging
import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Final

from errors import ConfigError
from handlers.base import BaseHandler

WEB: Final = Path(__file__).parent.parent / "web"

_CSP: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file in memory."""

    body: bytes
    content_type: str
    etag: str


@cache
def read_file(name: str) -> PageFile:
    """The file of this name in web/, read once.

    Raises:
        ConfigError: it is not there.
    """
    try:
        body = (WEB / name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{WEB / name}: cannot be read: {error.strerror}") from None
    return PageFile(body, _TYPES[Path(name).suffix], f'"{sha256(body).hexdigest()[:32]}"')


class PageHandler(BaseHandler):
    """A page and its files. A subclass names them."""

    address: ClassVar[str]
    """Of the document."""
    document: ClassVar[str]
    """Its file in web/."""
    loads: ClassVar[tuple[str, ...]]
    """The files in web/ that it loads, each at /web/NAME."""

    @classmethod
    def routes(cls) -> list[tuple[str, type[BaseHandler], dict[str, PageFile]]]:
        """A route for each file; at the first call they are read.

        Raises:
            ConfigError: one is missing.
        """
        named = {cls.address: cls.document} | {f"/web/{name}": name for name in cls.loads}
        return [
            (re.escape(address), cls, {"file": read_file(name)}) for address, name in named.items()
        ]

    def initialize(self, file: PageFile) -> None:  # type: ignore[override]
        super().initialize()
        self.file = file

    @property
    def route(self) -> str:
        return self.request.path  # it is one of the routes

    def head(self) -> None:
        self.get()

    def get(self) -> None:
        self.set_header("Content-Security-Policy", _CSP)
        self.set_header("Cache-Control", "no-cache")
        self.answer_bytes(self.file.body, self.file.content_type)

    def compute_etag(self) -> str:
        # Tornado compares it with If-None-Match.
        return self.file.etag

    def on_finish(self) -> None:
        self.log_reply(logging.DEBUG)


class ChatPageHandler(PageHandler):
    """`GET /`: the chat page."""

    address = "/"
    document = "index.html"
    loads = (
        "base.css",
        "style.css",
        "icon.svg",
        "chat.js",
        "api.js",
        "markdown.js",
        "parts.js",
        "stream.js",
        "view.js",
        "words.js",
        "vendor/figtree.woff2",
        "vendor/figtree-italic.woff2",
        "vendor/marked.js",
        "vendor/purify.js",
    )
