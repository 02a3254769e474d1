"""The load generator: raw keep-alive sockets, and answers that are counted before believed.

Rules of this module:

- Cheap enough to share one core with the upstream: a request is prebuilt bytes, and an answer
  is looked at only as far as finding its end.
- Every answer is checked. One that is not a whole, correct answer ends the benchmark: a
  server that fails quickly must not look quick.
- Throughput is taken with every connection busy (closed loop). Latency is taken at a fixed
  rate (open loop): requests leave on schedule, whether or not earlier ones were answered, so
  a stall is seen by all that it delays.
"""

import asyncio
import json
import re
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final, cast

from upstream import CHUNKS, TOKEN

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_TOKEN: Final = TOKEN.encode()


class BadAnswer(Exception):
    """A server answered something else than what the upstream said."""


def request(*, stream: bool = False, pace_ms: int = 0, fault: str = "") -> bytes:
    """A whole HTTP request; the text tells the upstream how fast to stream, and how to fail."""
    text = f"Tell me something about benchmarks, at pace={pace_ms}."
    if fault:
        text += f" fault={fault}"
    body = json.dumps({"userMessage": text, "stream": stream}).encode()
    head = (
        "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._size: int | None = None
        self._answer: asyncio.Future[bytes] | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def close(self) -> None:
        self._transport.close()

    @property
    def begun(self) -> bool:
        """Whether an answer is on its way, and no error."""
        return self._received.startswith(b"HTTP/1.1 200 ")

    def leave(self, *, reset: bool) -> None:
        """Hang up in the middle."""
        self._answer = None
        if reset:
            once = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, once
            )
            self._transport.abort()
        else:
            self._transport.close()

    async def exchange(self, request: bytes) -> bytes:
        """The whole answer, headers and framing included."""
        self._received.clear()
        self._size = None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._size is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._received, 0, end)
            self._size = end + 4 + int(length[1]) if length else -1
        if self._size < 0:
            complete = self._received.endswith(b"\r\n0\r\n\r\n")
        else:
            complete = len(self._received) >= self._size
        if complete and self._answer is not None and not self._answer.done():
            self._answer.set_result(bytes(self._received))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BadAnswer(f"closed after {bytes(self._received[:200])!r}"))


def _check_whole(answer: bytes) -> None:
    if not answer.startswith(b"HTTP/1.1 200 ") or answer.count(_TOKEN) != 100:
        raise BadAnswer(repr(answer[:400]))


async def saturate(port: int, *, connections: int, seconds: float) -> float:
    """Buffered answers while every connection is always busy; how many came."""
    asked, answered = request(), 0
    until = time.perf_counter() + seconds

    async def keep_busy() -> None:
        nonlocal answered
        connection = await Connection.open(port)
        while time.perf_counter() < until:
            _check_whole(await connection.exchange(asked))
            answered += 1
        connection.close()

    await asyncio.gather(*(keep_busy() for _ in range(connections)))
    return answered


async def latencies_ms(port: int, *, rate: float, seconds: float) -> list[float]:
    """Buffered answers at a fixed rate; how long each took from being sent."""
    asked = request()
    idle: list[Connection] = []
    taken: list[float] = []

    async def ask() -> None:
        connection = idle.pop() if idle else await Connection.open(port)
        sent = time.perf_counter()
        _check_whole(await connection.exchange(asked))
        taken.append((time.perf_counter() - sent) * 1000)
        idle.append(connection)

    start = time.perf_counter()
    asking: list[asyncio.Task[None]] = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(start + number / rate - time.perf_counter())
        asking.append(asyncio.create_task(ask()))
    await asyncio.gather(*asking)
    for connection in idle:
        connection.close()
    return taken


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came of a batch of streams."""

    chunks: int
    """Tokens that arrived: every one that the upstream sent, or the batch is a BadAnswer."""
    writes: int
    """HTTP chunks in which they came; fewer than `chunks` where tokens were merged."""


async def stream(port: int, *, concurrent: int, waves: int, pace_ms: int) -> Streamed:
    """Streams of `CHUNKS` tokens, each connection reading `waves` of them in turn."""
    asked = request(stream=True, pace_ms=pace_ms)
    answers: list[bytes] = []

    async def read(number: int) -> None:
        # Spread over one pace: streams in step would all be served in one turn of the loop.
        await asyncio.sleep(number * pace_ms / concurrent / 1000)
        connection = await Connection.open(port)
        answers.extend([await connection.exchange(asked) for _ in range(waves)])
        connection.close()

    await asyncio.gather(*(read(number) for number in range(concurrent)))
    writes = 0
    for answer in answers:
        if not answer.startswith(b"HTTP/1.1 200 ") or answer.count(_TOKEN) != CHUNKS:
            raise BadAnswer(repr(answer[:400]))
        writes += sum(_TOKEN in chunk for chunk in _http_chunks(answer))
    return Streamed(len(answers) * CHUNKS, writes)


def _http_chunks(answer: bytes) -> list[bytes]:
    chunks, at = [], answer.index(b"\r\n\r\n") + 4
    while True:
        end = answer.index(b"\r\n", at)
        size = int(answer[at:end], 16)
        if not size:
            return chunks
        chunks.append(answer[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
