"""The one value that travels through the house: what was asked, by when, and what became of it."""

import asyncio
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Final

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
    own_messages: int = 0
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
    passed_over: list[Attempt] = field(default_factory=list)
    """Those that were not, for the circuit was open."""
    trace: TraceContext | None = None
    """None where nobody traces."""
    first_token_at: float | None = None
    usage: Usage | None = None
    answer_tokens: int = 0
    """Our own count of the answer so far."""
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
    kept_answer: StringIO | None = field(default=None, repr=False)
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

    def charged_tokens(self, code: str | None = None) -> tuple[int, int]:
        """Prompt and answer tokens that this call has cost: as the provider says, else by our
        own count. An attempt that failed outright cost nothing; one that was given up is billed
        for what it was asked, and for what it said.

        Args:
            code: the outcome, before the call is settled.
        """
        if self.usage:
            return self.usage.prompt_tokens, self.usage.completion_tokens
        code = code or self.code
        given_up = self.attempts > 0 and (code == "deadline_exceeded" or self.ended_by is not None)
        if given_up or code == "completed" or self.answer_tokens:
            return self.prompt_tokens, self.answer_tokens
        return 0, 0

    def counted(self) -> Usage:
        """The tokens of a whole answer: as the provider says, else by our own count."""
        if self.usage:
            return self.usage
        prompt, answer = self.charged_tokens("completed")
        return Usage(prompt, answer, prompt + answer)
