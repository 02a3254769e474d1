"""What the calls under /v1 have in common: fields, errors, and the operator's words first."""

from typing import Any, Final

from call import Call
from errors import CallError
from handlers.body import Schema, invalid
from handlers.calls import CallHandler
from handlers.openai.errors import OpenAIErrors
from handlers.request import without_system

_OPERATORS: Final = frozenset(("system", "developer"))


class OpenAICallHandler(OpenAIErrors, CallHandler):
    """A call in OpenAI's words."""

    def read_fields(self, call: Call, schema: Schema, extra: frozenset[str]) -> dict[str, Any]:
        """The body's fields that are not null, held against their schema.

        Args:
            extra: further fields, with any value.

        Raises:
            CallError: 400, 413 or 415.
        """
        fields = {key: value for key, value in self.read_body(call).items() if value is not None}
        schema.check({key: value for key, value in fields.items() if key not in extra})
        call.stream = fields.pop("stream", False)
        return fields

    def read_model(self, call: Call, fields: dict[str, Any], *names: str) -> None:
        """Take out the model, and the answer limit, which has one of these names.

        Raises:
            CallError: `model_not_found`, or `invalid_request` after [openai] max_tokens_policy.
        """
        model = self.choose_model(call, fields.pop("model", None))
        call.max_tokens_reserved = self.config.openai.max_tokens_reserved
        call.max_tokens = model.max_tokens_limit or None
        most = model.most_requested_tokens
        requested = None
        for name in names:
            if name in fields:
                requested = int(fields.pop(name))
                if requested > most and self.config.openai.max_tokens_policy == "refuse":
                    raise invalid(f"{name} must be at most {most}", name)
                call.max_tokens = min(requested, most)
        if call.max_tokens != requested:
            call.reply_headers["X-Sluice-Max-Tokens"] = str(call.max_tokens)

    def take_messages(self, call: Call, messages: list[dict[str, Any]]) -> None:
        """Give the call its messages, after the rules of [openai]."""
        config = self.config
        messages = without_system(
            messages, config.openai.system_messages, lambda each: each["role"] in _OPERATORS
        )
        if config.openai.system_prompt and config.chat.system_prompt:
            messages.insert(0, {"role": "system", "content": config.chat.system_prompt})
            call.own_messages = 1
        call.messages = messages

    def should_retry(self, error: CallError) -> bool:
        # An answer that has been paid for is not to be bought again unasked.
        spent = self.call is not None and any(self.call.charged_tokens(error.code))
        return super().should_retry(error) and not spent
