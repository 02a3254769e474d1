"""Settlement: the books on a call are closed once, in one place, whatever happened to it.

    call ended ─► CallResult ─► quotas, log, metrics, …     every sink, from the same facts

Rules of this module:

- Nothing here waits, so nothing can cancel it half way.
- A sink that fails takes none of the others along.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from call import Call
from errors import CallError
from prices import Prices
from telemetry.call_result import CallResult

log: Final = logging.getLogger("sluice.settlement")

Sink = Callable[[CallResult], None]


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
        result = CallResult(
            call=call,
            error=error,
            ended_at=self._clock(),
            charged_prompt_tokens=prompt_tokens,
            charged_answer_tokens=answer_tokens,
            counted_by=call.counted_by,
            cost_usd=self._prices.usd(call),
        )
        for sink in self._sinks:
            try:
                sink(result)
            except Exception:
                log.exception("sink", extra={"request_id": call.request_id})
