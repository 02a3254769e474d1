"""The circuit breakers of all processes, kept in step through the store.

    every second:   ours newer? ──► write it       theirs newer? ──► adopt it
                    half-open?  ──► one process holds the probe, on a lease

Rules of this module:

- Newer is the higher generation, compared in one script; of two the same, the first stays.
- Each process counts its own window: one that sees the provider fail warns all others.
- While the store is down, each process is on its own, its probes too.
"""

import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from provider.circuit import Circuit
from store.redis import Store, StoreDown

log: Final = logging.getLogger("sluice.circuit")

_STEP_S: Final = 1.0
_KEEP_MS: Final = 86_400_000
# Outlasts two steps, so that the holder keeps it and a dead one's is soon free.
_LEASE_MS: Final = 2_500

# KEYS: the state, the lease. ARGV: generation, openings, ms left open, name, lease_ms, keep_ms.
_STEP: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HMGET', KEYS[1], 'generation', 'openings', 'until')
if tonumber(ARGV[1]) > tonumber(state[1] or -1) then
  state = {ARGV[1], ARGV[2], now + ARGV[3]}
  redis.call('HSET', KEYS[1], 'generation', state[1], 'openings', state[2], 'until', state[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
end
local left, mine = math.max(0, state[3] - now), 0
if tonumber(state[2]) > 0 and left == 0 then
  redis.call('SET', KEYS[2], ARGV[4], 'NX', 'PX', ARGV[5])
  if redis.call('GET', KEYS[2]) == ARGV[4] then
    redis.call('PEXPIRE', KEYS[2], ARGV[5])
    mine = 1
  end
end
return {tonumber(state[1]), tonumber(state[2]), left, mine}
"""


async def share(
    circuits: Callable[[], Mapping[str, Circuit]],
    store: Store,
    *,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Keep the circuits that there are, by provider, in step with those of the others, for ever."""
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
    """Keeps one process's circuit of a provider in step with those of the others."""

    def __init__(self, provider: str, circuit: Circuit, store: Store) -> None:
        self._keys = [f"circuit:{provider}", f"circuit:{provider}:probe"]
        self._circuit = circuit
        self._store = store
        self._name = uuid.uuid4().hex

    async def step(self) -> None:
        """Tell the others what we know, and learn what they do."""
        circuit = self._circuit
        left_ms = int(circuit.open_for_s * 1000)
        try:
            state: list[int] = await self._store.run(
                _STEP,
                self._keys,
                [circuit.generation, circuit.openings, left_ms, self._name, _LEASE_MS, _KEEP_MS],
            )
        except StoreDown:
            circuit.may_probe = True
            return
        generation, openings, left_ms, mine = state
        circuit.adopt(generation, openings, left_ms / 1000)
        circuit.may_probe = mine == 1
