"""The chat completion of OpenAI's wire, whole or as chunks: the provider's own documents."""

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import orjson

from call import Call
from errors import CallError
from handlers.formats.base import JsonOrEvents
from handlers.openai.errors import envelope
from provider.dialects.openai_chat import Completion


class ChatCompletion(JsonOrEvents):
    """`chat.completion`, whole or as chunks.

    Args:
        include_usage: pass the token counts of a stream on.
    """

    wire_name: ClassVar[str] = "openai_chat_completion"

    def __init__(self, *, streams: bool, include_usage: bool) -> None:
        super().__init__(streams=streams)
        self._include_usage = include_usage
        self._head: dict[str, Any] | None = None

    def reply(self, call: Call, completion: Completion) -> bytes:
        document = completion.document
        document |= self._identity(call, document, "chat.completion")
        for index, choice in enumerate(document["choices"]):
            choice.setdefault("index", index)
            choice["message"].setdefault("role", "assistant")
        if call.usage is None:  # some clients cannot do without
            document["usage"] = call.counted().as_json()
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

    def begin(self, call: Call) -> bytes:
        return b""

    def deltas(self, call: Call, documents: Sequence[dict[str, Any]]) -> bytes:
        return b"".join([self._chunk(call, document) for document in documents])

    def _chunk(self, call: Call, document: dict[str, Any]) -> bytes:
        if self._head is None:
            self._head = self._identity(call, document, "chat.completion.chunk")
        if not self._include_usage and document.pop("usage", None) and not document["choices"]:
            return b""
        document |= self._head
        return b"data: " + orjson.dumps(document) + b"\n\n"

    def _identity(self, call: Call, document: dict[str, Any], kind: str) -> dict[str, Any]:
        """What every client reads, where an engine leaves it out. A model with a name of ours
        keeps it; else the provider may be more precise."""
        own_name = call.upstream_model != call.model
        return {
            "id": document.get("id") or f"chatcmpl-{call.request_id}",
            "object": kind,
            "created": document.get("created") or int(time.time()),
            "model": call.model if own_name else document.get("model") or call.model,
        }

    def finish(self, call: Call) -> bytes:
        counts = b""
        if self._include_usage and call.usage is None:
            counts = self._chunk(call, {"choices": [], "usage": call.counted().as_json()})
        return counts + b"data: [DONE]\n\n"

    def error(self, call: Call, failure: CallError) -> bytes:
        return b"data: " + orjson.dumps(envelope(failure)) + b"\n\n"
