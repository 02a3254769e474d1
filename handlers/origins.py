"""Which pages of other origins may call: [browser] allowed_origins.

    https://app.example.com     this origin
    https://*.example.com       every name below it, but not example.com itself
    http://localhost:*          every port
    tauri://localhost           apps and extensions, by the scheme they have
    vscode-webview://*          all of a scheme whose names are made anew each time
    null                        pages without an origin: files, sandboxed frames, of anybody

`schemas/config.schema.json` refuses whatever could never match.
"""

import re
from functools import lru_cache
from typing import Final

_DEFAULT_PORTS: Final = {"https": "443", "http": "80"}


def is_allowed(origin: str, patterns: tuple[str, ...]) -> bool:
    """Whether the value of an Origin header fits one of the patterns."""
    return bool(patterns) and _compiled(patterns).fullmatch(origin) is not None


@lru_cache(maxsize=8)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(_expression, patterns)))


def _expression(pattern: str) -> str:
    """The pattern as a regular expression of what browsers send: lower case, no default port."""
    scheme, separator, rest = pattern.lower().partition("://")
    if not separator:
        return re.escape(scheme)
    host, port = re.fullmatch(r"(.*?)(?::([0-9]+|\*))?", rest).groups()  # type: ignore[union-attr]
    host = re.escape(host).replace(r"\*", "[^/:]+")
    if port == "*":
        host += r"(?::[0-9]+)?"
    elif port is not None and port != _DEFAULT_PORTS.get(scheme):
        host += f":{port}"
    return f"{re.escape(scheme)}://{host}"
