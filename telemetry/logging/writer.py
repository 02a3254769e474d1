"""Writing lines without waiting: whoever reads standard output slowly does not hold up calls.

    line ──► there is room ──────────────────────────► standard output
         └─► there is none ──► queue ──► a thread ──┘

Rules of this module:

- A pipe that is ready takes this much at once, as POSIX has it. So the usual line is written
  where it is logged, which is cheapest; the thread is there only while lines are waiting.
- A line waits until it is written, also while the thread writes it: how many are kept does not
  depend on when the thread has its turn.
- A line for which the queue has no room is dropped and counted; later, a line says how many.
- The end waits for what is queued, but not for long: a platform kills who does not leave.
- The descriptor is written to, not `sys.stdout`: a thread that is stuck in that holds its lock,
  and the interpreter aborts at its end.
"""

import logging
import os
import select
from collections import deque
from itertools import accumulate, islice
from threading import Thread
from typing import Final

_LINES: Final = 10_000
_AHEAD_OF_LONG: Final = 256
_AT_ONCE_BYTES: Final = 4096  # PIPE_BUF of Linux; elsewhere it is less, and nobody stalls for long
_BATCH: Final = 64  # lines in one write of the thread; its places are free again afterwards
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
            if self._has_place(self._lines):
                self._put(self._line(record))
        except Exception:
            self.handleError(record)

    def write(self, line: str) -> None:
        """Write this line among those of the log, as it is; it may be long, so few may wait."""
        with self._guard:
            if self._has_place(_AHEAD_OF_LONG):
                self._put(_encoded(line))

    def close(self) -> None:
        """Write what is queued, for a second at most; `logging` calls this at the end."""
        if thread := self._thread:
            thread.join(_END_S)
        super().close()

    def _has_place(self, lines: int) -> bool:
        """Whether fewer lines than these wait; if not, one is dropped."""
        if len(self._queue) < lines:
            return True
        self.dropped += 1
        return False

    def _line(self, record: logging.LogRecord) -> bytes:
        return _encoded(self.format(record))

    def _put(self, line: bytes) -> None:
        if untold := self.dropped - self._told:
            self._told += untold
            # One with the line, so that no notice is counted where both are lost.
            line = self._line(_notice(untold)) + line
        if self._thread is None and self._has_room(line):
            line = self._written_at_once(line)
        if not line:
            return
        self._queue.append(line)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def _has_room(self, line: bytes) -> bool:
        return self._ready is not None and len(line) <= _AT_ONCE_BYTES and bool(self._ready.poll(0))

    def _written_at_once(self, line: bytes) -> bytes:
        """What is left of the line."""
        try:
            return line[os.write(self._descriptor, line) :]
        except BlockingIOError:  # whoever shares the descriptor has made it so, and has filled it
            return line
        except OSError:
            self.dropped += 1
            return b""

    def _run(self) -> None:
        written = 0
        while True:
            with self._guard:
                for _ in range(written):
                    self._queue.popleft()
                if not self._queue:
                    self._thread = None
                    return
                lines = list(islice(self._queue, _BATCH))
            self._write(lines)
            written = len(lines)

    def _write(self, lines: list[bytes]) -> None:
        data, written = memoryview(b"".join(lines)), 0
        while written < len(data):
            try:
                if self._ready:
                    self._ready.poll()
                written += os.write(self._descriptor, data[written:])
            except BlockingIOError:
                continue
            except OSError:  # the reader is gone, or the disk is full
                with self._guard:
                    self.dropped += sum(end > written for end in accumulate(map(len, lines)))
                return


def _encoded(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


def _notice(dropped: int) -> logging.LogRecord:
    fields = {"name": "sluice.log", "levelname": "WARNING", "msg": "lines_dropped"}
    return logging.makeLogRecord({**fields, "dropped": dropped})
