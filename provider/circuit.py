"""The circuit breaker: stop calling a provider that is down, and notice when it is back.

    closed ──failure rate over the window──► open ──open_s x n──► half-open ──probe ok──► closed
                                              ▲                        │
                                              └──────probe failed──────┘

Rules of this module:

- Every attempt runs inside `attempt()`. `CallError.unhealthy` counts as a failure, a normal
  end as a success, and everything else (a refused prompt, a 429, a client that left) as
  neither, for it says nothing about the provider's health.
- Half-open lets one probe through at a time; a neutral probe gives its place back.
- A result that began in an earlier state is stale and changes nothing.
- Time is the injected clock; there is no background task. What other processes should know
  is in `State`; provider/shared_circuit.py tells them.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from config import CircuitConfig
from errors import CallError


@dataclass(slots=True)
class State:
    """What a circuit knows, its window apart."""

    generation: int = 0
    """Grows with every change between closed and open."""
    openings: int = 0
    """Openings in a row; 0 while closed."""
    open_until: float = 0.0
    """Seconds on the circuit's clock."""
    probing: bool = False


class Circuit:
    """The breaker of one provider.

    Args:
        clock: seconds on a monotonic clock.
    """

    def __init__(self, config: CircuitConfig, clock: Callable[[], float]) -> None:
        self.config = config
        self._clock = clock
        self._state = State()
        self.may_probe = True
        """Whether the probe of a half-open circuit is ours to make."""
        self._window: deque[list[int]] = deque()  # [second, attempts, failures]

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        if not self._state.openings:
            return "closed"
        return "open" if self._clock() < self._state.open_until else "half_open"

    @property
    def open_for_s(self) -> float:
        """Seconds until a probe is let through; 0 unless open."""
        return max(0.0, self._state.open_until - self._clock()) if self._state.openings else 0.0

    @contextmanager
    def attempt(self) -> Iterator[int]:
        """Guard one attempt; yields its generation, for a `broke` that comes later.

        Raises:
            CallError: `circuit_open`, with the seconds until the next probe.
        """
        probe = self.state == "half_open"
        if self.state == "open" or (probe and (self._state.probing or not self.may_probe)):
            raise CallError("circuit_open", retry_after_s=max(1.0, self.open_for_s))
        generation = self._state.generation
        self._state.probing = probe
        try:
            yield generation
        except CallError as error:
            if error.unhealthy:
                self._failed(generation)
            raise
        else:
            self._succeeded(generation)
        finally:
            if probe:
                self._state.probing = False

    def broke(self, generation: int) -> None:
        """A stream that had begun well, and was counted so, broke: turn that into a failure."""
        if generation == self._state.generation:
            self._count(attempts=0, failures=1)

    @property
    def generation(self) -> int:
        return self._state.generation

    @property
    def openings(self) -> int:
        """Openings in a row; 0 while closed."""
        return self._state.openings

    def apart(self) -> "Circuit":
        """A new one with the same settings, which neither learns from this one nor tells it."""
        return Circuit(self.config, self._clock)

    def reset(self) -> None:
        """Forget all: it is another provider that is meant from now on."""
        self._state = State(generation=self._state.generation + 1)
        self._window.clear()

    def adopt(self, generation: int, openings: int, open_for_s: float) -> None:
        """Take over what another process has found out, if it is news."""
        if generation > self._state.generation:
            self._state = State(generation, openings, self._clock() + open_for_s)
            self._window.clear()

    def _failed(self, generation: int) -> None:
        if generation != self._state.generation:
            return
        if self._state.openings:
            self._open()
        else:
            self._count(attempts=1, failures=1)

    def _succeeded(self, generation: int) -> None:
        if generation != self._state.generation:
            return
        if self._state.openings:
            self.reset()
        else:
            self._count(attempts=1, failures=0)

    def _open(self) -> None:
        openings = self._state.openings + 1
        wait_s = min(self.config.open_s * openings, self.config.open_max_s)
        self._state = State(
            generation=self._state.generation + 1,
            openings=openings,
            open_until=self._clock() + wait_s,
        )
        self._window.clear()

    def _count(self, *, attempts: int, failures: int) -> None:
        """Add to the window, and open if it is too bad."""
        second = int(self._clock())
        while self._window and self._window[0][0] <= second - self.config.window_s:
            self._window.popleft()
        if not self._window or self._window[-1][0] != second:
            self._window.append([second, 0, 0])
        self._window[-1][1] += attempts
        self._window[-1][2] += failures
        if failures:
            attempts = sum(bucket[1] for bucket in self._window)
            failures = sum(bucket[2] for bucket in self._window)
            limit = self.config.failure_rate * attempts
            if attempts >= self.config.min_calls and failures >= limit:
                self._open()
