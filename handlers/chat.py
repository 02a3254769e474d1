"""POST /api/chat: our own short form, and what the AI SDK's useChat sends.

    {"userMessage"}                     ──►  {"text", "usage"}, or a stream if it is asked for
    {"messages": [{"role", "parts"}]}   ──►  a stream, always

Both with ?format=text, or `Accept: text/plain`, as plain text.
"""

from typing import Any, Final

from call import Call
from calls.client import ReplyFormat, StreamFormat
from handlers.base import BaseHandler
from handlers.body import Schema, invalid
from handlers.calls import CallHandler
from handlers.formats.base import EVENT_STREAM
from handlers.formats.plain_text import PlainText
from handlers.formats.text_and_usage import TextReply
from handlers.formats.ui_stream import UiStream
from handlers.request import apply_system_policy

_REQUEST: Final = Schema("chat.request.json")
_UI_REQUEST: Final = Schema("chat.ui.request.json")


class ChatHandler(CallHandler):
    """One call of the route."""

    route = "/api/chat"
    query = ("", "format=text")

    def read_request(self, call: Call) -> ReplyFormat | StreamFormat:
        fields = self.read_body(call)
        from_ui = "userMessage" not in fields and _is_from_ui(fields.get("messages"))
        (_UI_REQUEST if from_ui else _REQUEST).check(fields)
        model = self.resolve_model(call, fields.get("model"))
        call.max_tokens = int(fields.get("maxTokens", model.max_tokens))
        if "maxTokens" in fields and call.max_tokens > model.most_requested_tokens:
            raise invalid(f"maxTokens must be at most {model.most_requested_tokens}", "maxTokens")
        if from_ui:
            said = _said_in_ui(fields["messages"], self.config.chat.system_messages)
        else:
            now = {"role": "user", "content": fields["userMessage"].strip()}
            said = [*fields.get("messages", ()), now]
        if prompt := self.config.chat.system_prompt:
            said.insert(0, {"role": "system", "content": prompt})
            call.operator_messages = 1
        call.messages = said
        accept = self.request.headers.get("Accept", "").lower()
        as_text = bool(self.request.query) or (
            "text/plain" in accept and EVENT_STREAM not in accept
        )
        streams = from_ui or as_text or EVENT_STREAM in accept
        call.stream = from_ui or fields.get("stream", streams)
        if as_text:
            return PlainText()
        return UiStream(self.services.clock, self.services.prices) if call.stream else TextReply()


class ResumeHandler(BaseHandler):
    """`GET /api/chat/{id}/stream`: useChat asks for a stream to resume; there never is one."""

    route = "/api/chat/{id}/stream"
    options = BaseHandler.preflight

    def get(self, chat_id: str) -> None:
        self.set_status(204)


def _is_from_ui(messages: object) -> bool:
    """Whether these are messages of the AI SDK: they have parts."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and isinstance(messages[0], dict)
        and "parts" in messages[0]
    )


def _said_in_ui(messages: list[dict[str, Any]], policy: str) -> list[dict[str, Any]]:
    """The conversation; of each message what is text."""
    said = [
        {
            "role": message["role"],
            "content": "\n".join(
                part["text"] for part in message["parts"] if part["type"] == "text"
            ).strip(),
        }
        for message in messages
    ]
    said = apply_system_policy(said, policy, lambda message: message["role"] == "system")
    if not said or said[-1]["role"] != "user" or not said[-1]["content"]:
        raise invalid("The last of messages must be the user's, with a text that is not blank")
    # One that is empty was an answer that failed, or had nothing but tools.
    return [message for message in said if message["content"]]
