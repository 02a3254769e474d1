"""Restoring: what redaction took out of the prompt, back into the answer.

Rules of this module:

- It is one pass, and what was put in is not read again.
- Each text of a stream is one of its own: of every choice the words, the refusal, the thoughts,
  and the arguments of each tool call. Of each no more is held back than could be the beginning
  of a placeholder, and that leaves at the latest with the choice's finish reason.
- Inside the arguments of a tool a value stands as JSON wants it.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from guards.redaction.fields import NOT_TEXT, escaped
from json_tree import Place, leaves

PLACEHOLDER: Final = re.compile(r"\[[A-Z_]{2,12}_[0-9]{1,6}\]")
_BEGINNING: Final = re.compile(r"\[(?:[A-Z_]{0,13}|[A-Z_]{2,12}_[0-9]{1,6})\Z")


class Restorer:
    """Puts values back into one text.

    Args:
        values: by placeholder.
    """

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self._held = ""

    def whole(self, text: str) -> str:
        """A text in one piece."""
        return PLACEHOLDER.sub(lambda match: self._values.get(match[0], match[0]), text)

    def feed(self, delta: str) -> str:
        """What may go on of a text that comes in pieces."""
        if not self._held and "[" not in delta:
            return delta
        text = self._held + delta
        beginning = _BEGINNING.search(text, max(0, text.rfind("[")))
        self._held = beginning[0] if beginning else ""
        return self.whole(text[: len(text) - len(self._held)])

    def end(self) -> str:
        """What was held back when the text ended."""
        rest, self._held = self._held, ""
        return rest


class AnswerRestorer:
    """Puts values back into an answer of chat completions, whole or streamed.

    Args:
        values: by placeholder.
    """

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self._escaped = {name: escaped(value) for name, value in values.items()}
        self._texts: dict[tuple[Any, ...], Restorer] = {}
        """By choice, key, and the number of the tool call."""

    def whole(self, document: dict[str, Any]) -> None:
        """Restore the messages of a whole answer where they stand."""
        for choice in document["choices"]:
            for holder, key in leaves(choice["message"], NOT_TEXT):
                holder[key] = self._restorer(key).whole(holder[key])

    def feed(self, document: dict[str, Any]) -> None:
        """Restore the deltas of one event where they stand."""
        for choice in document["choices"]:
            index = choice.get("index", 0)
            delta = choice.get("delta")
            if delta is None:
                delta = choice["delta"] = {}
            for name, (holder, key) in _texts(delta):
                text = self._texts.setdefault((index, *name), self._restorer(key))
                holder[key] = text.feed(holder[key])
            if choice.get("finish_reason"):
                self._end(index, delta)

    def _restorer(self, key: str) -> Restorer:
        return Restorer(self._escaped if key == "arguments" else self._values)

    def _end(self, index: int, delta: dict[str, Any]) -> None:
        """Let go of what was held back of this choice."""
        for name in [name for name in self._texts if name[0] == index]:
            rest = self._texts.pop(name).end()
            if not rest:
                continue
            _, key, *number = name
            if number:
                calls = delta["tool_calls"] = delta.get("tool_calls") or []
                calls.append({"index": number[0], "function": {"arguments": rest}})
            else:
                delta[key] = (delta.get(key) or "") + rest


def _texts(delta: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Place]]:
    """The texts of a delta that go on in the next one, each by its name."""
    for key, value in delta.items():
        if isinstance(value, str) and key not in NOT_TEXT:
            yield (key,), (delta, key)
    calls = delta.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            yield ("tool_calls", call.get("index", 0)), (function, "arguments")
