"""The AI SDK's UI message stream v1: values in, Server-Sent Events out.

    start, text-start, text-delta…, text-end, finish, [DONE]
    start, text-start, text-delta…, error                    when it breaks on the way

Wire format: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol and schemas/chat.event.json.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final

import orjson

from call import Call
from errors import CallError
from handlers.formats.base import STREAM_HEADERS, Events
from prices import Prices
from provider.dialects.openai_chat import first_text
from telemetry.call_result import to_ms

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


class UiStream(Events):
    """
    Args:
        clock: seconds on the event loop's clock.
    """

    wire_name: ClassVar[str] = "ui_message_stream"
    headers = MappingProxyType({**STREAM_HEADERS, "x-vercel-ai-ui-message-stream": "v1"})

    def __init__(self, clock: Callable[[], float], prices: Prices) -> None:
        self._clock = clock
        self._prices = prices

    def begin(self, call: Call) -> bytes:
        # A new id for each answer: one that was there before would overwrite that one.
        metadata: dict[str, Any] = {"createdAt": int(time.time() * 1000), "model": call.model}
        if call.recording is not None:
            metadata["recording"] = call.recording
        start = {"type": "start", "messageId": uuid.uuid4().hex, "messageMetadata": metadata}
        return _event(start) + _event({"type": "text-start", "id": "0"})

    def deltas(self, call: Call, documents: Sequence[dict[str, Any]]) -> bytes:
        texts = [text for each in documents if (text := first_text(each, "delta"))]
        return b"".join([_DELTA_HEAD + orjson.dumps(text) + _DELTA_TAIL for text in texts])

    def finish(self, call: Call) -> bytes:
        return (
            _event({"type": "text-end", "id": "0"})
            + _event(
                {
                    "type": "finish",
                    "finishReason": _FINISH_REASONS.get(call.finish_reason or "", "other"),
                    "messageMetadata": self._metadata(call),
                }
            )
            + b"data: [DONE]\n\n"
        )

    def _metadata(self, call: Call) -> dict[str, Any]:
        assert call.target is not None
        assert call.first_token_at is not None
        prompt_tokens, answer_tokens = call.charged_tokens()
        metadata: dict[str, Any] = {
            "usage": call.usage.as_json() if call.usage else None,
            "charged": {
                "promptTokens": prompt_tokens,
                "answerTokens": answer_tokens,
                "estimated": call.counted_by != "provider",
                "usd": self._prices.usd(call),
            },
            "provider": call.target.provider,
            "attempts": call.attempts,
            "latencyMs": to_ms(self._clock() - call.started),
            "firstTokenMs": to_ms(call.first_token_at - call.started),
        }
        if call.cut:
            metadata["cut"] = True
        return metadata

    def error(self, call: Call, failure: CallError) -> bytes:
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
