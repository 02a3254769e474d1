"""A response as /v1/responses has it, made from a chat completion, whole or as events.

    created, in_progress
      output_item.added
        content_part.added, output_text.delta…, output_text.done, content_part.done
      output_item.done
    completed, or incomplete
    created, in_progress, …, error                          when it breaks on the way

Wire format: https://platform.openai.com/docs/api-reference/responses-streaming
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final

import orjson

from call import Call, Usage
from errors import CallError
from handlers.formats.base import JsonOrEvents
from handlers.openai.errors import envelope
from provider.dialects.openai_chat import Completion

Event = dict[str, Any]

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_GIVEN_BACK: Final[dict[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""What the response says of its request, and what was meant where that said nothing."""


class ResponsesApiFormat(JsonOrEvents):
    """
    Args:
        asked: the request's fields.
    """

    wire_name: ClassVar[str] = "openai_response"

    def __init__(self, asked: dict[str, Any], *, streams: bool) -> None:
        super().__init__(streams=streams)
        self._asked = {name: asked.get(name, meant) for name, meant in _GIVEN_BACK.items()}
        self._id = _new_id("resp")
        self._created = int(time.time())
        self._output = _Output()
        self._usage: dict[str, Any] = {}
        self._events = 0

    def reply(self, call: Call, completion: Completion) -> bytes:
        self._feed(completion.document, "message")
        list(self._output.end(_status(call)))
        return orjson.dumps(self._ended(call), option=orjson.OPT_APPEND_NEWLINE)

    def begin(self, call: Call) -> bytes:
        response = self._response(call, "in_progress")
        kinds = ("response.created", "response.in_progress")
        return self._written([{"type": kind, "response": response} for kind in kinds])

    def deltas(self, call: Call, documents: Sequence[dict[str, Any]]) -> bytes:
        return b"".join([self._written(self._feed(each, "delta")) for each in documents])

    def finish(self, call: Call) -> bytes:
        events = list(self._output.end(_status(call)))
        events.append({"type": f"response.{_status(call)}", "response": self._ended(call)})
        return self._written(events)

    def error(self, call: Call, failure: CallError) -> bytes:
        # The reference has the fields flat, some clients look for them under `error`.
        told = envelope(failure)
        return self._written([{**told["error"], **told, "type": "error"}])

    def _feed(self, document: dict[str, Any], part: str) -> list[Event]:
        self._usage = document.get("usage") or self._usage
        for choice in document["choices"]:
            if choice.get("index", 0) == 0:
                return list(self._output.feed(choice.get(part) or {}))
        return []

    def _ended(self, call: Call) -> dict[str, Any]:
        response = self._response(call, _status(call))
        if reason := _INCOMPLETE.get(call.finish_reason or ""):
            response["incomplete_details"] = {"reason": reason}
        else:
            response["completed_at"] = int(time.time())
        response["usage"] = _usage(call.counted(), self._usage)
        return response

    def _response(self, call: Call, status: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": call.model,
            "output": self._output.items,
            "previous_response_id": None,
            "store": False,
            "usage": None,
            **self._asked,
        }

    def _written(self, events: Sequence[Event]) -> bytes:
        pieces = []
        for event in events:
            event["sequence_number"] = self._events
            self._events += 1
            name = event["type"].encode()
            pieces.append(b"event: " + name + b"\ndata: " + orjson.dumps(event) + b"\n\n")
        return b"".join(pieces)


class _Output:
    """The items of a response while they grow: a message, and calls of functions."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._parts: dict[str, tuple[int, int]] = {}
        """Where the words and the refusal are: item and part."""
        self._calls: dict[int, int] = {}
        """Item by the number of the tool call."""
        self._message: int | None = None

    def feed(self, message: dict[str, Any]) -> Iterator[Event]:
        """Add what a message, or a delta of one, says; the events that tell it."""
        if text := message.get("content"):
            yield from self._say("output_text", "text", text)
        if refusal := message.get("refusal"):
            yield from self._say("refusal", "refusal", refusal)
        for place, call in enumerate(message.get("tool_calls") or ()):
            yield from self._call(call.get("index", place), call)

    def end(self, status: str) -> Iterator[Event]:
        """Close what is open; the events that tell it."""
        for index, item in enumerate(self.items):
            if item["status"] != "in_progress":
                continue
            item["status"] = status
            where = {"item_id": item["id"], "output_index": index}
            if item["type"] == "function_call":
                kind = "response.function_call_arguments.done"
                yield {"type": kind, **where, "arguments": item["arguments"]}
            for number, part in enumerate(item.get("content", ())):
                place = {**where, "content_index": number}
                if part["type"] == "refusal":
                    told = {"refusal": part["refusal"]}
                else:
                    told = {"text": part["text"], "logprobs": []}
                yield {"type": f"response.{part['type']}.done", **place, **told}
                yield {"type": "response.content_part.done", **place, "part": part}
            yield {"type": "response.output_item.done", "output_index": index, "item": item}

    def _say(self, kind: str, key: str, text: str) -> Iterator[Event]:
        if kind not in self._parts:
            yield from self._add_part(kind, key)
        index, number = self._parts[kind]
        item = self.items[index]
        item["content"][number][key] += text
        event = {
            "type": f"response.{kind}.delta",
            "item_id": item["id"],
            "output_index": index,
            "content_index": number,
            "delta": text,
        }
        if kind == "output_text":
            event["logprobs"] = []
        yield event

    def _add_part(self, kind: str, key: str) -> Iterator[Event]:
        if self._message is None:
            self._message = len(self.items)
            yield self._add(
                {"type": "message", "id": _new_id("msg"), "role": "assistant", "content": []}
            )
        item = self.items[self._message]
        part = {"type": kind, key: "", **({"annotations": []} if kind == "output_text" else {})}
        item["content"].append(part)
        place = self._parts[kind] = (self._message, len(item["content"]) - 1)
        yield {
            "type": "response.content_part.added",
            "item_id": item["id"],
            "output_index": place[0],
            "content_index": place[1],
            "part": dict(part),
        }

    def _call(self, number: int, call: dict[str, Any]) -> Iterator[Event]:
        function = call.get("function") or {}
        if number not in self._calls:
            self._calls[number] = len(self.items)
            yield self._add(
                {
                    "type": "function_call",
                    "id": _new_id("fc"),
                    "call_id": call.get("id") or _new_id("call"),
                    "name": function.get("name") or "",
                    "arguments": "",
                }
            )
        index = self._calls[number]
        self.items[index]["name"] = self.items[index]["name"] or function.get("name") or ""
        if arguments := function.get("arguments"):
            self.items[index]["arguments"] += arguments
            yield {
                "type": "response.function_call_arguments.delta",
                "item_id": self.items[index]["id"],
                "output_index": index,
                "delta": arguments,
            }

    def _add(self, item: dict[str, Any]) -> Event:
        item["status"] = "in_progress"
        self.items.append(item)
        kind = "response.output_item.added"
        told = {**item, "content": []} if "content" in item else dict(item)
        return {"type": kind, "output_index": len(self.items) - 1, "item": told}


def _status(call: Call) -> str:
    return "incomplete" if call.finish_reason in _INCOMPLETE else "completed"


def _usage(usage: Usage, told: dict[str, Any]) -> dict[str, Any]:
    """
    Args:
        told: the provider's own, for the details.
    """

    def detail(kind: str, name: str) -> int:
        details = told.get(f"{kind}_tokens_details")
        count = details.get(name) if isinstance(details, dict) else None
        return count if isinstance(count, int) else 0

    cached = ("cached_tokens", "cache_write_tokens")
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {name: detail("prompt", name) for name in cached},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": detail("completion", "reasoning_tokens")},
        "total_tokens": usage.total_tokens,
    }


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
