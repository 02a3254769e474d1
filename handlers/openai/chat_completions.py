"""POST /v1/chat/completions: the provider's own documents, checked, metered and passed on.

Rules of this module:

- Whether the answer is a stream the body alone decides: OpenAI's SDKs send
  `Accept: application/json` with both.
- Tools, formats, images, several answers and the rest go to the provider as they came, once
  redaction has read them.
- The provider is always asked for the token counts of a stream; the client gets them if it
  asked for them. A stream that broke ends with an error, and never with [DONE].
"""

from typing import Final

from call import Call
from handlers.body import Schema, invalid
from handlers.calls import CallHandler
from handlers.formats.chat_completion import ChatCompletion
from handlers.openai.base import read_fields, set_messages, set_model
from handlers.openai.errors import OPENAI_ERRORS

_REQUEST: Final = Schema(
    "openai.chat.request.json", "[openai] extra_fields lists further ones that are passed on"
)


class ChatCompletionsHandler(CallHandler):
    """One call of the route."""

    route = "/v1/chat/completions"
    errors = OPENAI_ERRORS

    def read_request(self, call: Call) -> ChatCompletion:
        extra = frozenset(self.config.openai.extra_fields) - _REQUEST.keys
        fields = read_fields(call, self.read_body(call), _REQUEST, extra)
        set_model(self, call, fields, "max_tokens", "max_completion_tokens")
        set_messages(self.config, call, fields.pop("messages"))
        if not call.messages:
            raise invalid("messages must hold one that is no system message", "messages")
        include_usage = fields.pop("stream_options", {}).get("include_usage", False)
        call.options = fields
        return ChatCompletion(streams=call.stream, include_usage=include_usage)
