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
from collections.abc import Iterator
from typing import Final

from tornado.httputil import HTTPServerRequest

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
PREFLIGHT: Final = {
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
XSRF_TEXT: Final = "X-XSRFToken is missing or wrong; GET /api/xsrf gives one"


def headers_for(request: HTTPServerRequest, config: Config) -> Iterator[tuple[str, str]]:
    """What every reply tells the browser."""
    yield from _HEADERS.items()
    if is_https(request, config):
        yield "Strict-Transport-Security", _HSTS
    if allowed := config.browser.allowed_origins:
        yield "Vary", "Origin"
        origin = request.headers.get("Origin", "")
        if is_allowed(origin, allowed):
            yield "Access-Control-Allow-Origin", origin
            yield "Access-Control-Expose-Headers", _EXPOSED


def is_https(request: HTTPServerRequest, config: Config) -> bool:
    """Whether the client came by TLS, as far as we may believe it."""
    if config.server.trusted_hops:
        forwarded = request.headers.get("X-Forwarded-Proto", "")
        return forwarded.rpartition(",")[2].strip() == "https"
    return request.protocol == "https"


def needs_token(request: HTTPServerRequest, config: Config) -> bool:
    """Whether only X-XSRFToken can prove that this comes from our own page.

    Raises:
        CallError: `forbidden`: it comes from a page of another origin, or has the token in its
            address, where logs see it.
    """
    headers = request.headers
    if _is_foreign(request, config):
        raise CallError("forbidden", "origin", text=_FOREIGN_ORIGIN)
    bearer = headers.get("Authorization", "").lower().startswith("bearer ")
    known = "Sec-Fetch-Site" in headers or "Origin" in headers
    if known or bearer or "Cookie" not in headers or not config.browser.xsrf:
        return False
    if "X-Xsrftoken" not in headers and "X-Csrftoken" not in headers:
        raise CallError("forbidden", "xsrf", text=XSRF_TEXT)
    return True


def foreign_origin(request: HTTPServerRequest, config: Config) -> str | None:
    """The origin of a page whose requests are refused, or whose replies its browser keeps from
    it: fit for a log, and for a line of the settings."""
    origin = request.headers.get("Origin")
    if origin is None or not _is_foreign(request, config):
        return None
    return _UNPRINTABLE.sub("?", origin[:_MAX_ORIGIN])


def _is_foreign(request: HTTPServerRequest, config: Config) -> bool:
    """Whether a page of another origin, which is not on the list, sends this."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site in ("same-origin", "none") or (site is None and origin is None):
        return False
    if origin is None:
        return True
    own = site is None and origin.lower().partition("://")[2] == request.host.lower()
    return not own and not is_allowed(origin, config.browser.allowed_origins)
