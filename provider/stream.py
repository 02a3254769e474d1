"""One streamed answer: the provider's bytes in, lists of deltas out.

Rules of this module:

- What one read brings is handed on as one list, so what arrives together leaves together.
- Words that came before a fault are handed on before it is raised.
- Only an event restarts the idle timer; comments and half events are silence. The timer
  runs while we wait for the provider, never while the client is slow to read.
- A stream in which moderation left no answer is no answer: `prompt_rejected`.
- A finish reason for each choice makes the answer whole: whatever breaks after it costs the
  usage at most. An end without one is truncation, and that is a failure.
"""

import asyncio
from collections.abc import AsyncIterable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Final, cast

import httpx2

from call import Usage
from errors import CallError
from provider.deadline import IdleTimer
from provider.dialects.openai_chat import (
    DONE,
    Delta,
    filtered,
    is_empty_answer,
    model_of,
    parse_event,
)
from provider.failures import body_error, translating_errors
from provider.refusal import error_in, from_body
from provider.sse import Event, LineTooLong, SSEDecoder

_DRAIN_S: Final = 0.5
# Events before the first content: one that gives a role for each choice.
_MAX_HELD: Final = 128


class ChatStream:
    """An async iterator over lists of deltas.

    `finish_reasons` (by choice), `usage` (the greatest count) and `model` hold what the provider
    has said of them so far.

    Args:
        response: a response whose body has not been read; closed by `aclose`.
        idle_s: seconds between two events.
        on_unhealthy: called when the stream, once begun, breaks by the provider's fault.

    Raises (while iterating):
        CallError: `deadline_exceeded` when the provider falls silent, `provider_unavailable`
            when the stream breaks, turns to garbage or ends unfinished.
    """

    def __init__(
        self,
        response: httpx2.Response,
        *,
        idle_s: float,
        max_line_bytes: int,
        on_unhealthy: Callable[[], None],
    ) -> None:
        self._response = response
        self._idle = IdleTimer("idle_timeout", idle_s)
        self._on_unhealthy = on_unhealthy
        self._decoder = SSEDecoder(max_line_bytes)
        self._chunks = aiter(cast(AsyncIterable[bytes], response.stream))
        self._held: list[Delta] = []
        self._fault: CallError | None = None
        self._done = False
        self.finish_reasons: dict[int, str | None] = {}
        self.usage: Usage | None = None
        self.model: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the answer came to its own end, nothing of it taken away by a filter."""
        return self.whole and "content_filter" not in self.finish_reasons.values()

    @property
    def whole(self) -> bool:
        """Whether there was a choice, and each has ended."""
        return bool(self.finish_reasons) and None not in self.finish_reasons.values()

    async def begin(self) -> None:
        """Read up to the first content; the attempt around it bounds and counts this."""
        kind = self._response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            if error := error_in(from_body(await self._response.aread())):
                raise body_error(error)
            raise CallError("provider_unavailable", "not_a_stream", unhealthy=True)
        while not any(delta.is_content for delta in self._held):
            self._held = self._held[:_MAX_HELD] + await self._next_deltas(nullcontext())
        if (
            self.whole
            and set(self.finish_reasons.values()) == {"content_filter"}
            and not any(delta.is_answer for delta in self._held)
        ):
            raise filtered()
        self.model = model_of(self._held[-1].document)

    def __aiter__(self) -> "ChatStream":
        return self

    async def __anext__(self) -> list[Delta]:
        if self._held:
            deltas, self._held = self._held, []
            return deltas
        try:
            with translating_errors():
                return await self._next_deltas(self._idle)
        except CallError as error:
            if self.whole:
                self._done = True
                raise StopAsyncIteration from None
            if error.unhealthy:
                self._on_unhealthy()
            raise

    def cut(self) -> dict[str, Any]:
        """End here; the event that says so, as the provider would have."""
        ends = [index for index, reason in self.finish_reasons.items() if reason is None]
        self.finish_reasons |= dict.fromkeys(ends, "length")
        return {
            "choices": [{"index": index, "delta": {}, "finish_reason": "length"} for index in ends]
        }

    async def aclose(self) -> None:
        """Close the socket, or keep the connection where the provider ends the body in time."""
        self._idle.close()
        if self._done:
            with suppress(Exception):
                async with asyncio.timeout(_DRAIN_S):
                    async for _ in self._chunks:
                        pass
        await self._response.aclose()

    async def _next_deltas(self, idle: AbstractContextManager[None]) -> list[Delta]:
        """The deltas of the next read that brings any."""
        while True:
            if self._fault is not None:
                raise self._fault
            if self._done:
                raise StopAsyncIteration
            with idle:
                while not (events := await self._read()):
                    pass
            if deltas := self._take(events):
                return deltas

    async def _read(self) -> list[Event]:
        """The events that one read completes; the end of the body reads as `DONE`."""
        try:
            return self._decoder.feed(await anext(self._chunks))
        except StopAsyncIteration:
            return [Event(b"", DONE)]
        except LineTooLong:
            raise CallError("provider_unavailable", "oversize") from None

    def _take(self, events: list[Event]) -> list[Delta]:
        deltas: list[Delta] = []
        try:
            for event in events:
                if event.data == DONE:
                    if not self.whole:
                        raise self._unfinished([*self._held, *deltas])
                    self._done = True
                    break
                delta = parse_event(event)
                for index, reason in delta.choices:
                    if reason or index not in self.finish_reasons:
                        self.finish_reasons[index] = reason
                self.usage = _greater(delta.usage, self.usage)
                deltas.append(delta)
        except CallError as fault:
            self._fault = fault
        return deltas

    def _unfinished(self, deltas: list[Delta]) -> CallError:
        """What an end means before each choice has ended; `deltas` are all that came if none has
        begun."""
        if not self.finish_reasons and any(is_empty_answer(delta.document) for delta in deltas):
            return filtered()
        return CallError("provider_unavailable", "truncated", transient=True, unhealthy=True)


def _greater(new: Usage | None, old: Usage | None) -> Usage | None:
    """Some providers count in every event, and some send zeros in the last."""
    if new is None or old is None:
        return new or old
    return new if new.total_tokens >= old.total_tokens else old
