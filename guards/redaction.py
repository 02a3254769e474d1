"""Redaction: personal data out of the prompt, and back into the answer.

    "mail ada@example.com"  ──►  "mail [EMAIL_1]"  ──►  provider
    "Dear ada@example.com"  ◄──  "Dear [EMAIL_1]"  ◄──  provider        (mode restore)

Rules of this module:

- The same value has the same placeholder throughout a call. What stands for what is known to
  this call alone, and goes with it.
- A placeholder that the caller wrote is text like any other: its number is not given out.
- Restoring is one pass, and what was put in is not read again.
- Of a stream no more is held back than could be the beginning of a placeholder.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from config import RedactionConfig
from errors import CallError
from guards.pii import find

_PLACEHOLDER: Final = re.compile(r"\[[A-Z_]{2,12}_[0-9]{1,6}\]")
_BEGINNING: Final = re.compile(r"\[(?:[A-Z_]{0,13}|[A-Z_]{2,12}_[0-9]{1,6})\Z")

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Redacted:
    """What may leave."""

    messages: list[Message]
    counts: dict[str, int]
    """Different values by kind."""
    restorer: "Restorer | None"
    """None where nothing is to be put back."""


class Redactor:
    """Knows what becomes of each kind of value."""

    def __init__(self, config: RedactionConfig) -> None:
        modes = asdict(config)
        self._region: str = modes.pop("phone_region")
        self._modes: dict[str, str] = {k: mode for k, mode in modes.items() if mode != "off"}

    def redact(self, messages: Sequence[Message]) -> Redacted:
        """The messages with placeholders; the given ones stay as they are.

        Raises:
            CallError: `prompt_rejected`, for a kind whose mode is block.
        """
        found = [find(each["content"], self._modes, self._region) for each in messages]
        if not any(found):
            return Redacted(list(messages), {}, None)
        kinds = {each.kind for spans in found for each in spans}
        if blocked := sorted(kind for kind in kinds if self._modes[kind] == "block"):
            raise CallError(
                "prompt_rejected",
                "redaction_block",
                text=f"The prompt holds what may not be sent: {', '.join(blocked)}",
            )
        names = _Names(each["content"] for each in messages)
        redacted = []
        for message, spans in zip(messages, found, strict=True):
            text, read = message["content"], 0
            pieces: list[str] = []
            for start, end, kind in spans:
                pieces += (text[read:start], names.of(text[start:end], kind))
                read = end
            redacted.append({**message, "content": "".join((*pieces, text[read:]))})
        restored = {
            name: value
            for (value, kind), name in names.given.items()
            if self._modes[kind] == "restore"
        }
        counts = Counter(kind for _, kind in names.given)
        return Redacted(redacted, dict(counts), Restorer(restored) if restored else None)


class _Names:
    """Gives out placeholders that occur in none of the texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._taken = {name for text in texts for name in _PLACEHOLDER.findall(text)}
        self._last: Counter[str] = Counter()
        self.given: dict[tuple[str, str], str] = {}

    def of(self, value: str, kind: str) -> str:
        while (value, kind) not in self.given:
            self._last[kind] += 1
            name = f"[{kind.upper()}_{self._last[kind]}]"
            if name not in self._taken:
                self.given[value, kind] = name
        return self.given[value, kind]


class Restorer:
    """Puts values back where their placeholders stand.

    Args:
        values: by placeholder.
    """

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self._held = ""

    def whole(self, text: str) -> str:
        """A text in one piece."""
        return _PLACEHOLDER.sub(lambda match: self._values.get(match[0], match[0]), text)

    def feed(self, deltas: list[str]) -> list[str]:
        """What may go on of a text that comes in pieces."""
        if not self._held and not any("[" in delta for delta in deltas):
            return deltas
        text = self._held + "".join(deltas)
        beginning = _BEGINNING.search(text, max(0, text.rfind("[")))
        self._held = beginning[0] if beginning else ""
        ready = self.whole(text[: len(text) - len(self._held)])
        return [ready] if ready else []

    def end(self) -> str:
        """What was held back when the text ended."""
        rest, self._held = self._held, ""
        return rest
