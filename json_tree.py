"""JSON documents, whoever sent them: walked without recursion, for they may be deep."""

from collections.abc import Collection, Iterator
from typing import Any

Place = tuple[Any, Any]
"""A dict or a list, and the key or index in it."""


def leaves(
    document: Any, skipped: Collection[str] = (), kind: type[str] | type[int] = str
) -> Iterator[Place]:
    """Where the strings (or whole numbers) are, but for those under `skipped` keys."""
    stack = [document]
    while stack:
        holder = stack.pop()
        deeper = []
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(value, dict | list):
                deeper.append(value)
            elif isinstance(value, kind) and key not in skipped:
                yield holder, key
        stack += reversed(deeper)


def exceeds_depth(document: Any, levels: int) -> bool:
    """Whether dicts and lists are nested more than so many levels deep."""
    level = [document]
    for _ in range(levels):
        level = [
            inner
            for holder in level
            if isinstance(holder, dict | list)
            for inner in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
