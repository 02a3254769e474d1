"""Who sends a request, as far as its headers show it: what counts without authentication.

A proxy on the same machine connects from loopback, so only what it adds tells it apart. One that
adds nothing cannot be recognised.
"""

from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from tornado.httputil import HTTPHeaders

FOREIGN_NAME: Final = (
    "Without authentication this server answers to localhost and to addresses, not to other "
    "names; [auth] mode says who may call"
)
THROUGH_PROXY: Final = (
    "Without authentication this server answers to this machine alone, and the request came "
    "through a proxy; set [auth] mode (SLUICE_AUTH_MODE) to keys, jwt or public"
)
# What nginx, Caddy, Apache, Envoy, HAProxy, CDNs and tunnels add; X-Forwarded-* besides.
_OF_PROXIES: Final = (
    "Forwarded",
    "Via",
    "X-Real-Ip",
    "X-Client-Ip",
    "X-Cluster-Client-Ip",
    "X-Original-Forwarded-For",
    "X-Envoy-External-Address",
    "True-Client-Ip",
    "Cf-Connecting-Ip",
    "Cdn-Loop",
    "Fly-Client-Ip",
)


def header_of_proxy(headers: HTTPHeaders) -> str | None:
    """The name of a header that only proxies add."""
    name: str
    for name in headers:
        if name.startswith("X-Forwarded-"):
            return "X-Forwarded-*"  # what follows may be anything
        if name in _OF_PROXIES:
            return name
    return None


@lru_cache
def is_this_machine(name: str) -> bool:
    """Whether a Host header's name cannot be one that somebody else has registered."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
