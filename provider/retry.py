"""Retry: another attempt where it may help, fits the deadline, and stays within the budget.

    first round   every provider of the model in its order, at once, until one answers
    afterwards    those whose failure may pass, the soonest first, each after a wait

The n-th wait is, with full jitter,

    random() * min(backoff_max_s, backoff_s * 2 ** (n - 1))        seconds,

or, where the provider named a Retry-After, that long and the first step's jitter on top, so
that those told the same do not come back at the same instant.

Rules of this module:

- Only `CallError.transient` is tried again at the same provider; a refused prompt is refused
  by all of them.
- While others are still to be asked, an attempt has its share of the time that is left.
- A wait after which less than `min_attempt_s` would be left is not begun: the call fails
  now, and Retry-After is passed on to the caller.
- The budget: at one time, at most `budget_ratio` of the calls in flight may be waiting for
  or making a retry, and never fewer than `budget_min`. An outage of the provider thus adds
  a fifth of load and not twice as much (Envoy's rule and figures).
- A circuit that opens in the meantime ends the call with the failure that was seen, not with
  `circuit_open`: this call has tried.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from operator import itemgetter
from typing import TypeVar

from call import Attempt, Call
from config import RetryConfig, Target
from errors import CallError
from provider.circuit import Circuit
from trace_context import new_span_id

T = TypeVar("T")


class Retry:
    """Runs attempts until one succeeds or the rules say stop.

    Args:
        circuits: by the provider's name.
        clock: seconds on the event loop's clock, the one of `Call.deadline`.
        sleep: coroutine function that waits so many seconds.
        random: a number from 0 to 1, uniformly.
    """

    def __init__(
        self,
        config: RetryConfig,
        circuits: Mapping[str, Circuit],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        self._config = config
        self.circuits = circuits
        """Those of all providers that there are, or were."""
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self.calls_in_flight = 0
        self.retries_in_flight = 0
        self.denied = 0
        """Retries that the budget did not allow."""

    def reconfigure(self, config: RetryConfig, circuits: Mapping[str, Circuit]) -> None:
        """These from now on; calls in flight may yet come back to providers that are gone."""
        self._config = config
        self.circuits = {**self.circuits, **circuits}

    async def run(
        self,
        call: Call,
        targets: Sequence[Target],
        attempt: Callable[[Target, float], Awaitable[T]],
    ) -> T:
        """The result of the first attempt that succeeds.

        Args:
            attempt: asks a target, and takes so many seconds at most.

        Raises:
            CallError: of the last attempt, if possible of one that may pass;
                `deadline_exceeded` where that one timed out.
        """
        self.calls_in_flight += 1
        retrying = False
        untried = deque(targets)
        retryable: dict[Target, CallError] = {}
        """Whose failure may pass."""
        outcome: CallError | None = None
        try:
            while True:
                target = untried.popleft()
                try:
                    return await self._attempt(call, target, len(untried), attempt)
                except CallError as error:
                    failure = error
                if failure.code == "prompt_rejected":
                    raise failure
                retryable.pop(target, None)
                if failure.transient:
                    retryable[target] = failure
                outcome = _more_informative(outcome, failure)
                if untried and self._time_left(call, 0):
                    continue
                wait_s, again = self._next(call, retryable)
                if again is None or not (retrying or self._budget_allows()):
                    raise outcome
                if not retrying:
                    retrying = True
                    self.retries_in_flight += 1
                await self._sleep(wait_s)
                if self._is_open(again):
                    raise outcome
                untried.append(again)
        finally:
            self.calls_in_flight -= 1
            self.retries_in_flight -= retrying

    @property
    def budget_left(self) -> float:
        """How many calls more may go into retries now."""
        allowed = max(self._config.budget_min, self._config.budget_ratio * self.calls_in_flight)
        return allowed - self.retries_in_flight

    async def _attempt(
        self,
        call: Call,
        target: Target,
        others: int,
        attempt: Callable[[Target, float], Awaitable[T]],
    ) -> T:
        made = Attempt(target, self._clock(), span_id=new_span_id() if call.trace else "")
        call.timeline.append(made)
        share_s = (call.deadline - self._clock()) / (others + 1) if others else inf
        try:
            return await attempt(target, share_s)
        except CallError as failure:
            made.reason = failure.reason
            if failure.unbilled and made.state == "sent":
                made.state = "refused"
            if failure.code == "circuit_open":  # nothing was sent
                call.skipped.append(call.timeline.pop())
            raise
        except asyncio.CancelledError:
            made.reason = "cancelled"
            raise
        finally:
            made.ended = self._clock()

    def _next(
        self, call: Call, retryable: Mapping[Target, CallError]
    ) -> tuple[float, Target | None]:
        """Who may be asked again, and after how many seconds."""
        if call.attempts >= self._config.max_attempts:
            return inf, None
        waits = [
            (self._wait_s(call, failure), target)
            for target, failure in retryable.items()
            if not self._is_open(target)
        ]
        wait_s, target = min(waits, key=itemgetter(0), default=(inf, None))
        return (wait_s, target) if self._time_left(call, wait_s) else (inf, None)

    def _wait_s(self, call: Call, failure: CallError) -> float:
        config = self._config
        if failure.retry_after_s is not None:
            return failure.retry_after_s + self._random() * config.backoff_s
        step_s: float = config.backoff_s * 2 ** (call.attempts - 1)
        return self._random() * min(config.backoff_max_s, step_s)

    def _time_left(self, call: Call, wait_s: float) -> bool:
        """Whether after this wait there is time for an attempt."""
        return wait_s + self._config.min_attempt_s <= call.deadline - self._clock()

    def _is_open(self, target: Target) -> bool:
        return self.circuits[target.provider].state == "open"

    def _budget_allows(self) -> bool:
        allows = self.budget_left >= 1
        self.denied += not allows
        return allows


def _more_informative(earlier: CallError | None, later: CallError) -> CallError:
    """Which of two failures the caller is told: one that was met rather than a circuit, one that
    may pass rather than one that will not, else the later; of two circuits the sooner."""

    def weight(failure: CallError) -> tuple[bool, bool, float]:
        is_open = failure.code == "circuit_open"
        return not is_open, failure.transient, -(failure.retry_after_s or 0) if is_open else 0

    return later if earlier is None or weight(later) >= weight(earlier) else earlier
