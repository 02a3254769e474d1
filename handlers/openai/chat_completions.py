"""POST /v1/chat/completions: the provider's own documents, checked, metered and passed on.

Rules of this module:

- Whether the answer is a stream the body alone decides: OpenAI's SDKs send
  `Accept: application/json` with both.
- Tools, formats, images, several answers and the rest go to the provider as they came, once
  redaction has read them.
- The provider is always asked for the token counts of a stream; the client gets them if it
  asked for them. A stream that broke ends with an error, and never with [DONE].
"""

import time
from collections.abc import Sequence
from typing import Any, Final

import orjson

from call import Call
from errors import CallError
from handlers.body import Schema, invalid
from handlers.formats.base import Format
from handlers.openai.base import OpenAICallHandler
from handlers.openai.errors import envelope
from provider.dialects.openai_chat import Completion

_REQUEST: Final = Schema("openai.chat.request.json")


class ChatCompletionsHandler(OpenAICallHandler):
    """One call of the route."""

    route = "/v1/chat/completions"

    def read_request(self, call: Call) -> Format:
        extra = frozenset(self.config.openai.extra_fields) - _REQUEST.keys
        fields = self.read_fields(call, _REQUEST, extra)
        self.read_model(call, fields, "max_tokens", "max_completion_tokens")
        self.take_messages(call, fields.pop("messages"))
        if not call.messages:
            raise invalid("messages must hold one that is no system message", "messages")
        include_usage = fields.pop("stream_options", {}).get("include_usage", False)
        call.options = fields
        return ChatCompletion(streams=call.stream, include_usage=include_usage)


class ChatCompletion(Format):
    """`chat.completion`, whole or as chunks.

    Args:
        include_usage: pass the token counts of a stream on.
    """

    def __init__(self, *, streams: bool, include_usage: bool) -> None:
        self.streams = streams
        self._include_usage = include_usage
        self._head: dict[str, Any] | None = None

    def whole(self, call: Call, completion: Completion) -> bytes:
        document = completion.document
        document |= self._identity(call, document, "chat.completion")
        for index, choice in enumerate(document["choices"]):
            choice.setdefault("index", index)
            choice["message"].setdefault("role", "assistant")
        if call.usage is None:  # some clients cannot do without
            document["usage"] = call.counted().as_json()
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

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
