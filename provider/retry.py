"""Retry: another attempt where it may help, fits the deadline, and stays within the budget.

The n-th retry waits, with full jitter,

    random() * min(backoff_max_s, backoff_s * 2 ** (n - 1))        seconds,

or, where the provider named a Retry-After, that long and the first step's jitter on top, so
that those told the same do not come back at the same instant.

Rules of this module:

- Only `CallError.transient` is tried again; everything else ends the call as it is.
- A wait after which less than `min_attempt_s` would be left is not begun: the call fails
  now, and Retry-After is passed on to the caller.
- The budget: at one time, at most `budget_ratio` of the calls in flight may be waiting for
  or making a retry, and never fewer than `budget_min`. An outage of the provider thus adds
  a fifth of load and not twice as much (Envoy's rule and figures).
- A circuit that opens in the meantime ends the call with the failure that was seen, not with
  `circuit_open`: this call has tried.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from call import Call
from config import RetryConfig
from errors import CallError
from provider.circuit import Circuit

T = TypeVar("T")


class Retry:
    """Runs attempts until one succeeds or the rules say stop.

    Args:
        clock: seconds on the event loop's clock, the one of `Call.deadline`.
        sleep: coroutine function that waits so many seconds.
        random: a number from 0 to 1, uniformly.
    """

    def __init__(
        self,
        config: RetryConfig,
        circuit: Circuit,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        self._config = config
        self._circuit = circuit
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self.calls_in_flight = 0
        self.retries_in_flight = 0

    async def run(self, call: Call, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the first attempt that succeeds.

        Raises:
            CallError: of the last attempt; `deadline_exceeded` where that one timed out.
        """
        self.calls_in_flight += 1
        retrying = False
        try:
            while True:
                call.attempts += 1
                try:
                    return await attempt()
                except CallError as error:
                    failure = error
                if failure.code == "circuit_open":
                    call.attempts -= 1  # nothing was sent
                    raise failure
                wait_s = self._wait_s(call, failure)
                if wait_s is None or not (retrying or self._budget_allows()):
                    raise failure
                if not retrying:
                    retrying = True
                    self.retries_in_flight += 1
                await self._sleep(wait_s)
                if self._circuit.state == "open":
                    raise failure
        finally:
            self.calls_in_flight -= 1
            self.retries_in_flight -= retrying

    def _wait_s(self, call: Call, failure: CallError) -> float | None:
        """Seconds before the next attempt, or None where there must not be one."""
        config = self._config
        if not failure.transient or call.attempts >= config.max_attempts:
            return None
        if self._circuit.state == "open":
            return None
        if failure.retry_after_s is None:
            step_s = config.backoff_s * 2 ** (call.attempts - 1)
            wait_s = self._random() * min(config.backoff_max_s, step_s)
        else:
            wait_s = failure.retry_after_s + self._random() * config.backoff_s
        left_s = call.deadline - self._clock()
        return wait_s if wait_s + config.min_attempt_s <= left_s else None

    def _budget_allows(self) -> bool:
        allowed = max(self._config.budget_min, self._config.budget_ratio * self.calls_in_flight)
        return self.retries_in_flight + 1 <= allowed
