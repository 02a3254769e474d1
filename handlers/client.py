"""The client of a call, over HTTP: bounded flushes, and heartbeats while nothing else is sent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tornado.ioloop import IOLoop

from errors import CallError
from handlers.base import BaseHandler


class HttpClient:
    """What `calls.client.Client` wants, done by a handler."""

    def __init__(self, handler: BaseHandler) -> None:
        self._handler = handler
        self._last_flush = 0.0
        self._flushing = False
        self._gone = False

    @property
    def has_started(self) -> bool:
        return self._handler._headers_written

    def start(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        self._handler.set_status(status)
        self._handler.set_header("Content-Type", content_type)
        for name, value in headers.items():
            self._handler.set_header(name, value)

    def write(self, data: bytes) -> None:
        self._handler.write(data)

    async def flush(self) -> None:
        self._flushing = True
        try:
            await self._handler.flush_or_abort()
        except CallError:
            self._gone = True
            raise
        self._flushing = False
        self._last_flush = self._handler.services.clock()

    async def end(self) -> None:
        await self._handler.finish_or_abort()

    @contextmanager
    def heartbeats(self, comment: bytes) -> Iterator[None]:
        """Never while a flush is pending: that client has bytes to read already, and Tornado
        keeps the completion of one flush at a time."""
        handler, clock, io_loop = self._handler, self._handler.services.clock, IOLoop.current()
        interval_s = handler.config.server.heartbeat_s
        self._last_flush = clock()
        timeout: object = None

        def beat_if_quiet() -> None:
            nonlocal timeout
            quiet_s = clock() - self._last_flush
            if quiet_s >= interval_s and not (self._flushing or self._gone):
                handler.write(comment)
                handler.flush()
                self._last_flush, quiet_s = clock(), 0.0
            timeout = io_loop.call_later(max(0.01, interval_s - quiet_s), beat_if_quiet)

        if comment:
            timeout = io_loop.call_later(interval_s, beat_if_quiet)
        try:
            yield
        finally:
            if timeout is not None:
                io_loop.remove_timeout(timeout)

    def left(self) -> None:
        """Its connection is gone."""
        self._gone = True

    def refuse(self, failure: CallError, headers: Mapping[str, str]) -> None:
        if self._handler._finished:
            return
        self._handler.clear()  # the headers of a stream that did not begin
        for name, value in headers.items():
            self._handler.set_header(name, value)
        self._handler.answer_error(failure)

    def disconnect(self) -> None:
        self._handler.close_connection()
