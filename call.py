"""The one value that travels through the house: what was asked, by when, and what became of it."""

import asyncio
from dataclasses import asdict, dataclass, field

from errors import CallError


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them, in the provider's own field names."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    def as_json(self) -> dict[str, int]:
        return asdict(self)


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
    caller: str = "anonymous"
    model: str = ""
    messages: list[dict[str, str]] = field(default_factory=list, repr=False)
    max_tokens: int = 0
    stream: bool = False
    replay_scenario: str | None = None

    attempts: int = 0
    """Attempts begun; a retry is every attempt after the first."""
    first_token_at: float | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    provider_request_id: str | None = None
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
