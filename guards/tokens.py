"""The token budget: what a prompt weighs, counted as OpenAI's models count, without network.

    prompt = 3 + sum over messages of (3 + role + content)        (the cookbook's formula)

and tools and formats as the JSON they are.

Rules of this module:

- The tables are in tokens/; for a model that tiktoken does not know, o200k_base is an estimate.
- No token is longer than 128 bytes, so a prompt far beyond its budget is refused by its length
  alone; a long one within it, or one of many texts, is counted in a thread, where tiktoken holds
  no lock.
- An answer is counted on its way only when it could have passed its limit, for no token is
  shorter than a byte, and every few kilobytes.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from math import inf
from typing import Any, Final

import tiktoken

from call import Call
from config import Config
from errors import CallError
from guards.redaction.fields import THREAD_FROM_WORK, WORK_PER_TEXT, packed, places
from json_tree import leaves

_PER_MESSAGE: Final = 3
_PER_PROMPT: Final = 3
_WEIGHED: Final = ("tools", "functions", "response_format", "prediction")
# At high detail, of eight tiles; the provider's own count is charged in the end.
_PER_IMAGE: Final = 1445
# Base64 of a scanned page or of speech: rather too few.
_DATA_PER_TOKEN: Final = 100
_LONGEST_TOKEN_BYTES: Final = 128
# No more of an answer than this is kept to be counted.
_PIECE_BYTES: Final = 4096
# Counted piece by piece, an answer weighs a little more than in one piece.
_PIECES_SLACK: Final = 8
# An engine with a vocabulary of its own may need so many of ours for one of its tokens.
_FOREIGN_SLACK: Final = 2

Count = Callable[[str], int]


@cache
def tokenizer(model: str) -> Count:
    """What counts the tokens of a text for this model."""
    encoding = _encoding("cl100k_base" if _table(model) == "cl100k_base" else "o200k_base")
    return lambda text: len(encoding.encode_ordinary(text))


def warm_up(config: Config) -> None:
    """Load what the configured models are counted by: 0.3 s that no call should wait for."""
    for model in config.models.values():
        for target in model.upstream:
            tokenizer(target.model)


async def count_prompt(call: Call, model: str, max_prompt_tokens: int) -> None:
    """Set `call.prompt_tokens`.

    Args:
        model: as its provider calls it.

    Raises:
        CallError: `prompt_too_long`, with limit and count.
    """
    texts = [holder[key] for holder, key in places(call.messages)]
    texts += [packed(call.options[name]) for name in _WEIGHED if name in call.options]
    characters = sum(map(len, texts))
    at_least = characters // _LONGEST_TOKEN_BYTES
    if at_least > max_prompt_tokens:
        raise _too_long(max_prompt_tokens, f"at least {at_least}")
    if characters + WORK_PER_TEXT * len(texts) < THREAD_FROM_WORK:
        tokens = _weight(model, texts)
    else:
        tokens = await asyncio.to_thread(_weight, model, texts)
    # Every role that a message here can have is one token.
    tokens += _PER_PROMPT + (_PER_MESSAGE + 1) * len(call.messages)
    call.prompt_tokens = tokens + sum(map(_attachments, call.messages))
    if call.prompt_tokens > max_prompt_tokens:
        raise _too_long(max_prompt_tokens, str(call.prompt_tokens))


def _weight(model: str, texts: Sequence[str]) -> int:
    return sum(map(tokenizer(model), texts))


def _attachments(message: dict[str, Any]) -> int:
    """An estimate of what is no text in a message."""
    content = message.get("content")
    if not isinstance(content, list):
        return 0
    tokens = 0
    for part in content:
        if part.get("type") == "image_url":
            tokens += _PER_IMAGE
        for holder, key in leaves(part):
            if key in ("data", "file_data"):
                tokens += len(holder[key]) // _DATA_PER_TOKEN
    return tokens


async def count_answer(model: str, text: str) -> int:
    """Tokens of an answer, where the provider has not said how many.

    Args:
        model: as its provider calls it.
    """
    count = tokenizer(model)
    if len(text) < THREAD_FROM_WORK:
        return count(text)
    return await asyncio.to_thread(count, text)


class AnswerMeter:
    """Counts a streamed answer on its way.

    Args:
        model: as its provider calls it.
        max_tokens: the limit that was sent to the provider, for all answers together; an engine
            that ignores it is cut. None: none was sent, and the answer is counted only.
    """

    def __init__(self, model: str, max_tokens: int | None) -> None:
        self._count = tokenizer(model)
        slack = 1 if _table(model) else _FOREIGN_SLACK
        self._limit = inf if max_tokens is None else max_tokens * slack + _PIECES_SLACK
        self._counted = 0
        self._pending: list[str] = []
        self._pending_bytes = 0

    def within_limit(self, deltas: Iterable[str]) -> bool:
        """Add these texts; False once the answer is longer than its limit."""
        for delta in deltas:
            self._pending.append(delta)
            self._pending_bytes += len(delta.encode())
        too_long_at_worst = self._counted + self._pending_bytes > self._limit
        if too_long_at_worst or self._pending_bytes > _PIECE_BYTES:
            return self.tokens() <= self._limit
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said yet."""
        return not (self._counted or self._pending_bytes)

    def tokens(self) -> int:
        """Tokens so far."""
        if self._pending:
            self._counted += self._count("".join(self._pending))
            self._pending.clear()
            self._pending_bytes = 0
        return self._counted


def _too_long(limit: int, count: str) -> CallError:
    return CallError(
        "prompt_too_long", text=f"The prompt has {count} tokens; the limit is {limit} tokens"
    )


@cache
def _table(model: str) -> str | None:
    try:
        return tiktoken.encoding_name_for_model(model)
    except KeyError:
        return None


@cache
def _encoding(name: str) -> tiktoken.Encoding:
    encoding = tiktoken.get_encoding(name)
    # It has told Rust all of this table, and keeps it for what we never ask: 30 MB.
    encoding._mergeable_ranks.clear()
    return encoding
