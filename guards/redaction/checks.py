"""Checks of candidates: a detector finds what has the shape of a value, a check decides.

Rules of this module:

- A check is made a thousand times for a text; after that the shape is enough: such a text is no
  letter, and too much hidden is better than too little.
- A check that raises, as one of a library may, has decided nothing: the shape is enough then,
  too. It fails no call, is counted, and logged once by kind and exception type: the exception's
  text may quote the value.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Final, TypeVar

T = TypeVar("T")
Span = tuple[int, int]
"""From and to in a text, as a slice."""

log: Final = logging.getLogger("sluice.redaction")

failures: Final[Counter[tuple[str, str]]] = Counter()
"""How often a detector raised, by kind and exception type."""
_lock: Final = Lock()


def bounded(kind: str, check: Callable[[T], bool], most: int = 1000) -> Callable[[T], bool]:
    """The check, which says yes where it fails, and unseen after it was made so often."""
    left = most

    def checked(value: T) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            return True
        try:
            return check(value)
        except Exception as error:
            _count(kind, error)
            return True

    return checked


def unfailing(kind: str, found: Iterable[T]) -> Iterator[T]:
    """What a detector finds; one that raises outside of its checks has found no more."""
    try:
        yield from found
    except Exception as error:
        _count(kind, error)


def _count(kind: str, error: Exception) -> None:
    key = kind, type(error).__name__
    with _lock:  # texts are read in threads, too
        failures[key] += 1
        first = failures[key] == 1
    if first:
        log.error("detector_failed", extra={"check": kind, "error_type": key[1]})
