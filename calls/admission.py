"""Admission: how many calls at once, and none while the server is going down.

A call is accepted once `enter` returned; from there on it has exactly one terminal
outcome. A shutdown waits for the calls in flight, and for those that have arrived and not yet
heard that they are refused.
"""

import asyncio

from call import Call
from errors import CallError


class Admission:
    """The calls in flight, at most `max_in_flight`, which may be set anew."""

    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight = max_in_flight
        self._arrived: set[Call] = set()
        self._in_flight: set[Call] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def arrive(self, call: Call) -> None:
        """Its first header is there; until `leave`."""
        self._arrived.add(call)
        self._empty.clear()

    def enter(self, call: Call) -> None:
        """Give this call a place, until `leave`.

        Raises:
            CallError: `draining` or `overloaded`, at once.
        """
        if self.draining:
            raise CallError("draining", retry_after_s=1)
        if len(self._in_flight) >= self.max_in_flight:
            raise CallError("overloaded", retry_after_s=1)
        self._in_flight.add(call)

    def leave(self, call: Call) -> None:
        """It has been answered, or is gone. Take its place back, if it had one."""
        self._in_flight.discard(call)
        self._arrived.discard(call)
        if not self._arrived:
            self._empty.set()

    async def drained(self) -> None:
        """Wait until no call is in flight or about to be refused."""
        await self._empty.wait()

    def end_all(self) -> None:
        """End every call in flight with `draining`."""
        for call in tuple(self._in_flight):
            call.end(CallError("draining", retry_after_s=1))
