"""What only browsers need: who may call from a page, and what a page may do with a reply.

Rules of this module:

- A page of another origin is refused (Sec-Fetch-Site, else Origin against Host; Tornado's
  cross_origin_protection), unless it is on the list; then CORS lets it read the reply. Such
  pages send no cookies, so they need a key or a token wherever there is authentication.
- A request with cookies proves with X-XSRFToken that it comes from our own page: a value that
  GET /api/xsrf gives, to be held against the cookie that comes with it. A bearer token is
  proof enough: no foreign page can set that header unasked.
- Behind https everything is https: the cookie is Secure, and HSTS says so.
"""

from typing import Any, Final

from tornado.web import HTTPError, RequestHandler

from config import Config
from errors import CallError

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
            if (origin := self.request.headers.get("Origin")) in allowed:
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
        headers = self.request.headers
        bearer = headers.get("Authorization", "").lower().startswith("bearer ")
        if bearer or "Cookie" not in headers or not self.config.browser.xsrf:
            return
        # Tornado would take the token from the address, too, where logs see it.
        try:
            if "X-Xsrftoken" not in headers and "X-Csrftoken" not in headers:
                raise HTTPError(403)
            super().check_xsrf_cookie()
        except HTTPError:
            raise CallError("forbidden", "xsrf", text=_XSRF_TEXT) from None

    def set_cookie(self, name: str, value: str | bytes, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"httponly": True, "samesite": "Strict", "secure": self.is_https()}
        super().set_cookie(name, value, *args, **kwargs)
