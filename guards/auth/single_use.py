"""Things that may happen once: a token's `jti`."""

from collections.abc import Callable
from typing import Any, Final

from errors import CallError
from store.redis import Store, StoreDown

_MAX_REMEMBERED: Final = 100_000
_FIRST: Final = "return redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) and 1 or 0"


class SingleUse:
    """Remembers what was used until it would not be taken any more anyway.

    Args:
        clock: seconds on a monotonic clock.
    """

    def __init__(self, store: Store | None, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._used: dict[str, float] = {}

    async def first_use(self, key: str, ttl_s: float) -> bool:
        """Whether this is the first use of `key` within `ttl_s` seconds.

        Raises:
            CallError: `overloaded` where that cannot be told and must be.
        """
        if self._store is not None:
            try:
                ttl_ms = int(ttl_s * 1000) + 1
                return await self._store.run(_FIRST, [f"used:{key}"], [ttl_ms], _is_first)
            except StoreDown:
                if not self._store.fail_open:
                    raise
        now = self._clock()
        if self._used.get(key, now) > now:
            return False
        if len(self._used) >= _MAX_REMEMBERED:
            self._used = {key: until for key, until in self._used.items() if until > now}
            if len(self._used) >= _MAX_REMEMBERED:
                raise CallError("overloaded", "too_many_tokens", retry_after_s=1)
        self._used[key] = now + ttl_s
        return True


def _is_first(reply: Any) -> bool:
    return {1: True, 0: False}[reply]
