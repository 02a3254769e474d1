"""What a POST /api/chat asks for: its headers and body become fields of the call."""

from typing import Any, Final

from call import Call
from config import ChatConfig
from errors import CallError
from handlers.base import BaseHandler
from handlers.body import Schema, invalid, parse

_REQUEST: Final = Schema("chat.request.json")


class ChatRequestHandler(BaseHandler):
    """A handler whose body is a chat request."""

    def single_header(self, name: str) -> str | None:
        """The value of a header that may stand there once."""
        values = self.request.headers.get_list(name)
        if len(values) > 1:
            raise invalid(f"{name} must not be given twice")
        return values[0] if values else None

    def read_request(self, call: Call) -> None:
        """Fill the call from the request, and let go of the body.

        Raises:
            CallError: 400, 413 or 415.
        """
        self._check_headers(call)
        if self.body_bytes > self.max_body_bytes:
            raise CallError("body_too_large")
        fields = parse(bytes(self.body), _REQUEST)
        self.body.clear()
        chat = self.config.chat
        call.model = fields.get("model", "")
        _choose_model(call, chat)
        call.max_tokens = int(fields.get("maxTokens", chat.max_tokens))
        if call.max_tokens > chat.max_tokens_limit:
            raise invalid(f"maxTokens must be at most {chat.max_tokens_limit}")
        accepts_events = "text/event-stream" in self.request.headers.get("Accept", "").lower()
        call.stream = fields.get("stream", accepts_events)
        call.messages = _messages(fields, chat)

    def _check_headers(self, call: Call) -> None:
        headers = self.request.headers
        kind, _, parameters = headers.get("Content-Type", "").lower().partition(";")
        if kind.strip() != "application/json":
            raise CallError("unsupported_media_type")
        charset = parameters.partition("charset=")[2].strip(' "')
        if charset not in ("", "utf-8", "utf8"):
            raise CallError("unsupported_media_type", text="The body must be UTF-8")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise CallError("unsupported_media_type", text="Content-Encoding is not accepted")
        if self.request.query:
            raise invalid("Query parameters are not accepted")
        if self.services.scenarios and "X-Replay-Scenario" in headers:
            scenario = headers["X-Replay-Scenario"]
            if scenario not in self.services.scenarios:
                known = ", ".join(self.services.scenarios)
                raise invalid(f"X-Replay-Scenario must be one of {known}")
            call.replay_scenario = scenario


def _choose_model(call: Call, chat: ChatConfig) -> None:
    """Hold the model against those that this caller may name; the first is the default."""
    allowed = call.caller.models or tuple(dict.fromkeys((chat.model, *chat.models)))
    named, call.model = call.model or allowed[0], ""
    if named not in allowed:
        raise invalid(f"model must be one of {', '.join(allowed)}")
    call.model = named


def _messages(fields: dict[str, Any], chat: ChatConfig) -> list[dict[str, str]]:
    system = [{"role": "system", "content": chat.system_prompt}] if chat.system_prompt else []
    said = {"role": "user", "content": fields["userMessage"].strip()}
    return [*system, *fields.get("messages", ()), said]
