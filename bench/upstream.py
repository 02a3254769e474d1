"""The provider of the benchmark: OpenAI's wire format from prebuilt bytes, as cheap as it goes.

    python upstream.py PORT

Rules of this module:

- It must not be the bottleneck: no HTTP library, no JSON; every answer is made at import.
- The prompt steers it: "pace=10" puts 10 ms between two chunks of a stream, "pace=0" one
  turn of the event loop. Each chunk is a write of its own either way. "fault=status" answers
  503, "fault=reset" hangs up, and "fault=cut" does so half way through the answer.
- Every token is the same word, so that the load generator can count what arrived.
"""

import asyncio
import re
import sys
from typing import Final, cast

import orjson
import uvloop

CHUNKS: Final = 200
TOKEN: Final = " lorem"

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_STREAM: Final = re.compile(rb'"stream": ?true')
_PACE: Final = re.compile(rb"pace=(\d+)")
_FAULT: Final = re.compile(rb"fault=(\w+)")
_UNAVAILABLE: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"
_USAGE: Final = {"prompt_tokens": 24, "completion_tokens": CHUNKS, "total_tokens": 24 + CHUNKS}


def _document(kind: str, **fields: object) -> dict[str, object]:
    return {
        "id": "chatcmpl-BenchBenchBenchBenchBenchBenc",
        "object": kind,
        "created": 1760000000,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
        **fields,
    }


def _whole() -> bytes:
    message = {"role": "assistant", "content": TOKEN * 100, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = orjson.dumps(_document("chat.completion", choices=[choice], usage=_USAGE))
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_bench\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _event(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _event(orjson.dumps(_document("chat.completion.chunk", choices=[choice], usage=None)))


def _stream() -> list[bytes]:
    """The writes of a stream: its head, then one a token, then its end."""
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        b"x-request-id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    usage = orjson.dumps(_document("chat.completion.chunk", choices=[], usage=_USAGE))
    return [
        head + _chunk({"role": "assistant", "content": ""}),
        *[_chunk({"content": TOKEN})] * CHUNKS,
        _chunk({}, "stop") + _event(usage) + _event(b"[DONE]") + b"0\r\n\r\n",
    ]


_WHOLE: Final = _whole()
_WRITES: Final = _stream()


class Upstream(asyncio.Protocol):
    """One keep-alive connection; requests come one after the other."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._loop = asyncio.get_running_loop()
        self._pace_s = 0.0
        self._next = self._end = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._received, 0, end)
        size = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) < size:
            return
        request = bytes(self._received[:size])
        del self._received[:size]
        found = _FAULT.search(request)
        fault = found[1] if found else b""
        if fault == b"status":
            self._transport.write(_UNAVAILABLE)
        elif fault == b"reset":
            self._transport.abort()
        elif not _STREAM.search(request):
            self._transport.write(_WHOLE[: len(_WHOLE) // 2] if fault else _WHOLE)
            if fault:
                self._transport.close()
        else:
            pace = _PACE.search(request)
            self._pace_s = int(pace[1]) / 1000 if pace else 0.0
            self._end = CHUNKS // 2 if fault else len(_WRITES)
            self._next = 0
            self._write()

    def _write(self) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(_WRITES[self._next])
        self._next += 1
        if self._next == self._end:
            if self._end < len(_WRITES):
                self._transport.close()
            return
        if self._pace_s:
            self._loop.call_later(self._pace_s, self._write)
        else:
            self._loop.call_soon(self._write)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
