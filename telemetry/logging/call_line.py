"""The log line of a call: one for each, whatever happened to it."""

import logging
from typing import Final

from telemetry.settlement import Settled

log: Final = logging.getLogger("sluice.call")


def log_call(settled: Settled) -> None:
    """Write the line."""
    call, status, usage = settled.call, settled.status, settled.call.usage
    target = call.target
    log.log(
        logging.ERROR if status == 500 else logging.WARNING if status > 500 else logging.INFO,
        "call",
        extra={
            "request_id": call.request_id,
            "caller": call.caller.name,
            "route": call.route,
            "model": call.model or None,
            "provider": target.provider if target else None,
            "upstream_model": target.model if target else None,
            "stream": call.stream,
            "status": status,
            "code": settled.code,
            "error_type": settled.code if settled.error else None,
            "reason": settled.reason,
            "attempts": call.attempts,
            "latency_ms": _ms(settled.latency_s),
            "first_token_ms": _ms(settled.first_token_s),
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "charged_tokens": settled.prompt_tokens + settled.answer_tokens,
            "cost_usd": settled.usd,
            "cost_unknown": settled.cost_unknown or None,
            "counted_by": settled.counted_by,
            "redactions": call.redactions or None,
            "cut": call.cut or None,
            "replayed": call.replayed or None,
            "recording": call.recording,
            "finish_reason": call.finish_reason,
            "provider_request_id": call.provider_request_id,
            "trace_id": call.trace.trace_id if call.trace else None,
            "span_id": call.trace.span_id if call.trace else None,
        },
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
