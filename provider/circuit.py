"""The circuit breaker: stop calling a provider that is down, and notice when it is back.

    closed ──failure rate over the window──► open ──open_s x n──► half-open ──probe ok──► closed
                                              ▲                        │
                                              └──────probe failed──────┘

Rules of this module:

- Every attempt runs inside `begin()`. `CallError.unhealthy` counts as a failure, a normal
  end as a success, and everything else (a refused prompt, a 429, a client that left) as
  neither, for it says nothing about the provider's health.
- It opens on a failure of its own and at a bad rate of its own only. Where its own attempts are
  too few, those of other processes are added: see provider/shared_circuit.py.
- Half-open lets one probe through at a time; one that takes long no longer excludes the next,
  and a neutral one gives its place back.
- A result that began in an earlier state is stale and changes nothing.
- Time is the injected clock; there is no background task.
"""

import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import inf
from typing import Final, Literal, NamedTuple

from config import CircuitConfig
from errors import CallError

log: Final = logging.getLogger("sluice.circuit")

PROBE_S: Final = 5.0
"""How long a probe that has not ended excludes others."""
_REFUSED_S: Final = 1.0


class Tally(NamedTuple):
    """What has been counted."""

    attempts: int = 0
    failures: int = 0

    def plus(self, other: "Tally") -> "Tally":
        return Tally(self.attempts + other.attempts, self.failures + other.failures)


@dataclass(slots=True)
class State:
    """Where a circuit stands. Times are seconds on its clock."""

    since: float = -inf
    """The last change between closed and open."""
    generation: int = 0
    """Grows with every change between closed and open."""
    openings: int = 0
    """Openings in a row; 0 while closed."""
    open_until: float = 0.0
    probe_at: float = 0.0
    """When a probe may begin, as far as this process knows."""


class Circuit:
    """The breaker of one provider.

    Args:
        provider: its name.
        clock: seconds on a monotonic clock.
    """

    def __init__(self, provider: str, config: CircuitConfig, clock: Callable[[], float]) -> None:
        self.config = config
        self._provider = provider
        self._clock = clock
        self._state = State()
        self._window: deque[tuple[int, Tally]] = deque()  # by the second
        self._uncollected = Tally()
        self.collected = Tally()
        """What all processes have counted since the last change here, a second ago at most."""
        self.lease: Callable[[], Awaitable[Callable[[], None] | None]] = _unshared
        """Makes this process the one that probes: what ends that, or None where another is."""

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        if not self._state.openings:
            return "closed"
        return "open" if self._clock() < self._state.open_until else "half_open"

    @property
    def open_for_s(self) -> float:
        """Seconds until a probe is let through; 0 unless open."""
        return max(0.0, self._state.open_until - self._clock()) if self._state.openings else 0.0

    @property
    def generation(self) -> int:
        return self._state.generation

    @property
    def unchanged_for_s(self) -> float:
        """Seconds since it was last opened or closed; infinite if it never was."""
        return self._clock() - self._state.since

    async def begin(self) -> AbstractContextManager[int]:
        """Guard the attempt inside; gives its generation, for `record_late_failure`.

        Raises:
            CallError: `circuit_open`, with the seconds until the next probe.
        """
        generation = self._state.generation
        place = await self._probe() if self._state.openings else nullcontext()
        return self._attempt(generation, place)

    def record_late_failure(self, generation: int) -> None:
        """A stream that had begun well, and was counted so, broke: turn that into a failure."""
        if generation == self._state.generation:
            self._count(Tally(attempts=0, failures=1))

    def apart(self) -> "Circuit":
        """A new one that never opens, and does not count here."""
        return Circuit(self._provider, replace(self.config, min_calls=sys.maxsize), self._clock)

    def reset(self) -> None:
        """Forget all."""
        if self._state.openings:
            log.info("circuit_closed", extra={"provider": self._provider})
        self._uncollected = Tally()
        self._change(openings=0, wait_s=0.0)

    def collect(self) -> Tally:
        """What was counted here since this was last called."""
        counted, self._uncollected = self._uncollected, Tally()
        return counted

    @contextmanager
    def _attempt(self, generation: int, place: AbstractContextManager[object]) -> Iterator[int]:
        with place:
            try:
                yield generation
            except CallError as error:
                if error.unhealthy:
                    self._failed(generation)
                raise
            else:
                self._succeeded(generation)

    async def _probe(self) -> AbstractContextManager[object]:
        """The place of the one probe, given back at its end.

        Raises:
            CallError: `circuit_open`, it is not free.
        """
        state, now = self._state, self._clock()
        if now < state.probe_at:
            raise self._refusal()
        state.probe_at = ours = now + PROBE_S

        def free() -> None:
            if state.probe_at == ours:
                state.probe_at = self._clock()

        with ExitStack() as place:
            place.callback(free)
            give_back = await self.lease()
            if give_back is None:
                state.probe_at = self._clock() + _REFUSED_S
                raise self._refusal()
            place.callback(give_back)
            return place.pop_all()

    def _refusal(self) -> CallError:
        return CallError("circuit_open", retry_after_s=max(1.0, self.open_for_s))

    def _failed(self, generation: int) -> None:
        if generation != self._state.generation:
            return
        if self._state.openings:
            self._open()
        else:
            self._count(Tally(attempts=1, failures=1))

    def _succeeded(self, generation: int) -> None:
        if generation != self._state.generation:
            return
        if self._state.openings:
            self.reset()
        else:
            self._count(Tally(attempts=1))

    def _open(self) -> None:
        openings = self._state.openings + 1
        if openings == 1:
            log.warning("circuit_opened", extra={"provider": self._provider})
        self._change(openings, min(self.config.open_s * openings, self.config.open_max_s))

    def _change(self, openings: int, wait_s: float) -> None:
        now = self._clock()
        self._state = State(
            now,
            self._state.generation + 1,
            openings,
            open_until=now + wait_s,
            probe_at=now + wait_s,
        )
        self._window.clear()
        self.collected = Tally()

    def _count(self, counted: Tally) -> None:
        """Add to the window, and open if it is too bad."""
        second = int(self._clock())
        while self._window and self._window[0][0] <= second - self.config.window_s:
            self._window.popleft()
        if not self._window or self._window[-1][0] != second:
            self._window.append((second, Tally()))
        self._window[-1] = (second, self._window[-1][1].plus(counted))
        self._uncollected = self._uncollected.plus(counted)
        if counted.failures and self._is_bad():
            self._open()

    def _is_bad(self) -> bool:
        rate, least = self.config.failure_rate, self.config.min_calls
        own, everyone = Tally(), self.collected
        for _, counted in self._window:
            own = own.plus(counted)
        return own.failures >= rate * own.attempts and (
            own.attempts >= least
            or (everyone.attempts >= least and everyone.failures >= rate * everyone.attempts)
        )


async def _unshared() -> Callable[[], None]:
    """The lease where there are no other processes."""
    return lambda: None
