"""The chat completion's JSON, buffered and streamed, checked by type before it is believed.

A 200 proves nothing: it may carry null, HTML, an error object or no choice at all. Each
function here either returns a value with the right types or raises a `CallError`.
Wire format: https://platform.openai.com/docs/api-reference/chat
"""

import re
from typing import Any, Final, NamedTuple

import orjson

from call import Usage
from errors import CallError
from json_tree import exceeds_depth, leaves
from provider.dialects.finish_reason import finish_reason
from provider.failures import body_error
from provider.refusal import error_in
from provider.sse import Event

DONE: Final = b"[DONE]"
# Names, and what is data: sound is not counted in words.
_NOT_SAID: Final = frozenset(
    ("role", "id", "type", "data", "format", "signature", "encrypted_content")
)
_HEAD: Final = frozenset(("id", "object", "model", "usage"))
_WORDS: Final = {"content"}
_MAX_LEVELS: Final = 100
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")


class Completion(NamedTuple):
    """A whole answer."""

    document: dict[str, Any]
    """The provider's own; each choice has a message and a finish reason."""
    finish_reason: str
    """Of the first choice; `other` for words that are the provider's own."""
    words: str
    """All that counts as answer, of every choice."""
    filtered: bool
    """Whether the provider's content filter took some of it away."""
    usage: Usage | None


class Delta(NamedTuple):
    """What one event of a stream adds."""

    document: dict[str, Any]
    """The provider's own; its choices are objects."""
    said: str
    """All that counts as answer: words, refusals, thoughts, tool calls, of every choice."""
    choices: list[tuple[int, str | None]]
    """Which choices these are, and why they end, if they do."""
    usage: Usage | None

    @property
    def is_content(self) -> bool:
        """Whether a caller who saw this has seen some of the answer."""
        return any(reason for _, reason in self.choices) or self.is_answer

    @property
    def is_answer(self) -> bool:
        """Whether that is more than its end."""
        return bool(self.said) or any(
            (choice.get("delta") or {}).get("audio") for choice in self.document["choices"]
        )


def parse_completion(body: bytes) -> Completion:
    """The answer in a buffered body.

    Raises:
        CallError: `provider_unavailable` for anything but a completion, `prompt_rejected`
            where the provider's content filter left no answer.
    """
    document = _object(body)
    choices = _choices(document)
    if not choices:
        raise filtered() if is_empty_answer(document) else _invalid_response("no_choice")
    for choice in choices:
        if choice.get("message") is None and _reason(choice) == "content_filter":
            choice["message"] = {"role": "assistant", "content": None}
        if not _text(choice.get("finish_reason")) or not isinstance(choice.get("message"), dict):
            raise _invalid_response("no_choice")
    reasons = [_reason(choice) for choice in choices]
    words = said(choices, "message")
    if set(reasons) == {"content_filter"} and not words:
        raise filtered()
    is_filtered = "content_filter" in reasons
    return Completion(document, reasons[0] or "other", words, is_filtered, usage_of(document))


def is_empty_answer(document: dict[str, Any]) -> bool:
    """Whether it is all that an answer has but for a choice: so Gemini says that a filter stopped
    the prompt."""
    return not document["choices"] and not _HEAD.isdisjoint(document)


def filtered() -> CallError:
    """The provider's moderation left nothing of an answer."""
    return CallError("prompt_rejected", "moderation")


def usage_in(body: bytes) -> Usage | None:
    """Token counts in the body of an answer that is refused: it may be billed all the same."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return usage_of(document) if isinstance(document, dict) else None


def parse_event(event: Event) -> Delta:
    """What one streamed event adds; the caller has met `DONE` itself.

    Raises:
        CallError: for an error event in either of its two shapes, or for garbage.
    """
    document = _object(event.data)
    if event.name == b"error":
        raise body_error(document)
    choices = _choices(document)  # none: usage alone, or Azure's prompt filter results
    ends = [(_index(choice), _reason(choice)) for choice in choices]
    return Delta(document, said(choices, "delta"), ends, usage_of(document))


def first_text(document: dict[str, Any], part: str) -> str:
    """The words, or the refusal, of the first choice.

    Args:
        part: `message` of a whole answer, `delta` of an event.
    """
    for choice in document["choices"]:
        if _index(choice) == 0:
            fields = choice.get(part) or {}
            return _text(fields.get("content")) or _text(fields.get("refusal"))
    return ""


def said(choices: list[dict[str, Any]], part: str) -> str:
    """Everything that was said in all choices, for its weight."""
    if len(choices) == 1:
        fields = choices[0].get(part)
        if fields and fields.keys() == _WORDS:  # the usual case
            return _text(fields["content"])
    found = (
        holder[key]
        for choice in choices
        for holder, key in leaves(choice.get(part) or {}, _NOT_SAID)
    )
    return "".join(found)


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)  # refuses bad UTF-8, NaN, and more than 1,024 levels
    except orjson.JSONDecodeError:
        raise _invalid_response("bad_json") from None
    if error := error_in(document):
        raise body_error(error)
    if not isinstance(document, dict):
        raise _invalid_response("bad_json")
    if data.count(b"[") + data.count(b"{") > _MAX_LEVELS and exceeds_depth(document, _MAX_LEVELS):
        raise _invalid_response("too_deep")  # it could not be passed on
    return document


def _choices(document: dict[str, Any]) -> list[dict[str, Any]]:
    choices = document.get("choices")
    if not isinstance(choices, list):
        raise _invalid_response("no_choice")
    for choice in choices:
        if not isinstance(choice, dict):
            raise _invalid_response("no_choice")
        if error := choice.get("error"):
            raise body_error(error)
        for part in ("message", "delta"):
            fields = choice.get(part)
            if fields is None:
                continue
            if not isinstance(fields, dict):
                raise _invalid_response("bad_type")
            _text(fields.get("content"))
            _text(fields.get("refusal"))
            if fields.get("tool_calls"):
                _check_calls(fields["tool_calls"])
    return choices


def _check_calls(calls: object) -> None:
    if not isinstance(calls, list):
        raise _invalid_response("bad_type")
    for call in calls:
        function = call.get("function") or {} if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise _invalid_response("bad_type")
        _index(call)
        for value in (call.get("id"), function.get("name"), function.get("arguments")):
            _text(value)


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index", 0)
    if not isinstance(index, int):
        raise _invalid_response("bad_type")
    return index


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _invalid_response("bad_type")
    return value


def _reason(choice: dict[str, Any]) -> str | None:
    return finish_reason(_text(choice.get("finish_reason")))


def usage_of(document: dict[str, Any]) -> Usage | None:
    """Token counts, or None where the provider sent none that can be true."""
    value = document.get("usage")
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    total = value.get("total_tokens")
    counts = (prompt, completion, total)
    if any(type(count) is not int or count < 0 for count in counts):
        return None
    if prompt == 0 or total < prompt + completion:  # type: ignore[operator]
        return None
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    if type(cached) is not int or not 0 <= cached <= prompt:  # type: ignore[operator]
        cached = 0
    return Usage(prompt, completion, total, cached)  # type: ignore[arg-type]


def model_of(document: dict[str, Any]) -> str | None:
    """The model that answered, where that looks like a name of one."""
    name = document.get("model")
    return name if isinstance(name, str) and _MODEL.fullmatch(name) else None


def _invalid_response(reason: str) -> CallError:
    return CallError("provider_unavailable", reason, unhealthy=True)
