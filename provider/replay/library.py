"""The recordings of a folder, and which of them answers a request best.

A prompt is answered by the recording of the same conversation; else of the same last message; else
of the one that shares most words; else of "Hello".
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from errors import ConfigError
from provider.replay.cassette import Recording, load

Conversation = tuple[tuple[str, str], ...]

_OPERATORS: Final = frozenset(("system", "developer"))


class Library:
    """The recordings of a folder of cassettes, or of one."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.failures: dict[str, list[Recording]] = {}
        self._answers: dict[bool, dict[Conversation, list[Recording]]] = {True: {}, False: {}}
        cassettes = {path.stem: load(path) for path in files}
        for name, recordings in cassettes.items():
            if all(recording.status >= 400 for recording in recordings):
                self.failures[name] = recordings
                if len(cassettes) > 1:
                    continue
            self._add(recordings)

    @classmethod
    def open(cls, path: Path) -> "Library":
        """The library at this path.

        Raises:
            ConfigError: nothing is there, or it is not a recording.
        """
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not files:
            raise ConfigError(f"{path}: holds no cassettes (*.yaml)")
        return cls(files)

    def _add(self, recordings: list[Recording]) -> None:
        by_request: dict[tuple[bool, Conversation], list[Recording]] = defaultdict(list)
        for recording in recordings:
            request = recording.request
            by_request[bool(request.get("stream")), _conversation(request)].append(recording)
        for (streamed, conversation), recorded in by_request.items():
            self._answers[streamed].setdefault(conversation, recorded)

    def find(self, request: dict[str, object]) -> tuple[list[Recording], str]:
        """The recordings, by attempt, that answer this request best, and how they fit it, as
        `RECORDING_HEADER` says it. Empty: there are none."""
        answers = self._answers[bool(request.get("stream"))]
        wanted = _conversation(request)
        if wanted in answers or not answers:
            return answers.get(wanted, []), "exact"

        if not wanted:
            wanted = (("user", ""),)

        def nearness(conversation: Conversation) -> tuple[bool, float, bool]:
            text, recorded = wanted[-1][1], conversation[-1][1]
            return text == recorded, _jaccard(text, recorded), recorded == "Hello"

        return answers[max(answers, key=nearness)], "substitute"


def _conversation(request: dict[str, object]) -> Conversation:
    """Who said what, without system prompts."""
    messages = request.get("messages")
    assert isinstance(messages, list)
    return tuple((m["role"], _text(m)) for m in messages if m["role"] not in _OPERATORS)


def _text(message: dict[str, Any]) -> str:
    """The words of a message, whose content may be parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def _jaccard(one: str, other: str) -> float:
    """The Jaccard index of their words, from 0 to 1."""
    words, others = (set(re.findall(r"\w+", text.lower())) for text in (one, other))
    return len(words & others) / max(1, len(words | others))
