"""The chat completion's JSON, buffered and streamed, checked by type before it is believed.

A 200 proves nothing: it may carry null, HTML, an error object or no choice at all. Each
function here either returns a value with the right types or raises a `CallError`.
Wire format: https://platform.openai.com/docs/api-reference/chat
"""

from typing import Any, Final, NamedTuple

import orjson

from call import Usage
from errors import CallError
from provider.sse import Event
from provider.translate import body_error

DONE: Final = b"[DONE]"


class Completion(NamedTuple):
    """A whole answer."""

    text: str
    finish_reason: str
    usage: Usage | None


class Delta(NamedTuple):
    """What one event of a stream adds. Any of the three may be empty."""

    text: str
    finish_reason: str | None
    usage: Usage | None


def parse_completion(body: bytes) -> Completion:
    """The answer in a buffered body.

    Raises:
        CallError: `provider_unavailable` for anything but a completion, `prompt_rejected`
            where the provider's content filter left no answer.
    """
    document = _object(body)
    choice = _first_choice(document)
    finish_reason = _text(choice.get("finish_reason")) if choice else ""
    message = choice.get("message") if choice else None
    if not finish_reason or not isinstance(message, dict):
        raise _garbage("no_choice")
    text = _text(message.get("content")) or _text(message.get("refusal"))
    if finish_reason == "content_filter" and not text:
        raise CallError("prompt_rejected", "content_filter")
    return Completion(text, finish_reason, _usage(document.get("usage")))


def parse_event(event: Event) -> Delta:
    """What one streamed event adds; the caller has met `DONE` itself.

    Raises:
        CallError: for an error event in either of its two shapes, or for garbage.
    """
    document = _object(event.data)
    if event.name == b"error":
        raise body_error(document)
    usage = _usage(document.get("usage"))
    choice = _first_choice(document)
    if choice is None:  # usage alone, or Azure's prompt filter results
        return Delta("", None, usage)
    delta = choice.get("delta")
    fields = delta if isinstance(delta, dict) else {}
    text = _text(fields.get("content")) or _text(fields.get("refusal"))
    return Delta(text, _text(choice.get("finish_reason")) or None, usage)


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)  # refuses bad UTF-8, NaN, and more than 1,024 levels
    except orjson.JSONDecodeError:
        raise _garbage("bad_json") from None
    if not isinstance(document, dict):
        raise _garbage("bad_json")
    if document.get("error"):
        raise body_error(document["error"])
    return document


def _first_choice(document: dict[str, Any]) -> dict[str, Any] | None:
    choices = document.get("choices")
    if not isinstance(choices, list):
        raise _garbage("no_choice")
    if not choices:
        return None
    if not isinstance(choices[0], dict):
        raise _garbage("no_choice")
    return choices[0]


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _garbage("bad_type")
    return value


def _usage(value: object) -> Usage | None:
    """Token counts, or None where the provider sent none it is possible to believe."""
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    total = value.get("total_tokens")
    counts = (prompt, completion, total)
    if any(type(count) is not int or count < 0 for count in counts):
        return None
    return Usage(prompt, completion, total)  # type: ignore[arg-type]


def _garbage(reason: str) -> CallError:
    return CallError("provider_unavailable", reason, unhealthy=True)
