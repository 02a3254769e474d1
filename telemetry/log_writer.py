"""Writing lines without waiting: whoever reads standard output slowly does not hold up calls.

    line ──► there is room ──────────────────────────► standard output
         └─► there is none ──► queue ──► a thread ──┘

Rules of this module:

- A pipe that is ready takes this much at once, as POSIX has it. So the usual line is written
  where it is logged, which is cheapest; the thread is there only while lines are waiting.
- A line for which the queue has no room is dropped and counted; later, a line says how many.
- The end waits for what is queued, but not for long: a platform kills who does not leave.
- The descriptor is written to, not `sys.stdout`: a thread that is stuck in that holds its lock,
  and the interpreter aborts at its end.
"""

import logging
import os
import select
from collections import deque
from threading import Thread
from typing import Final

_LINES: Final = 10_000
_AT_ONCE_BYTES: Final = 4096  # PIPE_BUF of Linux; elsewhere it is less, and nobody stalls for long
_END_S: Final = 1.0


class LogWriter(logging.Handler):
    """Writes to a file descriptor.

    Args:
        lines: how many may wait.
    """

    def __init__(self, descriptor: int, lines: int = _LINES) -> None:
        super().__init__()
        self.dropped = 0
        """Lines that nobody will read."""
        self._told = 0
        assert self.lock is not None
        self._guard = self.lock
        """`logging` holds it around `emit`."""
        self._descriptor = descriptor
        self._lines = lines
        self._queue: deque[bytes] = deque()
        self._thread: Thread | None = None
        self._ready = None
        if hasattr(select, "poll"):  # Windows has none; there, all goes through the thread
            self._ready = select.poll()
            self._ready.register(descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if len(self._queue) >= self._lines:
                self.dropped += 1
                return
            if untold := self.dropped - self._told:
                self._told += untold
                self._put(_notice(untold))
            self._put(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Write what is queued, for a second at most; `logging` calls this at the end."""
        if thread := self._thread:
            thread.join(_END_S)
        super().close()

    def _put(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        if self._thread is None and self._has_room(line):
            self._write(line)
            return
        self._queue.append(line)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def _has_room(self, line: bytes) -> bool:
        return self._ready is not None and len(line) <= _AT_ONCE_BYTES and bool(self._ready.poll(0))

    def _run(self) -> None:
        while True:
            with self._guard:
                if not self._queue:
                    self._thread = None
                    return
                data = b"".join(self._queue)
                self._queue.clear()
            self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # the reader is gone, or the disk is full
            with self._guard:
                self.dropped += data.count(b"\n")


def _notice(dropped: int) -> logging.LogRecord:
    fields = {"name": "sluice.log", "levelname": "WARNING", "msg": "lines_dropped"}
    return logging.makeLogRecord({**fields, "dropped": dropped})
