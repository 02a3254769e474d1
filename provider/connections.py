"""Kept-alive connections: each is used again only while nothing has come on it unasked.

    at rest ── a request is written ──► a response is due ── its last byte ──► at rest

Rules of this module:

- Bytes that come while no response is due answer nothing: the connection is aborted at once.
  aiohttp 3.14 reads them as the answer to the next request (aio-libs/aiohttp#13656), which may
  be another caller's. The same goes for bytes behind the end of a response.
- What the event loop has yet to read counts: the socket is polled right before the write, as
  urllib3 and httpcore do. What arrives after the write cannot be told from an answer.
- A request on a kept-alive connection that ends before any byte of a response is sent once more
  on a new one (RFC 9112, 9.3.1), if it ended as soon as one does that was closed already. A 408
  that closes a kept-alive connection is the same news in words (RFC 9110, 15.5.9). Chromium
  repeats both, too.
"""

import asyncio
import select
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.tracing import Trace

# A closed connection answers within a round trip. After that the provider had the request, and
# another one is an attempt like any other.
_STALE_S: Final = 2.0

OnDropped = Callable[[str], None]
"""Called once for each kept-alive connection that was not used again, with the reason:
`unsolicited_bytes`; `closed`, at rest by the provider; `stale`, as `closed` but found out by a
request, which was repeated."""


class Pool(aiohttp.TCPConnector):
    """The connections to one provider; requests must be `Request`s."""

    def __init__(self, on_dropped: OnDropped) -> None:
        # Admission bounds the calls in flight, so the pool needs no second queue.
        super().__init__(limit=0, keepalive_timeout=60)
        self._factory = partial(_new_protocol, self._loop, on_dropped)
        self._only_new = False

    async def connect(self, req: aiohttp.ClientRequest, *args: Any, **kwargs: Any) -> Connection:
        # Read by `_get` below before anything else can run.
        self._only_new = isinstance(req, Request) and req.repeats
        return await super().connect(req, *args, **kwargs)

    async def _get(self, key: "ConnectionKey", traces: list["Trace"]) -> Connection | None:
        if self._only_new:
            return None
        while (connection := await super()._get(key, traces)) is not None:
            if _protocol_of(connection).take():
                return connection
            connection.close()
        return None

    def _release(
        self, key: "ConnectionKey", protocol: ResponseHandler, *, should_close: bool = False
    ) -> None:
        assert isinstance(protocol, _Protocol)  # our factory made it
        protocol.rest()
        super()._release(key, protocol, should_close=should_close)


# A variable of the context, because the SDK between caller and transport hands nothing on.
on_sent: Final[ContextVar[Callable[[], None]]] = ContextVar("on_sent", default=lambda: None)
"""Called when a request begins to leave for the provider, once connected: from here on it may be
billed."""


class Request(aiohttp.ClientRequest):
    """A request with a body, which is written only on a connection at rest."""

    repeats = False
    """It was sent before, on a stale connection."""
    protocol: "_Protocol | None" = None
    """The connection it went out on last."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        self.protocol = _protocol_of(conn)
        return await super().send(conn)

    async def write_bytes(
        self,
        writer: "AbstractStreamWriter",
        conn: Connection,
        content_length: int | None = None,
    ) -> None:
        # Where it may not, the connection is gone, and whoever waits for the response hears of it.
        if _protocol_of(conn).begin():
            on_sent.get()()
            await super().write_bytes(writer, conn, content_length)


async def repeat_if_stale(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send the request; once more on a new connection where the first was stale (middleware)."""
    assert isinstance(request, Request)
    try:
        response = await send(request)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        protocol = request.protocol
        if protocol is None or not protocol.was_stale:
            raise
    else:
        protocol = request.protocol
        if response.status != 408 or protocol is None or not protocol.hung_up:
            return response
        response.close()
    protocol.note("stale")
    await request.close()
    request.repeats = True
    return await send(request)


class _Protocol(ResponseHandler):
    """One connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_dropped: OnDropped) -> None:
        super().__init__(loop)
        self.at_rest = True
        """No response is due."""
        self._on_dropped: OnDropped | None = on_dropped
        self._kept_alive = False
        """It had a request before the one at hand."""
        self._answered = False
        """A byte of the response to the request at hand has come."""
        self._written = self._ended = 0.0
        """When the request at hand was, and the connection did; seconds on the loop's clock."""

    def rest(self) -> None:
        """The response has been received, or given up."""
        self.at_rest = True
        if self._buffer:  # another one behind it, so that the pool will not have this connection
            self.note("unsolicited_bytes")

    def take(self) -> bool:
        """Take it out of the pool for another request; False: it must be closed."""
        if self._has_surplus():
            self.note("unsolicited_bytes")
            return False
        self._kept_alive, self._answered, self._written = True, False, inf
        return True

    def _has_surplus(self) -> bool:
        """Whether anything came behind the response, be it a part of a head. Not to be called
        by the parser, which is asked."""
        try:
            return self.should_close or (
                self._parser is not None and self._parser.feed_eof() is not None
            )
        except Exception:  # a part of a body
            return True

    def begin(self) -> bool:
        """Whether a request may be written now, to which all bytes from now on are the answer."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        if self._kept_alive and _is_readable(transport):
            self.abort()
            return False
        self.at_rest = False
        self._written = self._loop.time()
        return True

    @property
    def was_stale(self) -> bool:
        """Whether it ended because the provider had closed it before the request came."""
        soon = self._ended - self._written < _STALE_S
        return self._kept_alive and not self._answered and soon

    @property
    def hung_up(self) -> bool:
        """Whether it was kept alive until the response at hand."""
        return self._kept_alive and self._should_close

    def note(self, reason: str) -> None:
        """Report that it is not used again; only the first reason counts."""
        if self._on_dropped is not None:
            self._on_dropped(reason)
            self._on_dropped = None

    def data_received(self, data: bytes) -> None:
        if not self.at_rest:
            self._answered = True
        elif data:
            self._drop_unsolicited()
            return
        super().data_received(data)
        # The parser has reached the end of the response, and perhaps gone on.
        if self.at_rest and self.transport is not None and self._has_surplus():
            self._drop_unsolicited()

    def _drop_unsolicited(self) -> None:
        self.note("unsolicited_bytes")
        self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._ended = self._loop.time()
        closed_by_us = self.transport is None
        if self.at_rest and self._written and not closed_by_us:
            self.note("closed")
        super().connection_lost(exc)


def _new_protocol(loop: asyncio.AbstractEventLoop, on_dropped: OnDropped) -> ResponseHandler:
    return _Protocol(loop, on_dropped)


def _protocol_of(connection: Connection) -> _Protocol:
    protocol = connection.protocol
    assert isinstance(protocol, _Protocol)  # our factory made it
    return protocol


def _is_readable(transport: asyncio.Transport) -> bool:
    """Whether bytes, or the end of the connection, wait to be read."""
    socket: Any = transport.get_extra_info("socket")
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))
