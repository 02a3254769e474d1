"""Where the texts are in a request or an answer of chat completions.

    for holder, key in places(messages):  holder[key] is a text

Rules of this module:

- Every string is a text, wherever it stands, but for what is known to be a name, an address or
  data: a field that nobody here has heard of is read, too.
- The arguments of a tool are JSON inside a string. They are read as what they say.
"""

from collections.abc import Iterable
from typing import Any, Final

import orjson

from json_tree import Place, leaves

NOT_TEXT: Final = frozenset(
    (
        "role", "type", "id", "tool_call_id", "format", "detail",
        "url", "data", "file_data", "file_id", "signature", "encrypted_content",
    )
)  # fmt: skip
THREAD_FROM_WORK: Final = 32_768
"""Texts of so many characters are read in a thread. That costs a tenth of a millisecond."""
WORK_PER_TEXT: Final = 256
"""To look through a short text takes 2 to 13 µs, as long as for so many characters."""
# Deeper ones could not be packed again: they are read as they stand.
_MAX_BRACKETS: Final = 200
# No number that is shorter is anybody's.
_LEAST_NUMBER: Final = 1_000_000


def places(values: Iterable[Any]) -> list[Place]:
    """The texts in these messages, or other objects."""
    found: list[Place] = []
    for value in values:
        if len(value) == 2 and isinstance(value.get("content"), str):
            found.append((value, "content"))  # the usual message
        else:
            found += leaves(value, NOT_TEXT)
    return found


def work(found: Iterable[Place]) -> int:
    """What it takes to read these texts, in characters. Each item within the arguments of a tool
    is a text of its own."""
    total = 0
    for holder, key in found:
        text = holder[key]
        items = text.count(",") if key == "arguments" else 0
        total += len(text) + WORK_PER_TEXT * (1 + items)
    return total


class ToolArguments:
    """The arguments of a tool, opened."""

    def __init__(self, place: Place, document: Any) -> None:
        self._place = place
        self._document = document
        self.places = list(leaves(document))
        self.places += [
            (holder, key)
            for holder, key in leaves(document, kind=int)
            if holder[key] >= _LEAST_NUMBER
        ]

    @classmethod
    def parse(cls, place: Place) -> "ToolArguments | None":
        """None where the text is none, or is not JSON."""
        holder, key = place
        if key != "arguments":
            return None
        text = holder[key]
        if text.count("[") + text.count("{") > _MAX_BRACKETS:
            return None
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        return cls(place, document) if isinstance(document, dict | list) else None

    def close(self) -> None:
        """Write them back."""
        holder, key = self._place
        holder[key] = packed(self._document)


def packed(document: Any) -> str:
    """JSON in a string."""
    return orjson.dumps(document).decode()


def escaped(text: str) -> str:
    """A text as it stands between the quotes of JSON."""
    return packed(text)[1:-1]
