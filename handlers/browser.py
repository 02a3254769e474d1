"""What only browsers need: who may call from a page, and what a page may do with a reply.

Rules of this module:

- A page of another origin is refused (Sec-Fetch-Site, else Origin against Host, as Tornado's
  cross_origin_protection does it), unless it is on the list; then CORS lets it read the reply.
  Such pages send no cookies, so they need a key or a token wherever there is authentication.
- Sec-Fetch-Site or Origin prove where a request comes from: pages cannot set them. A browser so
  old that it sends neither proves with X-XSRFToken that a request with cookies comes from our
  own page: a value that GET /api/xsrf gives, to be held against the cookie that comes with it.
  A bearer token is proof enough: no foreign page can set that header unasked.
- Behind https everything is https: the cookie is Secure, and HSTS says so.
"""

import re
from typing import Any, Final

from tornado.web import HTTPError, RequestHandler

from config import Config
from errors import CallError
from handlers.origins import is_allowed

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_HSTS: Final = "max-age=31536000"
_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, POST",
    # Clients of OpenAI send a dozen of their own; the star does not stand for the first.
    "Access-Control-Allow-Headers": "Authorization, *",
    "Access-Control-Max-Age": "600",
}
_EXPOSED: Final = (
    "Idempotency-Replayed, RateLimit, RateLimit-Policy, Retry-After, Retry-After-Ms, "
    "X-Request-Id, X-Should-Retry, X-Sluice-Max-Tokens, X-Sluice-Provider, "
    "X-Sluice-Recording, x-vercel-ai-ui-message-stream"
)
_FOREIGN_ORIGIN: Final = (
    "Pages of this origin may not call; [browser] allowed_origins lists who may"
)
_UNPRINTABLE: Final = re.compile(r"[^!-~]")
_MAX_ORIGIN: Final = 128
_XSRF_TEXT: Final = "X-XSRFToken is missing or wrong; GET /api/xsrf gives one"


class BrowserHandler(RequestHandler):
    """A handler that keeps the browser's rules."""

    @property
    def config(self) -> Config:
        # Tornado asks for headers before a handler is initialized; the settings are there.
        config: Config = self.settings["services"].config
        return config

    def set_browser_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.set_header(name, value)
        if self.is_https():
            self.set_header("Strict-Transport-Security", _HSTS)
        if allowed := self.config.browser.allowed_origins:
            self.set_header("Vary", "Origin")
            origin = self.request.headers.get("Origin", "")
            if is_allowed(origin, allowed):
                self.set_header("Access-Control-Allow-Origin", origin)
                self.set_header("Access-Control-Expose-Headers", _EXPOSED)

    def is_https(self) -> bool:
        """Whether the client came by TLS, as far as we may believe it."""
        if self.config.server.trusted_hops:
            forwarded = self.request.headers.get("X-Forwarded-Proto", "")
            return forwarded.rpartition(",")[2].strip() == "https"
        return self.request.protocol == "https"

    def preflight(self) -> None:
        """Answer OPTIONS; without the headers of `set_browser_headers` it is a no."""
        for name, value in _PREFLIGHT.items():
            self.set_header(name, value)
        self.set_status(204)

    def check_xsrf_cookie(self) -> None:
        """Refuse what a foreign page sends: Tornado asks before every method that may change
        something, and before the body is read."""
        headers = self.request.headers
        if self._is_foreign():
            raise CallError("forbidden", "origin", text=_FOREIGN_ORIGIN)
        bearer = headers.get("Authorization", "").lower().startswith("bearer ")
        known = "Sec-Fetch-Site" in headers or "Origin" in headers
        if known or bearer or "Cookie" not in headers or not self.config.browser.xsrf:
            return
        # Tornado would take the token from the address, too, where logs see it.
        try:
            if "X-Xsrftoken" not in headers and "X-Csrftoken" not in headers:
                raise HTTPError(403)
            super().check_xsrf_cookie()
        except HTTPError:
            raise CallError("forbidden", "xsrf", text=_XSRF_TEXT) from None

    def _is_foreign(self) -> bool:
        """Whether a page of another origin, which is not on the list, sends this."""
        headers = self.request.headers
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        if site in ("same-origin", "none") or (site is None and origin is None):
            return False
        if origin is None:
            return True
        own = site is None and origin.lower().partition("://")[2] == self.request.host.lower()
        return not own and not is_allowed(origin, self.config.browser.allowed_origins)

    def foreign_origin(self) -> str | None:
        """The origin of a page whose requests are refused, or whose replies its browser keeps from
        it: fit for a log, and for a line of the settings."""
        origin = self.request.headers.get("Origin")
        if origin is None or not self._is_foreign():
            return None
        return _UNPRINTABLE.sub("?", origin[:_MAX_ORIGIN])

    def set_cookie(self, name: str, value: str | bytes, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"httponly": True, "samesite": "Strict", "secure": self.is_https()}
        super().set_cookie(name, value, *args, **kwargs)
