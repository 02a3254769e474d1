"""POST /v1/responses: OpenAI's newer route, spoken in terms of chat completions.

    instructions, input   ──►  messages
    tools, text.format    ──►  tools, response_format

Rules of this module:

- Texts, images, files and functions. What needs something kept on the server (an earlier
  response, a conversation, a reference to an item, a run in the background) is refused: nothing
  is kept. So are tools that run at the provider.
- What a model has thought (`reasoning`) is not sent again: no other engine could read it.
"""

from typing import Any, Final

import orjson

from call import Call
from handlers.body import Schema, invalid
from handlers.calls import CallHandler
from handlers.formats.responses_api import ResponsesApiFormat
from handlers.openai.base import read_fields, set_messages, set_model
from handlers.openai.errors import OPENAI_ERRORS

_REQUEST: Final = Schema("openai.responses.request.json")
_SAME: Final = (
    "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "service_tier",
    "temperature", "top_p", "user",
)  # fmt: skip

_REFERENCE: Final = (
    "refers to a stored item, and nothing is stored here; "
    "a client that is told store: false sends the item itself"
)

Item = dict[str, Any]


class ResponsesHandler(CallHandler):
    """One call of the route."""

    route = "/v1/responses"
    errors = OPENAI_ERRORS

    def read_request(self, call: Call) -> ResponsesApiFormat:
        fields = read_fields(call, self.read_body(call), _REQUEST)
        asked = orjson.loads(orjson.dumps(fields))  # redaction works on the other
        set_model(self, call, fields, "max_output_tokens")
        asked["max_output_tokens"] = call.max_tokens
        set_messages(self.config, call, _messages(fields))
        if not call.messages:
            raise invalid("input must hold a message that is no system message", "input")
        call.options = _options(fields)
        return ResponsesApiFormat(asked, streams=call.stream)

    def read_body(self, call: Call) -> dict[str, Any]:
        """The body; a reference in it is told from other unknown items, for the AI SDK makes one
        of every earlier answer unless it is told otherwise."""
        fields = super().read_body(call)
        given = fields.get("input")
        for number, item in enumerate(given if isinstance(given, list) else ()):
            if isinstance(item, dict) and item.get("type") == "item_reference":
                raise invalid(f"input[{number}] {_REFERENCE}", f"input[{number}].type")
        return fields


def _messages(fields: dict[str, Any]) -> list[Item]:
    """The conversation as chat completions have it."""
    given = fields["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    messages: list[Item] = []
    if "instructions" in fields:
        messages.append({"role": "system", "content": fields["instructions"]})
    for item in items:
        match item.get("type", "message"):
            case "message":
                messages.append(_message(item))
            case "function_call":
                _add_function_call(messages, item)
            case "function_call_output":
                name = {"role": "tool", "tool_call_id": item["call_id"]}
                messages.append({**name, "content": _content(item["output"])})
    return messages


def _message(item: Item) -> Item:
    # Engines other than OpenAI's know no developer.
    role = "system" if item["role"] == "developer" else item["role"]
    return {"role": role, "content": _content(item["content"])}


def _add_function_call(messages: list[Item], item: Item) -> None:
    """Calls that were made together, and the words before them, are one message."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    function = {"name": item["name"], "arguments": item["arguments"]}
    messages[-1].setdefault("tool_calls", []).append(
        {"id": item["call_id"], "type": "function", "function": function}
    )


def _content(content: str | list[Item]) -> str | list[Item]:
    """A text where it is one, for every engine knows that; else parts."""
    if isinstance(content, str):
        return content
    parts = [_part(part) for part in content]
    if len(parts) == 1 and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return parts


def _part(part: Item) -> Item:
    match part["type"]:
        case "input_image":
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
        case "input_file":
            names = ("file_id", "file_data", "filename")
            file = {name: part[name] for name in names if part.get(name)}
            return {"type": "file", "file": file}
        case "refusal":
            return {"type": "refusal", "refusal": part["refusal"]}
        case _:
            return {"type": "text", "text": part["text"]}


def _options(fields: dict[str, Any]) -> dict[str, Any]:
    """The further fields of a chat completion that mean the same."""
    options: dict[str, Any] = {name: fields[name] for name in _SAME if name in fields}
    if tools := fields.get("tools"):
        options["tools"] = [_function(tool) for tool in tools]
    choice = fields.get("tool_choice")
    if choice is not None:
        options["tool_choice"] = choice if isinstance(choice, str) else _function(choice)
    text = fields.get("text", {})
    form = text.get("format") or {"type": "text"}
    if form["type"] == "json_schema":
        options["response_format"] = _wrapped(form)
    elif form["type"] == "json_object":
        options["response_format"] = {"type": "json_object"}
    if text.get("verbosity"):
        options["verbosity"] = text["verbosity"]
    if effort := fields.get("reasoning", {}).get("effort"):
        options["reasoning_effort"] = effort
    return options


def _function(tool: Item) -> Item:
    """A function, or the choice of one, whose parts stand a level deeper there."""
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _wrapped(form: Item) -> Item:
    return {
        "type": "json_schema",
        "json_schema": {name: value for name, value in form.items() if name != "type"},
    }
