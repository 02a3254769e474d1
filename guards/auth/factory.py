"""Which mode of authentication is configured?"""

from collections.abc import Callable
from typing import assert_never

from config import AuthConfig, LimitConfig
from guards.auth.base import Authenticator, Everyone, FirstUse


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
