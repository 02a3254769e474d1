"""Who asks? Credentials become a `Caller`, or 401.

none, public    nobody is asked
keys            Authorization: Bearer sluice_…    held against the hashes in keys.ini
jwt             Authorization: Bearer eyJ…        signed by your own login
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, assert_never

from call import ANONYMOUS, Caller
from config import AuthConfig, LimitConfig
from errors import CallError

# RFC 6750: one token68, and the scheme in any case.
_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]{1,8000}=*)")

FirstUse = Callable[[str, float], Awaitable[bool]]


class Authenticator(Protocol):
    """One mode of authentication."""

    async def authenticate(self, authorization: str | None) -> Caller:
        """The caller with these credentials.

        Args:
            authorization: the header's value.

        Raises:
            CallError: `unauthenticated`.
        """


class Everyone:
    """Modes none and public."""

    async def authenticate(self, authorization: str | None) -> Caller:
        return ANONYMOUS


def bearer(authorization: str | None) -> str:
    """The token in the header.

    Raises:
        CallError: `unauthenticated`.
    """
    if authorization is None:
        raise CallError("unauthenticated", "missing")
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise CallError("unauthenticated", "malformed")
    return match[1]


def make_authenticator(
    config: AuthConfig,
    default_limits: LimitConfig,
    *,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
    first_use: FirstUse,
) -> Authenticator:
    """The configured mode.

    Args:
        clock: seconds on a monotonic clock, for what must not wait when the other is set back.
        wall_clock: seconds since the epoch.
        first_use: whether a name is used for the first time in so many seconds.

    Raises:
        ConfigError: keys or tokens cannot be checked so.
    """
    # Here, for the other modes need neither the file nor the cryptography.
    match config.mode:
        case "keys":
            from guards.auth.api_keys import KeyRing

            return KeyRing(config.keys_file, default_limits, clock=clock)
        case "jwt":
            from guards.auth.jwt_tokens import JwtAuthenticator

            return JwtAuthenticator(config, clock=clock, wall_clock=wall_clock, first_use=first_use)
        case "none" | "public":
            return Everyone()
        case unknown:
            assert_never(unknown)
