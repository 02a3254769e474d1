"""The one value that travels through the house: what was asked, by when, and what became of it."""

import asyncio
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Final, Literal, NamedTuple, assert_never

from config import LimitConfig, Target
from errors import CallError
from trace_context import TraceContext


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them, in the provider's own field names."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0
    """Of the prompt's: those the provider had seen before, and charges less for."""

    @property
    def answer_tokens(self) -> int:
        """All that is billed as answer: thoughts may be in the total alone."""
        return self.total_tokens - self.prompt_tokens

    @classmethod
    def of(cls, prompt_tokens: int, answer_tokens: int) -> "Usage":
        return cls(prompt_tokens, answer_tokens, prompt_tokens + answer_tokens)

    def as_json(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as the credentials tell."""

    name: str
    limits: LimitConfig | None = None
    """Limits of this caller alone; None: those of [limit_caller]."""
    models: tuple[str, ...] = ()
    """Models this caller may name; empty: all that the server has."""


ANONYMOUS: Final = Caller("anonymous")

CountedBy = Literal["provider", "estimated", "partial"]
"""Whose count a charge is: the provider's; ours of a whole answer; ours of what an answer that
did not come to its end may have cost."""

_LEAST_CERTAIN_FIRST: Final[tuple[CountedBy, ...]] = ("partial", "estimated", "provider")

# A count this far above the reservation is no count. An image may cost 25 times our estimate
# (gpt-4o-mini), and instructions, search results and thoughts that nobody sees come on top.
_MOST_TIMES: Final = 32
_MOST_UNSEEN: Final = 100_000


class Charge(NamedTuple):
    """What one attempt is charged."""

    target: Target
    usage: Usage
    counted_by: CountedBy


@dataclass(slots=True)
class Attempt:
    """One attempt to get an answer; instants are those of `Call`."""

    target: Target
    began: float
    ended: float | None = None
    """None while it runs. A stream's attempt ends with its first content."""
    reason: str | None = None
    """Why it failed, as `CallError.reason`."""
    span_id: str = ""
    """Where the call has a trace."""
    state: Literal["unsent", "sent", "refused", "ended"] = "unsent"
    """How far it came, for the bill: the request never left; it left, and may cost all it asked
    for; the provider answered with an error, and bills nothing; the answer came to its own end."""
    usage: Usage | None = None
    """The provider's count, as far as it can be true."""
    answer_tokens: int = 0
    """Our own count of the answer so far."""

    def mark_sent(self) -> None:
        self.state = "sent"

    def charge(self, prompt_tokens: int, reserved_answer_tokens: int) -> Charge | None:
        """What the provider may bill: its own count, else ours of an answer that ended, else the
        most of what was counted and what the request may have cost.

        Args:
            prompt_tokens: our own count.
            reserved_answer_tokens: the most that the request may have cost.
        """
        match self.state:
            case "unsent" | "refused":
                return None
            case "ended" if self.usage is not None:
                return Charge(self.target, self.usage, "provider")
            case "ended":
                return Charge(self.target, Usage.of(prompt_tokens, self.answer_tokens), "estimated")
            case "sent":
                counted = self.usage or Usage.of(0, 0)
                most = Usage.of(
                    max(prompt_tokens, counted.prompt_tokens),
                    max(self.answer_tokens, counted.answer_tokens, reserved_answer_tokens),
                )
                return Charge(self.target, most, "partial")
            case _:
                assert_never(self.state)


@dataclass(slots=True, eq=False)
class Call:
    """One call from its first header to its settlement.

    Instants (`started`, `deadline`, `first_token_at`) are seconds on the event loop's
    monotonic clock, so that a jump of the wall clock moves no deadline.
    """

    request_id: str
    route: str
    started: float
    deadline: float
    """May be moved later once, when a stream has begun; `provider.deadline` follows."""
    caller: Caller = ANONYMOUS
    address: str = ""
    """The client's, as limits know it: an IPv6 address stands for its /64."""
    model: str = ""
    """As requests name it; `target` has the provider's name for it."""
    messages: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """As chat completions have them."""
    operator_messages: int = 0
    """How many of the first are the operator's, and nobody's secret."""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """Further fields for the provider: tools, temperature, …."""
    max_tokens: int | None = None
    """Limit of each answer that is sent to the provider; None: none is."""
    max_tokens_reserved: int = 0
    """Reserved for each answer where no limit is sent; it may turn out longer."""
    stream: bool = False
    replay_scenario: str | None = None
    prompt_tokens: int = 0
    """Our own count of what goes to the provider."""
    redactions: dict[str, int] = field(default_factory=dict)
    """How many values of each kind were replaced."""
    reply_headers: dict[str, str] = field(default_factory=dict)

    timeline: list[Attempt] = field(default_factory=list)
    """The attempts that were sent; between two of them is the backoff."""
    skipped: list[Attempt] = field(default_factory=list)
    """Those that were not, for the circuit was open."""
    trace: TraceContext | None = None
    """None where nobody traces."""
    first_token_at: float | None = None
    finish_reason: str | None = None
    cut: bool = False
    """The provider went on beyond the limit that it was sent, and was stopped."""
    replayed: bool = False
    """Answered from another request's recording."""
    recording: str | None = None
    """What answered in place of a provider; see `provider.replay.cassette.RECORDING_HEADER`."""
    provider_request_id: str | None = None
    response_model: str | None = None
    """The model that answered, as the provider says."""
    audit_buffer: StringIO | None = field(default=None, repr=False)
    """The provider's own words, where operator and request both agree that they are kept."""
    code: str | None = None
    """The terminal outcome, a key of `errors.OUTCOMES`; None until the call is settled."""

    task: "asyncio.Task[object] | None" = None
    """The child task which holds the upstream call, while there is one."""
    ended_by: CallError | None = None
    """Why the call was ended from outside (deadline, client gone, drain). First one wins."""

    def end(self, why: CallError) -> None:
        """Cancel the upstream call for this reason. Later reasons change nothing."""
        if self.ended_by is None:
            self.ended_by = why
            if self.task is not None:
                self.task.cancel()

    @property
    def attempts(self) -> int:
        """Attempts begun; a retry is every attempt after the first."""
        return len(self.timeline)

    @property
    def target(self) -> Target | None:
        """Who was asked last."""
        return self.timeline[-1].target if self.timeline else None

    @property
    def upstream_model(self) -> str:
        """The model as the provider that was asked last calls it."""
        return self.target.model if self.target else self.model

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        return int(self.options.get("n") or 1)

    @property
    def reserved_answer_tokens(self) -> int:
        """What is reserved for all answers."""
        of_each = self.max_tokens_reserved if self.max_tokens is None else self.max_tokens
        return of_each * self.choices

    @property
    def usage(self) -> Usage | None:
        """The provider's count of the answer, as far as it can be true."""
        return self.timeline[-1].usage if self.timeline else None

    def believed(self, usage: Usage | None, *, has_answer: bool) -> Usage | None:
        """This count, unless it has nothing for an answer that there is, or is far beyond what
        the request can have cost."""
        most = _MOST_UNSEEN + _MOST_TIMES * (self.prompt_tokens + self.reserved_answer_tokens)
        if usage is None or usage.total_tokens > most:
            return None
        return None if has_answer and not usage.answer_tokens else usage

    def charges(self) -> list[Charge]:
        """What this call has cost so far, one for each attempt that may be billed."""
        prompt_tokens, reserved = self.prompt_tokens, self.reserved_answer_tokens
        return [
            charge
            for attempt in self.timeline
            if (charge := attempt.charge(prompt_tokens, reserved)) is not None
        ]

    def charged_tokens(self) -> tuple[int, int]:
        """Prompt and answer tokens of all attempts that may be billed."""
        usages = [charge.usage for charge in self.charges()]
        return sum([each.prompt_tokens for each in usages]), sum(
            [each.answer_tokens for each in usages]
        )

    @property
    def counted_by(self) -> CountedBy | None:
        """Whose count the charges are, of several the least certain; None where there are none."""
        found = {charge.counted_by for charge in self.charges()}
        return next((each for each in _LEAST_CERTAIN_FIRST if each in found), None)

    def counted(self) -> Usage:
        """The tokens of the answer: as the provider says, else by our own count."""
        return self.usage or Usage.of(self.prompt_tokens, self.timeline[-1].answer_tokens)
