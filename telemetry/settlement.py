"""Settlement: what is written down once about each call, whatever happened to it."""

import logging
from collections.abc import Callable
from typing import Final

from call import Call
from errors import OUTCOMES, CallError
from prices import Prices

log: Final = logging.getLogger("sluice.call")


class Settlement:
    """Gives each call its one terminal outcome and its one log line.

    Args:
        clock: seconds on the event loop's clock, the one of `Call.started`.
    """

    def __init__(self, clock: Callable[[], float], prices: Prices) -> None:
        self._clock = clock
        self._prices = prices

    def settle(self, call: Call, error: CallError | None) -> None:
        """Close the books on this call; None means that it completed. Only the first counts."""
        if call.code is not None:
            return
        call.code = error.code if error else "completed"
        status = OUTCOMES[call.code].status
        usage, charged = call.usage, sum(call.charged_tokens())
        log.log(
            logging.ERROR if status == 500 else logging.WARNING if status > 500 else logging.INFO,
            "call",
            extra={
                "request_id": call.request_id,
                "caller": call.caller.name,
                "route": call.route,
                "model": call.model or None,
                "provider": call.target.provider if call.target else None,
                "upstream_model": call.target.model if call.target else None,
                "stream": call.stream,
                "status": status,
                "code": call.code,
                "reason": error.reason if error and error.reason != error.code else None,
                "attempts": call.attempts,
                "latency_ms": self._ms(call.started, self._clock()),
                "first_token_ms": self._ms(call.started, call.first_token_at),
                "prompt_tokens": usage.prompt_tokens if usage else None,
                "completion_tokens": usage.completion_tokens if usage else None,
                "charged_tokens": charged,
                "cost_usd": self._prices.usd(call) if charged else None,
                "estimated": True if charged and not usage else None,
                "redactions": call.redactions or None,
                "cut": call.cut or None,
                "replayed": call.replayed or None,
                "finish_reason": call.finish_reason,
                "provider_request_id": call.provider_request_id,
            },
        )

    @staticmethod
    def _ms(begin: float, end: float | None) -> float | None:
        return None if end is None else round((end - begin) * 1000, 1)
