"""What the circuits of all processes share through the store: their counts, and the probe.

    every second     add what was counted here, read what all have counted
    a call probes    take the lease ──► the attempt ──► give it back

Rules of this module:

- Counts are shared, never a verdict: a process that reaches nothing shuts itself alone.
- The lease is taken by a call that is about to probe, and kept no longer than that takes, for a
  process without calls, or without a network, must not keep the others from probing.
- While the store is down each process is on its own, its probes too.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from provider.circuit import PROBE_S, Circuit, Tally
from store.redis import Store, StoreDown

log: Final = logging.getLogger("sluice.circuit")

_STEP_S: Final = 1.0
_BUCKETS: Final = 10

# One hash: a1764052800000 and f1764052800000 are the attempts and failures of the bucket that
# began at that millisecond. A bucket that began before `since` is not counted: it is older than
# the window, or holds what came before the last change.
# ARGV: attempts, failures, and in milliseconds: how long ago `since` was, the window, a bucket.
_STEP: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window = tonumber(ARGV[4])
if ARGV[1] ~= '0' or ARGV[2] ~= '0' then
  local bucket = string.format('%.0f', now - now % ARGV[5])
  redis.call('HINCRBY', KEYS[1], 'a' .. bucket, ARGV[1])
  redis.call('HINCRBY', KEYS[1], 'f' .. bucket, ARGV[2])
  redis.call('PEXPIRE', KEYS[1], 2 * window)
end
local since = now - ARGV[3]
local sum = {a = 0, f = 0}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local kind, began = string.sub(fields[i], 1, 1), tonumber(string.sub(fields[i], 2))
  if began >= since then
    sum[kind] = sum[kind] + fields[i + 1]
  elseif began < now - window then
    redis.call('HDEL', KEYS[1], fields[i])
  end
end
return {sum.a, sum.f}
"""
_TAKE: Final = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0"
_GIVE_BACK: Final = """
return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0
"""


async def share(
    circuits: Callable[[], Mapping[str, Circuit]],
    store: Store,
    *,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Keep the circuits that there are, by provider, in touch with the others, for ever."""
    shared: dict[str, SharedCircuit] = {}
    while True:
        for name, circuit in circuits().items():
            if name not in shared:
                shared[name] = SharedCircuit(name, circuit, store)
            try:
                await shared[name].step()
            except Exception as error:  # this task must not end before the process does
                log.error("circuit_not_shared", exc_info=error)
        await sleep(_STEP_S)


class SharedCircuit:
    """Ties one process's circuit of a provider to those of the others."""

    def __init__(self, provider: str, circuit: Circuit, store: Store) -> None:
        self._counts = f"circuit:{provider}:counts"
        self._probe = f"circuit:{provider}:probe"
        self._circuit = circuit
        self._store = store
        self._ending: set[asyncio.Task[None]] = set()
        circuit.lease = self._lease

    async def step(self) -> None:
        """Add what was counted here, and learn the sum."""
        circuit = self._circuit
        generation, window_s = circuit.generation, circuit.config.window_s
        age_s, bucket_s = min(window_s, circuit.unchanged_for_s), window_s / _BUCKETS
        try:
            collected = await self._store.run(
                _STEP,
                [self._counts],
                [*circuit.collect(), *(int(each * 1000) for each in (age_s, window_s, bucket_s))],
                Tally._make,
            )
        except StoreDown:
            collected = Tally()
        if circuit.generation == generation:
            circuit.collected = collected

    async def _lease(self) -> Callable[[], None] | None:
        """See `Circuit.lease`."""
        token = uuid.uuid4().hex
        try:
            granted = await self._store.run(
                _TAKE, [self._probe], [token, int(PROBE_S * 1000)], bool
            )
        except StoreDown:
            granted = True
        return partial(self._end, token) if granted else None

    def _end(self, token: str) -> None:
        ending = asyncio.create_task(self._give_back(token))  # no call waits for that
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _give_back(self, token: str) -> None:
        with suppress(StoreDown):  # then it ends by itself
            await self._store.run(_GIVE_BACK, [self._probe], [token])
