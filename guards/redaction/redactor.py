"""Redaction: personal data out of the prompt.

    "mail ada@example.com"  ──►  "mail [EMAIL_1]"  ──►  provider
    "Dear ada@example.com"  ◄──  "Dear [EMAIL_1]"  ◄──  provider        (restorer.py)

Rules of this module:

- The same value has the same placeholder throughout a call. What stands for what is known to
  this call alone, and goes with it.
- A placeholder that the caller wrote is text like any other: its number is not given out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from config import RedactionConfig
from errors import CallError
from guards.redaction.detect import Found, find
from guards.redaction.fields import ToolArguments, places
from guards.redaction.restorer import PLACEHOLDER
from json_tree import Place


@dataclass(frozen=True, slots=True)
class Redacted:
    """What was replaced."""

    counts: dict[str, int]
    """Different values by kind."""
    restored: dict[str, str]
    """What is to be put back into the answer, by placeholder."""


class Redactor:
    """Knows what becomes of each kind of value."""

    def __init__(self, config: RedactionConfig) -> None:
        modes = asdict(config)
        self._region: str = modes.pop("phone_region")
        self._modes: dict[str, str] = {k: mode for k, mode in modes.items() if mode != "off"}

    def redact(self, values: Sequence[dict[str, Any]]) -> Redacted:
        """Put placeholders into these messages, or other objects, where they stand.

        Raises:
            CallError: `prompt_rejected`, for a kind whose mode is block; nothing is changed.
        """
        found: list[tuple[Place, str, list[Found], ToolArguments | None]] = []
        for place in places(values):
            arguments = ToolArguments.parse(place)
            for holder, key in arguments.places if arguments else (place,):
                text = str(holder[key])
                found.append(((holder, key), text, self._find(text), arguments))
        kinds = {kind for _, _, spans, _ in found for _, _, kind in spans}
        if not kinds:
            return Redacted({}, {})
        if blocked := sorted(kind for kind in kinds if self._modes[kind] == "block"):
            raise CallError(
                "prompt_rejected",
                "redaction_block",
                text=f"The prompt holds what may not be sent: {', '.join(blocked)}",
            )
        names = _Names(text for _, text, _, _ in found)
        changed: dict[ToolArguments, None] = {}
        for (holder, key), text, spans, arguments in found:
            if not spans:
                continue
            read = 0
            pieces: list[str] = []
            for start, end, kind in spans:
                pieces += (text[read:start], names.of(text[start:end], kind))
                read = end
            holder[key] = "".join((*pieces, text[read:]))
            if arguments:
                changed[arguments] = None
        for arguments in changed:
            arguments.close()
        restored = {
            name: value
            for (value, kind), name in names.given.items()
            if self._modes[kind] == "restore"
        }
        return Redacted(dict(Counter(kind for _, kind in names.given)), restored)

    def _find(self, text: str) -> list[Found]:
        return find(text, self._modes, self._region)


class _Names:
    """Gives out placeholders that occur in none of the texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._taken = {name for text in texts for name in PLACEHOLDER.findall(text)}
        self._last: Counter[str] = Counter()
        self.given: dict[tuple[str, str], str] = {}

    def of(self, value: str, kind: str) -> str:
        while (value, kind) not in self.given:
            self._last[kind] += 1
            name = f"[{kind.upper()}_{self._last[kind]}]"
            if name not in self._taken:
                self.given[value, kind] = name
        return self.given[value, kind]
