"""The rolling window: what the last quarter of an hour, the last hour and today were like.

    settlement ──► Window.add ──► the open slot ──every 15 s──► the total of each span
                                                                    │ a slot that leaves
                                                                    └──► is taken away again

Rules of this module:

- A call counts once, in the open slot. Totals change when a slot closes, so that a look at them
  costs the same after ten calls and after a million.
- Memory is bounded: routes, models, providers, codes and reasons are named by us or by the
  configuration; of the callers those beyond `MAX_CALLERS` share one name.
- Slots follow the event loop's clock; today begins with the first slot after midnight UTC.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from telemetry.call_result import CallFacts, CallResult
from telemetry.tally import Percentiles, Tally

SLOT_S: Final = 15
SLOTS: Final = {"quarter": 60, "hour": 240}
"""How many slots a span has."""
_RATE_SLOTS: Final = 4
_DAY_S: Final = 86_400
MAX_CALLERS: Final = 100
"""Callers with a count of their own, today."""
OTHERS: Final = ""
"""The name that all further callers share; nobody else has it."""
NANO_USD: Final = 1_000_000_000


class Point(NamedTuple):
    """One slot on a chart."""

    number: int
    """Grows by one with each slot; those without calls have no point."""
    completed: int
    client_errors: int
    """Outcomes from 400 to 499."""
    server_errors: int
    """Outcomes from 500 on."""
    latency: Percentiles


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the window holds now."""

    now: float
    """Seconds since the epoch."""
    uptime_s: float
    number: int
    """Of the open slot."""
    calls_per_s: float
    """Over the last minute."""
    points: list[Point]
    """Of the last hour, oldest first."""
    spans: dict[str, Tally]
    """quarter, hour and day."""


class _Span:
    """The total of the last so many slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._closed: deque[tuple[int, Tally]] = deque()
        self.total = Tally()

    def add(self, number: int, tally: Tally) -> None:
        self._closed.append((number, tally))
        self.total.add(tally)

    def expire(self, number: int) -> None:
        """Take away what is too old, now that slot `number` is open."""
        while self._closed and self._closed[0][0] <= number - self._slots:
            self.total.take_away(self._closed.popleft()[1])


class Window:
    """
    Args:
        clock: seconds on the event loop's clock.
        wall_clock: seconds since the epoch.
    """

    def __init__(self, *, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._began = clock()
        self.started_at = wall_clock()
        self._open = Tally()
        self._number = int(clock() // SLOT_S)
        self._spans = {name: _Span(slots) for name, slots in SLOTS.items()}
        self._points: deque[Point] = deque()
        self._day = Tally()
        self._day_number = self._today()
        self._callers: set[str] = set()

    def add(self, result: CallResult) -> None:
        """Count a call that has ended: a sink of the settlement."""
        self._turn()
        facts, counts = result.facts, self._open.counts
        counts["code", facts.code, "calls"] += 1
        counts["class", _class(facts), "calls"] += 1
        counts["route", facts.route, "calls"] += 1
        self._spend(facts, "caller", self._name(facts.caller))
        if facts.model:
            self._spend(facts, "model", facts.model)
        for number, attempt in enumerate(facts.timeline):
            counts["attempt", "retry" if number else "first", "calls"] += 1
            if attempt.reason is not None:
                counts["fault", attempt.provider, attempt.reason] += 1
        for kind, count in facts.redactions.items():
            counts["redaction", kind, "values"] += count
        if facts.limit is not None:
            counts["limit", facts.limit, "calls"] += 1
        if facts.is_timed:
            self._open.latency.note(facts.latency_s)
            if facts.first_token_s is not None:
                self._open.first_token.note(facts.first_token_s)

    def snapshot(self) -> Snapshot:
        """What the window holds now. Its tallies are the caller's own."""
        self._turn()
        spans = {}
        for name, closed in (*((n, s.total) for n, s in self._spans.items()), ("day", self._day)):
            spans[name] = Tally()
            spans[name].add(closed)
            spans[name].add(self._open)
        points = list(self._points)
        if self._open.counts:
            points.append(_point(self._number, self._open))
        return Snapshot(
            now=self._wall_clock(),
            uptime_s=self._clock() - self._began,
            number=self._number,
            calls_per_s=self._calls_per_s(points),
            points=points,
            spans=spans,
        )

    def _calls_per_s(self, points: list[Point]) -> float:
        first = self._number - _RATE_SLOTS + 1
        calls = sum(sum(point[1:4]) for point in points if point.number >= first)
        seconds = min(self._clock() - first * SLOT_S, self._clock() - self._began)
        return calls / max(seconds, 1.0)

    def _spend(self, facts: CallFacts, kind: str, name: str) -> None:
        counts = self._open.counts
        counts[kind, name, "calls"] += 1
        if facts.status >= 500:
            counts[kind, name, "server_errors"] += 1
        if facts.counted_by is not None:
            counts[kind, name, "prompt_tokens"] += facts.charged_prompt_tokens
            counts[kind, name, "answer_tokens"] += facts.charged_answer_tokens
            if facts.cost_usd is None:
                counts[kind, name, "unpriced"] += 1
            else:
                counts[kind, name, "nano_usd"] += round(facts.cost_usd * NANO_USD)

    def _name(self, caller: str) -> str:
        if caller not in self._callers:
            if len(self._callers) >= MAX_CALLERS:
                return OTHERS
            self._callers.add(caller)
        return caller

    def _turn(self) -> None:
        """Close the open slot if its time is over, and let go of what is too old."""
        number = int(self._clock() // SLOT_S)
        if number == self._number:
            return
        if self._open.counts:
            self._points.append(_point(self._number, self._open))
            for span in self._spans.values():
                span.add(self._number, self._open)
            self._day.add(self._open)
            self._open = Tally()
        self._number = number
        for span in self._spans.values():
            span.expire(number)
        while self._points and self._points[0].number <= number - SLOTS["hour"]:
            self._points.popleft()
        if self._day_number != self._today():
            self._day_number = self._today()
            self._day = Tally()
            self._callers = {name for name, _, _ in self._spans["hour"].total.all_of("caller")}

    def _today(self) -> int:
        return int(self._wall_clock() // _DAY_S)


def _class(facts: CallFacts) -> str:
    if facts.code == "completed":
        return "completed"
    return "server_errors" if facts.status >= 500 else "client_errors"


def _point(number: int, tally: Tally) -> Point:
    completed, client_errors, server_errors = (
        tally.of("class", name) for name in ("completed", "client_errors", "server_errors")
    )
    return Point(number, completed, client_errors, server_errors, tally.latency.percentiles())
