"""The AI SDK's UI message stream v1: values in, Server-Sent Events out.

    start, text-start, text-delta…, text-end, finish, [DONE]
    start, text-start, text-delta…, error                    when it breaks on the way

Wire format: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol and schemas/chat.event.json.
Functions without state; each returns the bytes of whole events.
"""

from typing import Any, Final

import orjson

from call import Usage
from errors import CallError

CONTENT_TYPE: Final = "text/event-stream"
HEADERS: Final = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
    "x-vercel-ai-ui-message-stream": "v1",
}
HEARTBEAT: Final = b": ping\n\n"

_FINISH_REASONS: Final = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
}
# A message has one text part here, so its id never changes.
_DELTA_HEAD: Final = b'data: {"type":"text-delta","id":"0","delta":'
_DELTA_TAIL: Final = b"}\n\n"


def begin(message_id: str, model: str, created_at_ms: int) -> bytes:
    metadata = {"createdAt": created_at_ms, "model": model}
    return _event({"type": "start", "messageId": message_id, "messageMetadata": metadata}) + _event(
        {"type": "text-start", "id": "0"}
    )


def deltas(texts: list[str]) -> bytes:
    return b"".join([_DELTA_HEAD + orjson.dumps(text) + _DELTA_TAIL for text in texts])


def finish(reason: str | None, usage: Usage | None, *, cut: bool = False) -> bytes:
    """The end of a whole answer, or of one that was cut where its tokens were used up."""
    metadata: dict[str, Any] = {"usage": usage.as_json() if usage else None}
    if cut:
        metadata["cut"] = True
    return (
        _event({"type": "text-end", "id": "0"})
        + _event(
            {
                "type": "finish",
                "finishReason": _FINISH_REASONS.get(reason or "", "other"),
                "messageMetadata": metadata,
            }
        )
        + b"data: [DONE]\n\n"
    )


def error(failure: CallError) -> bytes:
    return _event(
        {
            "type": "error",
            "errorText": failure.text,
            "code": failure.code,
            "retryable": failure.outcome.retryable,
        }
    )


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"
