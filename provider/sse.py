"""Server-Sent Events, decoded once and incrementally from the provider's bytes.

Rules of this module (https://html.spec.whatwg.org/multipage/server-sent-events.html):

- A chunk may end at any byte: inside a line, a UTF-8 sequence, or a CRLF pair.
- Lines end with LF, CRLF or CR. A line that begins with a colon is a comment. Several
  `data` lines are joined with LF. A blank line ends the event; without data there is none.
- An event that the end of the stream cuts off is dropped, never half delivered.
- Work is linear in the bytes fed: an unfinished line is kept in pieces and joined once.
"""

from typing import Final, NamedTuple

_BOM: Final = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One dispatched event. `name` is empty where the stream named none."""

    name: bytes
    data: bytes


class LineTooLong(Exception):
    """A line, or the data of one event, is longer than `max_line_bytes`."""


class SSEDecoder:
    """Feed bytes as they come, get the events that they complete.

    Args:
        max_line_bytes: largest line, and largest data of one event; more is refused before
            it is kept.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._after_cr = False
        self._first_line = True
        self._name = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events completed by this chunk, in order.

        Raises:
            LineTooLong: the decoder must not be used any further.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")

        lines = chunk.splitlines()  # bytes.splitlines knows exactly LF, CRLF and CR
        unfinished = b"" if chunk.endswith((b"\n", b"\r")) else lines.pop()
        events: list[Event] = []
        for line in lines:
            if self._pieces:
                line = self._take_pieces(line)
            self._check(len(line))
            self._line(line, events)
        if unfinished:
            self._pieces.append(unfinished)
            self._pieces_bytes += len(unfinished)
            self._check(self._pieces_bytes)
        return events

    def _take_pieces(self, rest: bytes) -> bytes:
        line = b"".join((*self._pieces, rest))
        self._pieces.clear()
        self._pieces_bytes = 0
        return line

    def _check(self, length: int) -> None:
        if length > self._max:
            raise LineTooLong

    def _line(self, line: bytes, events: list[Event]) -> None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(Event(self._name, b"\n".join(self._data)))
                self._data = []
                self._data_bytes = 0
            self._name = b""
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._data_bytes += len(value) + 1
            self._check(self._data_bytes - 1)
        elif name == b"event":
            self._name = value.removeprefix(b" ")
        # `id`, `retry`, comments and unknown fields mean nothing here.
