"""Settlement: the books on a call are closed once, in one place, whatever happened to it.

    call ended ─► Settled ─► quotas, log, metrics, …        every sink, from the same facts

Rules of this module:

- Nothing here waits, so nothing can cancel it half way.
- A sink that fails takes none of the others along.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from call import Call, CountedBy
from errors import OUTCOMES, CallError
from prices import Prices

log: Final = logging.getLogger("sluice.settlement")


@dataclass(frozen=True, slots=True)
class Settled:
    """What is known of a call that has ended."""

    call: Call
    """Its `code` is set."""
    error: CallError | None
    """Why it did not complete."""
    status: int
    """The outcome's, whatever a stream that had begun has said."""
    at: float
    """When, in seconds on the event loop's clock."""
    prompt_tokens: int
    """Charged, as `answer_tokens`."""
    answer_tokens: int
    counted_by: CountedBy | None
    """Whose count this is, of several attempts the least certain; None where nothing is
    charged."""
    usd: float | None
    """What they cost, as estimated; None where nobody knows the price, or nothing is charged."""

    @property
    def code(self) -> str:
        return self.call.code or "internal"

    @property
    def reason(self) -> str | None:
        """Why it failed, where that says more than the code."""
        reason = self.error.reason if self.error else None
        return None if reason == self.code else reason

    @property
    def cost_unknown(self) -> bool:
        """Whether it cost something, and nobody knows how much."""
        return self.counted_by is not None and self.usd is None

    @property
    def latency_s(self) -> float:
        return self.at - self.call.started

    @property
    def first_token_s(self) -> float | None:
        """Seconds to the first content of a stream."""
        first = self.call.first_token_at
        return None if first is None else first - self.call.started


Sink = Callable[[Settled], None]


class Settlement:
    """Gives each call its one terminal outcome, and tells the sinks.

    Args:
        clock: seconds on the event loop's clock, the one of `Call.started`.
    """

    def __init__(self, clock: Callable[[], float], prices: Prices, sinks: Sequence[Sink]) -> None:
        self._clock = clock
        self._prices = prices
        self._sinks = sinks

    def settle(self, call: Call, error: CallError | None) -> None:
        """Close the books on this call; None means that it completed. Only the first counts."""
        if call.code is not None:
            return
        call.code = error.code if error else "completed"
        prompt_tokens, answer_tokens = call.charged_tokens()
        settled = Settled(
            call=call,
            error=error,
            status=OUTCOMES[call.code].status,
            at=self._clock(),
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            counted_by=call.counted_by,
            usd=self._prices.usd(call),
        )
        for sink in self._sinks:
            try:
                sink(settled)
            except Exception:
                log.exception("sink", extra={"request_id": call.request_id})
