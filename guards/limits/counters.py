"""Counters with a ceiling: several at once, all or none.

A window of `window_s` seconds is counted by the clock's own grid, window k from k * window_s on.
What a charge is held against is

    day      used = this window's count
    minute   used = this window's count + last window's * (share of it still within window_s)

so that a minute's limit holds over any 60 seconds, as well as an even flow can tell
(Cloudflare's sliding window), and a day's limit starts anew at midnight UTC.

Rules of this module:

- A charge that does not fit takes nothing, and neither do those made with it.
- What was taken too much or too little is corrected in the window it was taken from.
- Places in flight are leases in Redis, so that a process which dies gives them back.
- Amounts are whole numbers: requests, tokens, millionths of a dollar, calls.

The `limits` package does the first two steps of this, but it cannot take from several limits
at once or none, and gives nothing back.
"""

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol

from store.redis import Store, StoreDown

MINUTE_S: Final = 60
DAY_S: Final = 86_400
_MAX_COUNTERS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Limit:
    """So many `name` for one subject of `scope`."""

    scope: str
    name: str
    maximum: int
    window_s: int
    """Seconds; 0 counts what is in flight."""

    def previous_share(self, now: float) -> float:
        """How much of the previous window still counts."""
        return 1 - now % MINUTE_S / MINUTE_S if self.window_s == MINUTE_S else 0.0

    def used(self, count: "Count", now: float) -> float:
        return count.current + count.previous * self.previous_share(now)

    def wait_s(self, count: "Count", amount: int, now: float) -> float:
        """Seconds until `amount` fits, if nobody else takes any meanwhile."""
        if self.window_s == 0:
            return 1.0
        rest_s = self.window_s - now % self.window_s
        room = self.maximum - amount
        if self.window_s == DAY_S or room < 0:
            return rest_s
        if count.current <= room:  # the last window's share need only shrink
            return rest_s - MINUTE_S * (room - count.current) / count.previous
        return rest_s + MINUTE_S * (1 - room / count.current)


class Charge(NamedTuple):
    """What one call takes from one counter."""

    limit: Limit
    key: str
    """The counter's name."""
    amount: int


class Count(NamedTuple):
    """What a counter held before a charge."""

    current: int
    previous: int


_NOTHING: Final = Count(0, 0)
_NEVER: Final = (-1, _NOTHING)


class ReserveResult(NamedTuple):
    """The answer to a `take`."""

    granted: bool
    counts: list[Count]
    """One for each charge."""


class Counters(Protocol):
    """Where the counts live."""

    async def take(self, charges: Sequence[Charge], now: float, lease: str) -> ReserveResult:
        """Make all these charges, or none.

        Args:
            now: seconds since the epoch.
            lease: a name of these charges alone, for the places in flight.
        """

    def correct(self, charges: Sequence[Charge], now: float, lease: str) -> None:
        """Add these amounts, which may be negative, to the windows of `now`; end the lease."""


class MemoryCounters:
    """Counts of this process. Stale ones go when there are too many, oldest first."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[int, Count]] = {}

    async def take(self, charges: Sequence[Charge], now: float, lease: str) -> ReserveResult:
        counts, granted = [], True
        for limit, key, amount in charges:
            count = self.count(limit, key, now)
            counts.append(count)
            granted = granted and limit.used(count, now) + amount <= limit.maximum
        if granted:
            for (limit, key, amount), (current, previous) in zip(charges, counts, strict=True):
                self._windows.pop(key, None)  # to the end: the first are the oldest
                self._windows[key] = _window(limit, now), Count(current + amount, previous)
            while len(self._windows) > _MAX_COUNTERS:
                del self._windows[next(iter(self._windows))]
        return ReserveResult(granted, counts)

    def correct(self, charges: Sequence[Charge], now: float, lease: str) -> None:
        for limit, key, amount in charges:
            window, (current, previous) = self._windows.get(key, _NEVER)
            shift = window - _window(limit, now)
            if shift == 0:
                self._windows[key] = window, Count(current + amount, previous)
            elif shift == 1:
                self._windows[key] = window, Count(current, previous + amount)

    def count(self, limit: Limit, key: str, now: float) -> Count:
        """What the counter holds now."""
        window, count = self._windows.get(key, _NEVER)
        shift = _window(limit, now) - window
        if shift == 0:
            return count
        return Count(0, count.current) if shift == 1 else _NOTHING


def _window(limit: Limit, now: float) -> int:
    return int(now // limit.window_s) if limit.window_s else 0


# KEYS: for each charge the current and the previous window, or twice the set of leases.
# ARGV: now_ms, lease, lease_ms; for each charge amount, maximum, weight of the previous window,
# ms to keep. A set of leases is told by the weight 'lease'.
_TAKE: Final = """
local now, lease, until_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[1]) + tonumber(ARGV[3])
local answer, granted = {1}, true
for i = 1, #KEYS, 2 do
  local a = 2 * i + 2
  local current, previous, used
  if ARGV[a + 2] == 'lease' then
    redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
    current, previous = redis.call('ZCARD', KEYS[i]), 0
    used = current
  else
    current = tonumber(redis.call('GET', KEYS[i]) or 0)
    previous = tonumber(redis.call('GET', KEYS[i + 1]) or 0)
    used = current + previous * tonumber(ARGV[a + 2])
  end
  if used + tonumber(ARGV[a]) > tonumber(ARGV[a + 1]) then granted = false end
  answer[#answer + 1], answer[#answer + 2] = current, previous
end
if not granted then
  answer[1] = 0
  return answer
end
for i = 1, #KEYS, 2 do
  local a = 2 * i + 2
  if ARGV[a + 2] == 'lease' then
    redis.call('ZADD', KEYS[i], until_ms, lease)
  else
    redis.call('INCRBY', KEYS[i], ARGV[a])
  end
  redis.call('PEXPIRE', KEYS[i], ARGV[a + 3])
end
return answer
"""

# KEYS: one for each charge. ARGV: lease; for each charge its amount, or 'lease' to end that.
_CORRECT: Final = """
for i, key in ipairs(KEYS) do
  if ARGV[i + 1] == 'lease' then
    redis.call('ZREM', key, ARGV[1])
  elseif redis.call('EXISTS', key) == 1 then
    redis.call('INCRBY', key, ARGV[i + 1])
  end
end
"""


class RedisCounters:
    """Counts that all processes share; each `take` and `correct` is one script.

    Raises (from `take`):
        StoreDown: nobody knows whether it was taken.
    """

    def __init__(self, store: Store, lease_s: float) -> None:
        self._store = store
        self.lease_s = lease_s
        """After so many seconds a place in flight is given back, whatever happened."""
        self._correcting: set[asyncio.Task[None]] = set()

    async def take(self, charges: Sequence[Charge], now: float, lease: str) -> ReserveResult:
        keys: list[str] = []
        lease_ms = math.ceil(self.lease_s * 1000)
        arguments: list[str | int | float] = [int(now * 1000), lease, lease_ms]
        for charge in charges:
            limit = charge.limit
            arguments += (charge.amount, limit.maximum)
            if limit.window_s:
                window = _window(limit, now)
                keys += (f"{charge.key}:{window}", f"{charge.key}:{window - 1}")
                # All digits, so that script and `Limit.used` agree to the last.
                arguments += (repr(limit.previous_share(now)), limit.window_s * 2000)
            else:
                keys += (charge.key, charge.key)
                arguments += ("lease", lease_ms)
        return await self._store.run(_TAKE, keys, arguments, partial(_taken, len(charges)))

    def correct(self, charges: Sequence[Charge], now: float, lease: str) -> None:
        """Send the correction on its way; a settlement waits for nobody."""
        task = asyncio.create_task(self._correct(charges, now, lease))
        self._correcting.add(task)
        task.add_done_callback(self._correcting.discard)

    async def aclose(self) -> None:
        """Wait for what is on its way."""
        await asyncio.gather(*self._correcting)

    async def _correct(self, charges: Sequence[Charge], now: float, lease: str) -> None:
        keys, amounts = [], []
        for charge in charges:
            timed = charge.limit.window_s > 0
            keys.append(f"{charge.key}:{_window(charge.limit, now)}" if timed else charge.key)
            amounts.append(charge.amount if timed else "lease")
        with suppress(StoreDown):  # then the reservation stays charged: rather too much
            await self._store.run(_CORRECT, keys, [lease, *amounts], bool)


def _taken(charges: int, reply: list[int]) -> ReserveResult:
    granted, *numbers = reply
    counts = [Count(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    if len(counts) != charges:
        raise ValueError
    return ReserveResult(granted == 1, counts)
