"""Tokens of your own login: JWT, checked by PyJWT.

Rules of this module:

- There is one algorithm, and the operator names it. What a token's header says of it can only
  make the token fail: `none`, a public key taken for a secret, and the rest.
- `exp` and `sub` are required; `sub` is the caller's name.
- A token that was checked is remembered by its hash for a few minutes, and not beyond its
  expiry: RS256 costs a tenth of a millisecond, and a key may be withdrawn. Not so where each
  may be used once.
"""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import jwt

from call import Caller
from config import AuthConfig
from errors import CallError, ConfigError
from guards.auth.base import FirstUse, bearer
from guards.auth.jwks import KeySet

_LEAST_SECRET_BYTES: Final = 32  # RFC 7518, 3.2
_REMEMBERED: Final = 1024
_REMEMBERED_S: Final = 300.0
_END_OF_TIME: Final = 253_402_300_800  # year 10000
_MAX_NAME: Final = 128

# The most specific first.
_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (jwt.ExpiredSignatureError, "expired"),
    (jwt.ImmatureSignatureError, "not_yet_valid"),
    (jwt.InvalidIssuedAtError, "not_yet_valid"),
    (jwt.InvalidAudienceError, "audience"),
    (jwt.InvalidIssuerError, "issuer"),
    (jwt.MissingRequiredClaimError, "claim_missing"),
    (jwt.InvalidAlgorithmError, "algorithm"),
    (jwt.InvalidSignatureError, "signature"),
    (jwt.PyJWTError, "malformed"),
)


class JwtAuthenticator:
    """Mode jwt.

    Args:
        clock: seconds on a monotonic clock.
        wall_clock: seconds since the epoch.
        first_use: whether a name is used for the first time in so many seconds.

    Raises:
        ConfigError: the settings leave open who may sign.
    """

    def __init__(
        self,
        config: AuthConfig,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        first_use: FirstUse,
    ) -> None:
        _check(config)
        self._config = config
        self._clock = clock
        self._wall_clock = wall_clock
        self._first_use = first_use
        self._key_set = (
            KeySet(config.jwt_jwks, config.jwt_algorithm, clock=clock) if config.jwt_jwks else None
        )
        self._seen: OrderedDict[bytes, tuple[Caller, float, float]] = OrderedDict()

    async def authenticate(self, authorization: str | None) -> Caller:
        token = bearer(authorization)
        digest = sha256(token.encode()).digest()
        if known := self._remembered(digest):
            return known
        claims = await self._claims(token)
        caller = Caller(_name(claims["sub"]))
        expires = claims["exp"] + self._config.jwt_leeway_s
        if self._config.jwt_single_use:
            await self._use(claims, expires)
        else:
            self._seen[digest] = caller, expires, self._clock() + _REMEMBERED_S
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return caller

    def _remembered(self, digest: bytes) -> Caller | None:
        caller, expires, until = self._seen.get(digest, (None, 0.0, 0.0))
        if caller is not None and (self._wall_clock() >= expires or self._clock() >= until):
            del self._seen[digest]
            return None
        return caller

    async def _claims(self, token: str) -> dict[str, Any]:
        config = self._config
        required = ["exp", "sub", *(["jti"] if config.jwt_single_use else [])]
        try:
            key: Any = config.jwt_secret
            if self._key_set is not None:
                key = await self._key_set.key(jwt.get_unverified_header(token).get("kid"))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[config.jwt_algorithm],
                issuer=config.jwt_issuer or None,
                audience=config.jwt_audience or None,
                leeway=config.jwt_leeway_s,
                options={"require": required, "verify_exp": False, "verify_nbf": False},
            )
        except jwt.PyJWTError as error:
            reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
            raise CallError("unauthenticated", reason) from None
        except (ValueError, RecursionError):  # a hostile header or claim
            raise CallError("unauthenticated", "malformed") from None
        self._check_times(claims)
        return claims

    def _check_times(self, claims: dict[str, Any]) -> None:
        """By our clock, which a test can set; PyJWT reads the system's."""
        now, leeway_s = self._wall_clock(), self._config.jwt_leeway_s
        expires, begins = claims["exp"], claims.get("nbf", 0)
        if not (_is_instant(expires) and _is_instant(begins)):
            raise CallError("unauthenticated", "malformed")
        if expires <= now - leeway_s:
            raise CallError("unauthenticated", "expired")
        if begins > now + leeway_s:
            raise CallError("unauthenticated", "not_yet_valid")

    async def _use(self, claims: dict[str, Any], expires: float) -> None:
        name = f"jti:{claims.get('iss', '')}:{claims['jti']}"
        digest = sha256(name.encode()).hexdigest()
        if not await self._first_use(digest, max(1.0, expires - self._wall_clock())):
            raise CallError("unauthenticated", "replayed")


def _is_instant(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < _END_OF_TIME


def _name(subject: Any) -> str:
    if isinstance(subject, str) and 0 < len(subject) <= _MAX_NAME and subject.isprintable():
        return subject
    raise CallError("unauthenticated", "subject")


def _check(config: AuthConfig) -> None:
    symmetric = config.jwt_algorithm == "HS256"
    if symmetric and config.jwt_jwks:
        raise ConfigError("[auth] jwt_jwks: is for RS256 and ES256; HS256 takes a secret")
    if not symmetric and config.jwt_secret:
        raise ConfigError(
            f"SLUICE_AUTH_JWT_SECRET: is for HS256; {config.jwt_algorithm} takes [auth] jwt_jwks"
        )
    if symmetric and len(config.jwt_secret.encode()) < _LEAST_SECRET_BYTES:
        raise ConfigError(
            f"SLUICE_AUTH_JWT_SECRET: must have at least {_LEAST_SECRET_BYTES} bytes for HS256"
        )
    if not symmetric and not config.jwt_jwks:
        raise ConfigError(f"[auth] jwt_jwks: {config.jwt_algorithm} needs an address or a file")
