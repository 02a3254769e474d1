"""The last calls, each with its timeline, for the operator to look at.

Rules of this module:

- A record has no field for a prompt or an answer, and keeps no reference to the call.
- The finish reason is the provider's own word, so only the known ones are kept.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from call import Call
from telemetry.settlement import Settled

KEPT: Final = 200


class RecentAttempt(NamedTuple):
    """One attempt; seconds count from the call's start."""

    provider: str
    model: str
    began_s: float
    took_s: float
    reason: str | None
    """Why it failed."""


class RecentCall(NamedTuple):
    """One call that has ended; seconds count from its start."""

    number: int
    """Counts the calls of this server."""
    request_id: str
    ended_at: float
    """Seconds since the epoch."""
    route: str
    model: str
    caller: str
    stream: bool
    status: int
    code: str
    reason: str | None
    latency_s: float
    first_token_s: float | None
    attempts: tuple[RecentAttempt, ...]
    prompt_tokens: int
    answer_tokens: int
    counted_by: str | None
    usd: float | None
    finish_reason: str | None
    cut: bool
    replayed: bool
    redactions: int
    """How many values were replaced."""
    provider_request_id: str | None


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

    def add(self, settled: Settled) -> None:
        """Keep what is known of this call: a sink of the settlement."""
        call = settled.call
        self.last += 1
        self._calls.append(
            RecentCall(
                number=self.last,
                request_id=call.request_id,
                ended_at=self._wall_clock(),
                route=call.route,
                model=call.model,
                caller=call.caller.name,
                stream=call.stream,
                status=settled.status,
                code=settled.code,
                reason=settled.reason,
                latency_s=settled.latency_s,
                first_token_s=settled.first_token_s,
                attempts=_attempts(call, settled.at),
                prompt_tokens=settled.prompt_tokens,
                answer_tokens=settled.answer_tokens,
                counted_by=settled.counted_by,
                usd=settled.usd,
                finish_reason=call.finish_reason,
                cut=call.cut,
                replayed=call.replayed,
                redactions=sum(call.redactions.values()),
                provider_request_id=call.provider_request_id,
            )
        )

    def after(self, number: int) -> list[RecentCall]:
        """The calls that came after this one, oldest first."""
        return [call for call in self._calls if call.number > number]


def _attempts(call: Call, now: float) -> tuple[RecentAttempt, ...]:
    return tuple(
        RecentAttempt(
            provider=attempt.target.provider,
            model=attempt.target.model,
            began_s=attempt.began - call.started,
            took_s=(now if attempt.ended is None else attempt.ended) - attempt.began,
            reason=attempt.reason,
        )
        for attempt in call.timeline
    )
