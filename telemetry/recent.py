"""The last calls, each with its timeline, for the operator to look at."""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from telemetry.call_result import CallFacts, CallResult

KEPT: Final = 200


class RecentCall(NamedTuple):
    """One call that has ended."""

    number: int
    """Counts the calls of this server."""
    ended_at: float
    """Seconds since the epoch."""
    facts: CallFacts


class RecentCalls:
    """
    Args:
        wall_clock: seconds since the epoch.
    """

    def __init__(self, *, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._calls: deque[RecentCall] = deque(maxlen=KEPT)
        self.last = 0
        """Number of the last call."""

    def add(self, result: CallResult) -> None:
        """Keep what is known of this call: a sink of the settlement."""
        self.last += 1
        self._calls.append(RecentCall(self.last, self._wall_clock(), result.facts))

    def after(self, number: int) -> list[RecentCall]:
        """The calls that came after this one, oldest first."""
        return [call for call in self._calls if call.number > number]
