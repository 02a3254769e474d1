"""What is known of a call that has ended: computed here, once, for every sink.

    CallResult ─► facts ─► log line, metrics, window, recent calls, audit, trace

Rules of this module:

- Facts have one name and one unit: seconds, tokens, US dollars. A sink may spell them as its
  format wants (milliseconds, camel case); it computes none.
- Facts hold no prompt, no answer, and no reference to the call. The audit takes words from the
  call itself, where that is allowed.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, overload

from call import Attempt, Call, CountedBy
from errors import OUTCOMES, CallError

# A limit answers with these; the reason is then the limit's name.
_LIMITED: Final = frozenset(("rate_limited", "quota_exceeded", "prompt_too_long"))


class AttemptFacts(NamedTuple):
    """One attempt; seconds count from the call's start."""

    provider: str
    model: str
    """As the provider calls it."""
    began_s: float
    ended_s: float | None
    """None if it was running when the call ended."""
    took_s: float
    reason: str | None
    """Why it failed."""
    span_id: str


# A named tuple, for a frozen dataclass takes several times as long to make.
class CallFacts(NamedTuple):
    """Seconds count from the call's start."""

    request_id: str
    caller: str
    route: str
    model: str
    """As requests name it; empty where the call was refused before a model was chosen."""
    stream: bool
    max_tokens: int | None
    status: int
    """The outcome's, even if a stream had begun with another."""
    code: str
    reason: str | None
    """Why it failed, where that says more than the code."""
    latency_s: float
    first_token_s: float | None
    """To the first content of a stream."""
    timeline: tuple[AttemptFacts, ...]
    """The attempts that were made."""
    skipped: tuple[AttemptFacts, ...]
    """Those that were not, because the circuit was open."""
    prompt_tokens: int | None
    """The provider's count of the last attempt, as the two below."""
    completion_tokens: int | None
    cached_tokens: int | None
    output_tokens: int
    """Of the answer, thoughts included: the provider's count, else ours."""
    charged_prompt_tokens: int
    """Of all attempts that may be billed."""
    charged_answer_tokens: int
    counted_by: CountedBy | None
    """Whose count the charges are, of several the least certain; None where nothing is charged."""
    cost_usd: float | None
    """None where nobody knows the price, or nothing is charged."""
    redactions: dict[str, int]
    """How many values of each kind were replaced."""
    cut: bool
    replayed: bool
    recording: str | None
    finish_reason: str | None
    response_model: str | None
    provider_request_id: str | None
    trace_id: str | None
    span_id: str | None

    @property
    def is_timed(self) -> bool:
        """Whether its times tell how fast the provider was. Refusals are quick, a client that
        left saw no end, and a recording is nobody's speed."""
        answered_or_failed = self.code == "completed" or self.status >= 500
        return bool(self.timeline) and not self.replayed and answered_or_failed

    @property
    def error_type(self) -> str | None:
        """The code of a call that did not complete."""
        return None if self.code == "completed" else self.code

    @property
    def limit(self) -> str | None:
        """Name of the limit that refused the call."""
        return self.reason if self.code in _LIMITED else None

    @property
    def attempts(self) -> int:
        return len(self.timeline)

    @property
    def provider(self) -> str | None:
        """Of the last attempt, as `upstream_model`."""
        return self.timeline[-1].provider if self.timeline else None

    @property
    def upstream_model(self) -> str | None:
        return self.timeline[-1].model if self.timeline else None

    @property
    def charged_tokens(self) -> int:
        return self.charged_prompt_tokens + self.charged_answer_tokens

    @property
    def cost_unknown(self) -> bool:
        """Whether it cost something, and nobody knows how much."""
        return self.counted_by is not None and self.cost_usd is None

    @property
    def latency_ms(self) -> float:
        return to_ms(self.latency_s)

    @property
    def first_token_ms(self) -> float | None:
        return to_ms(self.first_token_s)


@dataclass(frozen=True)
class CallResult:
    """A call that has ended, and its charges."""

    call: Call
    """Its `code` is set."""
    error: CallError | None
    """Why it did not complete."""
    ended_at: float
    """Seconds on the event loop's clock."""
    charged_prompt_tokens: int
    charged_answer_tokens: int
    counted_by: CountedBy | None
    cost_usd: float | None

    @cached_property
    def facts(self) -> CallFacts:
        call, code = self.call, self.call.code or "internal"
        reason = self.error.reason if self.error else None
        first, usage, trace = call.first_token_at, call.usage, call.trace
        return CallFacts(
            request_id=call.request_id,
            caller=call.caller.name,
            route=call.route,
            model=call.model,
            stream=call.stream,
            max_tokens=call.max_tokens,
            status=OUTCOMES[code].status,
            code=code,
            reason=None if reason == code else reason,
            latency_s=self.ended_at - call.started,
            first_token_s=None if first is None else first - call.started,
            timeline=self._attempts(call.timeline),
            skipped=self._attempts(call.skipped) if call.skipped else (),
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            cached_tokens=usage.cached_tokens if usage else None,
            output_tokens=(usage or call.counted()).answer_tokens if call.timeline else 0,
            charged_prompt_tokens=self.charged_prompt_tokens,
            charged_answer_tokens=self.charged_answer_tokens,
            counted_by=self.counted_by,
            cost_usd=self.cost_usd,
            redactions=call.redactions,
            cut=call.cut,
            replayed=call.replayed,
            recording=call.recording,
            finish_reason=call.finish_reason,
            response_model=call.response_model,
            provider_request_id=call.provider_request_id,
            trace_id=trace.trace_id if trace else None,
            span_id=trace.span_id if trace else None,
        )

    def _attempts(self, attempts: list[Attempt]) -> tuple[AttemptFacts, ...]:
        started = self.call.started
        facts = []
        for attempt in attempts:
            began, ended = attempt.began, attempt.ended
            took_s = (self.ended_at if ended is None else ended) - began
            ended_s = None if ended is None else ended - started
            provider, model = attempt.target
            began_s = began - started
            facts.append(
                AttemptFacts(
                    provider, model, began_s, ended_s, took_s, attempt.reason, attempt.span_id
                )
            )
        return tuple(facts)


@overload
def to_ms(seconds: float) -> float: ...
@overload
def to_ms(seconds: float | None) -> float | None: ...
def to_ms(seconds: float | None) -> float | None:
    """Milliseconds, to a tenth; None of None."""
    return None if seconds is None else round(seconds * 1000, 1)
