"""Admission: how many calls at once, and none while the server is going down.

A call is accepted once it is inside `admit`; from there on it has exactly one terminal
outcome, and the set of calls in flight is what a shutdown waits for.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from call import Call
from errors import CallError


class Admission:
    """The calls in flight, at most `max_in_flight`."""

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._in_flight: set[Call] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @contextmanager
    def admit(self, call: Call) -> Iterator[None]:
        """Hold a place for this call.

        Raises:
            CallError: `draining` or `overloaded`, at once.
        """
        if self.draining:
            raise CallError("draining", retry_after_s=1)
        if len(self._in_flight) >= self._max_in_flight:
            raise CallError("overloaded", retry_after_s=1)
        self._in_flight.add(call)
        self._empty.clear()
        try:
            yield
        finally:
            self._in_flight.discard(call)
            if not self._in_flight:
                self._empty.set()

    async def drained(self) -> None:
        """Wait until no call is in flight."""
        await self._empty.wait()

    def end_all(self) -> None:
        """End every call in flight with `draining`."""
        for call in tuple(self._in_flight):
            call.end(CallError("draining", retry_after_s=1))
