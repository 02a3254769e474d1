"""Writing an answer as it comes: flushes, heartbeats, and readers that joined.

Rules of this module:

- What is written goes to the recording, too, if there is one: others may be following it.
- A client that leaves ends the call, unless others follow. Then the call goes on for them,
  and this handler writes to the recording alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tornado.ioloop import IOLoop

from calls.idempotency import Recording
from errors import CallError
from handlers.base import BaseHandler


class StreamHandler(BaseHandler):
    """A handler that answers piece by piece."""

    recording: Recording | None = None
    _for_followers = False
    _last_flush = 0.0
    _flushing = False

    def say(self, data: bytes) -> None:
        """Write this to all who read the answer."""
        if self.recording is not None:
            self.recording.append(data)
        if not self._for_followers:
            self.write(data)

    def leave_to_followers(self) -> bool:
        """The client is gone: go on for those who follow, if there are any."""
        self._for_followers = self.recording is not None and self.recording.followers > 0
        return self._for_followers

    async def bounded_flush(self) -> None:
        if self._for_followers:
            return
        self._flushing = True
        try:
            await super().bounded_flush()
        except CallError:
            if not self.leave_to_followers():
                raise
        self._flushing = False
        self._last_flush = self.services.clock()

    async def bounded_finish(self) -> None:
        if not self._for_followers:
            await super().bounded_finish()

    @contextmanager
    def heartbeats(self, comment: bytes) -> Iterator[None]:
        """Write the comment, if there is one, whenever the stream has been quiet for
        `heartbeat_s`.

        Never while a flush is pending: that client has bytes to read already, and Tornado
        keeps the completion of one flush at a time.
        """
        io_loop, clock = IOLoop.current(), self.services.clock
        interval_s = self.config.server.heartbeat_s
        self._last_flush = clock()

        timeout: object = None

        def look() -> None:
            nonlocal timeout
            quiet_s = clock() - self._last_flush
            if quiet_s >= interval_s and not (self._flushing or self._for_followers):
                self.write(comment)
                self.flush()
                self._last_flush, quiet_s = clock(), 0.0
            timeout = io_loop.call_later(max(0.01, interval_s - quiet_s), look)

        if comment:
            timeout = io_loop.call_later(interval_s, look)
        try:
            yield
        finally:
            if timeout is not None:
                io_loop.remove_timeout(timeout)
