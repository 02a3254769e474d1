"""What the calls under /v1 have in common: fields, errors, and the operator's words first."""

from typing import Any, Final

from call import Call
from config import Config
from handlers.body import Schema, invalid
from handlers.calls import CallHandler
from handlers.request import apply_system_policy

_OPERATORS: Final = frozenset(("system", "developer"))


def read_fields(
    call: Call, document: dict[str, Any], schema: Schema, extra: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The body's fields that are not null, held against their schema.

    Clients send the messages of earlier answers as they got them, with all that was empty in them.

    Args:
        extra: further fields, with any value.

    Raises:
        CallError: `invalid_request`.
    """
    fields = {key: value for key, value in document.items() if value is not None}
    for name in ("messages", "input"):
        if isinstance(given := fields.get(name), list):
            fields[name] = [_without_empty(item) for item in given]
    schema.check({key: value for key, value in fields.items() if key not in extra})
    call.stream = fields.pop("stream", False)
    return fields


def _without_empty(item: Any) -> Any:
    """A message or item without what is null or an empty list. Null content stays where a message
    has nothing but tool calls."""
    if not isinstance(item, dict):
        return item
    return {
        key: value
        for key, value in item.items()
        if (value is not None and value != []) or (key == "content" and item.get("tool_calls"))
    }


def set_model(handler: CallHandler, call: Call, fields: dict[str, Any], *names: str) -> None:
    """Take the model out of the fields, and the answer limit, which has one of these names.

    Raises:
        CallError: `model_not_found`, or `invalid_request` after [openai] max_tokens_policy.
    """
    config = handler.config.openai
    model = handler.resolve_model(call, fields.pop("model", None))
    call.max_tokens_reserved = config.max_tokens_reserved
    call.max_tokens = model.max_tokens_limit or None
    most = model.most_requested_tokens
    requested = None
    for name in names:
        if name in fields:
            requested = int(fields.pop(name))
            if requested > most and config.max_tokens_policy == "refuse":
                raise invalid(f"{name} must be at most {most}", name)
            call.max_tokens = min(requested, most)
    if call.max_tokens != requested:
        call.reply_headers["X-Sluice-Max-Tokens"] = str(call.max_tokens)


def set_messages(config: Config, call: Call, messages: list[dict[str, Any]]) -> None:
    """Give the call its messages, after the rules of [openai].

    Raises:
        CallError: `invalid_request`.
    """
    messages = apply_system_policy(
        messages, config.openai.system_messages, lambda each: each["role"] in _OPERATORS
    )
    if config.openai.system_prompt and config.chat.system_prompt:
        messages.insert(0, {"role": "system", "content": config.chat.system_prompt})
        call.operator_messages = 1
    call.messages = messages
