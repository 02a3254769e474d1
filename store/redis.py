"""The Redis that all processes share: scripts with a time limit, and one policy for its failures.

Rules of this module:

- Whatever changes is one script, so that it happens whole and in one place.
- Every failure is `StoreDown`, whatever its cause, so that `[store] on_failure` decides.
- A command that does not end in `timeout_s`, connecting included, may have taken effect or not.
  Its connection is closed, because the answer may still come.
- While Redis is down calls fail at once; one a second is let through to see.
- A failure of one script alone (a key of another type, a bug of ours) is logged as an error and
  leaves the store up for all others.
- redis-py is loaded only where there is a Redis: it takes 8 MB.

`rediss://` is TLS; Heroku's certificates are its own: add `?ssl_cert_reqs=none` to the address.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final, TypeVar

from config import StoreConfig
from errors import CallError, ConfigError

if TYPE_CHECKING:
    from redis.asyncio import Redis

log: Final = logging.getLogger("sluice.store")

_CONNECTIONS: Final = 50
_LOOK_S: Final = 1.0
_LOG_S: Final = 60.0
# Error codes that tell an operator what to do, in lower case as the reason of the failure.
_CODES: Final = frozenset({
    "ASK", "BUSY", "CLUSTERDOWN", "CROSSSLOT", "LOADING", "MASTERDOWN", "MISCONF", "MOVED",
    "NOAUTH", "NOPERM", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "WRONGPASS", "WRONGTYPE",
})  # fmt: skip
# Redis gives these the code ERR, as it does bugs in a script; the words are those of its sources.
_TEXTS: Final = {"DB index is out of range": "wrong_db", "ACL failure in script": "noperm"}
_OF_ONE_SCRIPT: Final = frozenset(("wrongtype", "script_error", "unexpected"))

T = TypeVar("T")


class StoreDown(CallError):
    """Redis did not do it, or not in time: `overloaded`, where a call must not pass without."""

    def __init__(self) -> None:
        super().__init__("overloaded", "store_down", retry_after_s=1)


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
        self._log_at: dict[str, float] = {}
        self.fail_open = config.on_failure == "open"
        self.up = True
        self.failures: Counter[str] = Counter()
        """How often it went down, or was tried and still was, by reason."""

    async def run(
        self,
        script: str,
        keys: Sequence[str],
        args: Sequence[str | bytes | int | float],
        parse: Callable[[Any], T] = lambda reply: reply,
    ) -> T:
        """The script's result.

        Args:
            parse: makes the result of Redis' reply, in which strings are bytes; what it raises
                is a failure like any other.

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
                result = parse(await self._evaluate(script, names, args))
        except Exception as error:
            raise self._failed(_reason(error), error) from None
        self._answered()
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

    def _failed(self, reason: str, error: Exception) -> StoreDown:
        now = self._clock()
        self.failures[reason] += 1
        due = now >= self._log_at.get(reason, now)
        if reason in _OF_ONE_SCRIPT:
            self._answered()
            if due:
                log.error("store_script_failed", exc_info=error, extra={"reason": reason})
        else:
            due = due or self.up
            if due:
                log.warning("store_down", extra={"reason": reason})
            self.up = False
            self._look_at = now + _LOOK_S
        if due:
            self._log_at[reason] = now + _LOG_S
        return StoreDown()

    def _answered(self) -> None:
        if not self.up:
            self.up = True
            log.info("store_up")


def connection(config: StoreConfig) -> "Redis":
    """The client of this Redis, not yet connected.

    Raises:
        ConfigError: the address has a part that redis-py does not know.
    """
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.maint_notifications import MaintNotificationsConfig

    try:
        pool = BlockingConnectionPool.from_url(
            config.redis_url,
            max_connections=_CONNECTIONS,
            timeout=config.timeout_s,
            retry=Retry(NoBackoff(), 0),
            # With them on, redis-py 8 takes what is left on a connection for the next reply.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
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


def _reason(error: Exception) -> str:
    """Why Redis did not do it, in a word for an operator.

    redis-py takes the code off the text of the errors that it has a class for.
    """
    from redis import exceptions

    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return "timeout"
    if isinstance(error, exceptions.InvalidResponse):
        return "protocol"
    if isinstance(error, exceptions.RedisError):
        code = error.status_code or str(error).partition(" ")[0]
        if code in _CODES:
            return code.lower()
    if isinstance(error, exceptions.ResponseError):
        found = (reason for text, reason in _TEXTS.items() if text in str(error))
        return next(found, "script_error")
    if isinstance(error, exceptions.ConnectionError | OSError):
        return "connection"
    return "unexpected"


@cache
def _digest(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
