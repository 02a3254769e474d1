"""The Redis that all processes share: scripts with a time limit, and one policy for its failures.

Rules of this module:

- Whatever changes is one script, so that it happens whole and in one place.
- A command that does not end in `timeout_s`, connecting included, is `StoreDown`: nobody knows
  whether it took effect, and its connection is closed, for the answer may yet come.
- While Redis is down calls fail at once; one a second is let through to see.
- A script that a healthy Redis refuses is a bug of ours, and is raised as it is.
- redis-py is loaded only where there is a Redis: it takes 8 MB.

`rediss://` is TLS; Heroku's certificates are its own: add `?ssl_cert_reqs=none` to the address.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

from config import StoreConfig
from errors import ConfigError

if TYPE_CHECKING:
    from redis.asyncio import Redis

log: Final = logging.getLogger("sluice.store")

_CONNECTIONS: Final = 50
_LOOK_S: Final = 1.0
_LOG_S: Final = 60.0
# The first words of refusals that redis-py has no class for: a full disk, a lost master, ….
_UNWELL: Final = frozenset(
    ("MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "TRYAGAIN", "NOPERM")
)


class StoreDown(Exception):
    """Redis did not answer, or not in time; nobody knows whether the command took effect."""


class Store:
    """One Redis.

    Args:
        clock: seconds on a monotonic clock.

    Raises:
        ConfigError: the address cannot be one.
    """

    def __init__(self, config: StoreConfig, *, clock: Callable[[], float]) -> None:
        self._prefix = config.prefix
        self._timeout_s = config.timeout_s
        self._clock = clock
        self._redis = connection(config)
        self._look_at = 0.0
        self._log_at = 0.0
        self.fail_open = config.on_failure == "open"
        self.up = True
        self.failures: Counter[str] = Counter()
        """How often it went down, or was tried and still was, by reason."""

    async def run(
        self, script: str, keys: Sequence[str], args: Sequence[str | bytes | int | float]
    ) -> Any:
        """The script's result; strings in it are bytes.

        Raises:
            StoreDown
        """
        if not self.up:
            if self._clock() < self._look_at:
                raise StoreDown
            self._look_at = self._clock() + _LOOK_S
        names = [f"{{{self._prefix}}}:{key}" for key in keys]  # one slot, should it be a cluster
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await self._evaluate(script, names, args)
        except Exception as error:
            if reason := _reason(error):
                raise self._down(reason) from None
            raise
        if not self.up:
            self.up = True
            log.info("store_up")
        return result

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def _evaluate(
        self, script: str, names: list[str], args: Sequence[str | bytes | int | float]
    ) -> Any:
        from redis.exceptions import NoScriptError

        try:
            return await self._redis.evalsha(_digest(script), len(names), *names, *args)
        except NoScriptError:
            return await self._redis.eval(script, len(names), *names, *args)

    def _down(self, reason: str) -> StoreDown:
        now = self._clock()
        self.failures[reason] += 1
        if self.up or now >= self._log_at:
            log.warning("store_down", extra={"reason": reason})
            self._log_at = now + _LOG_S
        self.up = False
        self._look_at = now + _LOOK_S
        return StoreDown()


def connection(config: StoreConfig) -> "Redis":
    """The client of this Redis, not yet connected.

    Raises:
        ConfigError: the address has a part that redis-py does not know.
    """
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

    try:
        pool = BlockingConnectionPool.from_url(
            config.redis_url,
            max_connections=_CONNECTIONS,
            timeout=config.timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        # Else unknown parameters would come to light with the first call.
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (AttributeError, RedisError, TypeError, ValueError):
        # Its words are not told, for the address may hold a password.
        raise ConfigError(
            "REDIS_URL: redis-py cannot use this address: look at its port, and at what is "
            "after its question mark"
        ) from None
    return Redis.from_pool(pool)


def _reason(error: Exception) -> str | None:
    """Why Redis could not do it; None: this is no fault of its."""
    from redis import exceptions

    unwell = (
        exceptions.BusyLoadingError,
        exceptions.ReadOnlyError,
        exceptions.OutOfMemoryError,
    )
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, unwell):
        return "refused"
    if isinstance(error, exceptions.ResponseError):
        return "refused" if str(error).partition(" ")[0] in _UNWELL else None
    return "connection" if isinstance(error, exceptions.RedisError | OSError) else None


@cache
def _digest(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
