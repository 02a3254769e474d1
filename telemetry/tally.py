"""What many calls have in common: counts, and how long they took.

Times are counted in buckets that grow by 2 ** (1/8):

    bucket n holds 2 ** (n/8) to 2 ** ((n+1)/8) seconds, so its middle is at most 4.5% off

Rules of this module:

- Amounts are whole numbers, so that what was added can be taken away to the last.
- Whoever counts sees to it that there are few names.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

_STEPS: Final = 8
"""Buckets for each doubling."""
_LEAST_S: Final = 1e-6

K = TypeVar("K")


class Percentiles(NamedTuple):
    """Of so many times, in seconds; None of none."""

    measured: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Times(Counter[int]):
    """How many times fell into each bucket."""

    def note(self, seconds: float) -> None:
        self[math.floor(_STEPS * math.log2(max(seconds, _LEAST_S)))] += 1

    def percentiles(self) -> Percentiles:
        """By nearest rank, at the middle of the bucket."""
        count = self.total()
        ranks = [math.ceil(count * share) for share in (0.5, 0.95, 0.99)] if count else []
        found: list[float] = []
        seen = 0
        for bucket in sorted(self):
            seen += self[bucket]
            while len(found) < len(ranks) and ranks[len(found)] <= seen:
                found.append(2 ** ((bucket + 0.5) / _STEPS))
        return Percentiles(count, *found)


@dataclass(slots=True)
class Tally:
    """Counts of calls."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By what kind of thing, which one, and what of it."""
    latency: Times = field(default_factory=Times)
    first_token: Times = field(default_factory=Times)

    def of(self, kind: str, name: str, what: str = "calls") -> int:
        """One count; 0 of what never was."""
        return self.counts[kind, name, what]

    def all_of(self, kind: str) -> list[tuple[str, str, int]]:
        """The counts of a kind: which one, what of it, how many."""
        return [(name, what, n) for (each, name, what), n in self.counts.items() if each == kind]

    def add(self, other: "Tally") -> None:
        self.counts.update(other.counts)
        self.latency.update(other.latency)
        self.first_token.update(other.first_token)

    def take_away(self, other: "Tally") -> None:
        """Undo an `add`; what comes to nothing is forgotten."""
        _take_away(self.counts, other.counts)
        _take_away(self.latency, other.latency)
        _take_away(self.first_token, other.first_token)


def _take_away(counter: Counter[K], other: Counter[K]) -> None:
    for key, amount in other.items():
        counter[key] -= amount
        if not counter[key]:
            del counter[key]
