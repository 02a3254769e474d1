"""A scripted upstream on raw sockets: request n is answered by step n of a script.

The last step answers every further request. A step is a coroutine function of an `Exchange`;
below the classes stand the ready-made ones, one for each way a provider may behave.
"""

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

Step = Callable[["Exchange"], Awaitable[None]]

RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close() sends RST


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The values of this header joined by commas; None if it was not sent."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Exchange:
    """One request and the socket on which to answer it."""

    def __init__(self, request: Request, connection: "_Connection") -> None:
        self.request = request
        self.closed = connection.closed
        """Set when the other side has closed this connection (FIN or RST)."""
        self.sent_bytes = 0
        self.hang_up = False
        """Close the connection after this exchange."""
        self._writer = connection.writer

    async def send(self, *parts: bytes) -> None:
        """Write bytes as they are; returns when the other side's buffers took most of them.

        Raises:
            ConnectionError: the other side has left. It ends the step, and is no fault.
        """
        for part in parts:
            if self.closed.is_set():
                raise ConnectionResetError
            self._writer.write(part)
            await self._writer.drain()
            self.sent_bytes += len(part)

    async def head(self, status: int = 200, *headers: tuple[str, str]) -> None:
        """Write the status line and headers."""
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers)]
        await self.send("\r\n".join((*lines, "", "")).encode("latin-1"))

    async def stream_head(self) -> None:
        """Begin a chunked event stream."""
        await self.head(
            200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")
        )

    async def chunk(self, *parts: bytes) -> None:
        """Write these bytes as one HTTP chunk; no bytes end the body."""
        data = b"".join(parts)
        await self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def reply(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Write a whole reply."""
        await self.head(status, *headers, ("Content-Length", str(len(body))))
        await self.send(body)

    def fin(self) -> None:
        """Close the connection in an orderly way."""
        self._writer.close()

    def rst(self) -> None:
        """Reset the connection."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._writer.transport.abort()


class _Connection(asyncio.StreamReaderProtocol):
    """One accepted connection, which notices at once that its other side has left."""

    def __init__(self, upstream: "Upstream") -> None:
        self.reader = asyncio.StreamReader(limit=16 * 1024 * 1024)
        super().__init__(self.reader, self._connected)
        self.closed = asyncio.Event()
        self.writer: asyncio.StreamWriter
        self._upstream = upstream

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._upstream.connected(self)

    def eof_received(self) -> bool:
        super().eof_received()
        self.closed.set()
        self._upstream.changed.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()
        self._upstream.disconnected(self)


class Upstream:
    """The server. `requests` and `exchanges` are in the order of arrival."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.exchanges: list[Exchange] = []
        self.connections = 0
        """Connections accepted so far."""
        self.open: set[_Connection] = set()
        self.changed = asyncio.Event()
        self.faults: list[BaseException] = []
        """What a step raised by mistake; a test's teardown looks here."""
        self._steps: list[Step] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    async def stop(self) -> None:
        self._server.close()
        for connection in tuple(self.open):
            connection.writer.transport.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.until(lambda: not self.open)
        await self._server.wait_closed()

    def will(self, *steps: Step) -> None:
        """Answer the next requests so, the last step again and again."""
        self._steps = list(steps)

    async def request(self, count: int = 1) -> Exchange:
        """Wait for the request with this number (from 1)."""
        await self.until(lambda: len(self.exchanges) >= count)
        return self.exchanges[count - 1]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; it is looked at after each event of a connection."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def connected(self, connection: _Connection) -> None:
        self.connections += 1
        self.open.add(connection)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.changed.set()

    def disconnected(self, connection: _Connection) -> None:
        self.open.discard(connection)
        self.changed.set()

    async def _serve(self, connection: _Connection) -> None:
        try:
            hang_up = False
            while not hang_up and (request := await _read_request(connection.reader)):
                exchange = Exchange(request, connection)
                self.requests.append(request)
                self.exchanges.append(exchange)
                self.changed.set()
                step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
                await step(exchange)
                hang_up = exchange.hang_up
        except ConnectionError:
            pass  # Sluice closed the connection, as it may
        except Exception as fault:
            self.faults.append(fault)
        finally:
            connection.writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        start, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = start.split(" ")
        headers = [(name, value.strip()) for name, _, value in (ln.partition(":") for ln in lines)]
        length = next((int(v) for name, v in headers if name.lower() == "content-length"), 0)
        return Request(method, target, headers, await reader.readexactly(length))
    except asyncio.IncompleteReadError:
        return None


# Events of a stream


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def _completion_event(choices: list[Any], **further: object) -> bytes:
    return event(
        {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices} | further
    )


def role() -> bytes:
    """The first event of OpenAI's streams: no text yet."""
    return _completion_event([{"index": 0, "delta": {"role": "assistant", "content": ""}}])


def delta(text: str) -> bytes:
    return _completion_event([{"index": 0, "delta": {"content": text}, "finish_reason": None}])


def finish(reason: str = "stop") -> bytes:
    return _completion_event([{"index": 0, "delta": {}, "finish_reason": reason}])


def usage(prompt: int = 9, completion: int = 3) -> bytes:
    return _completion_event([], usage=usage_of(prompt, completion))


DONE = b"data: [DONE]\n\n"


def usage_of(prompt: int = 9, completion: int = 3) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def completion(
    text: str | None = "Hi there",
    *,
    finish_reason: str | None = "stop",
    usage: object = None,
) -> dict[str, Any]:
    """A buffered answer's document."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": usage,
    }


# Steps: a provider that answers


def ok(text: str = "Hi there", *, usage: object = None, finish_reason: str = "stop") -> Step:
    """A buffered answer."""
    return json_reply(completion(text, usage=usage, finish_reason=finish_reason))


def json_reply(document: object, status: int = 200, *headers: tuple[str, str]) -> Step:
    return raw_reply(json.dumps(document).encode(), status, *headers)


def raw_reply(body: bytes, status: int = 200, *headers: tuple[str, str]) -> Step:
    """These bytes, as application/json unless the headers say otherwise."""
    if not any(name == "Content-Type" for name, _ in headers):
        headers = (("Content-Type", "application/json"), *headers)

    async def step(exchange: Exchange) -> None:
        await exchange.reply(status, headers, body)

    return step


def error(
    status: int, *headers: tuple[str, str], code: str | None = None, message: str = "No."
) -> Step:
    """OpenAI's JSON form of an error status."""
    fields = {"message": message, "type": "some_error", "param": None, "code": code}
    return json_reply({"error": fields}, status, *headers)


def stream(*chunks: bytes) -> Step:
    """A stream of these chunks, one HTTP chunk each, with a clean end of the body."""

    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        for chunk in chunks:
            await exchange.chunk(chunk)
        await exchange.chunk()

    return step


def answer_stream(*texts: str, reason: str = "stop") -> Step:
    """A whole streamed answer, with usage."""
    return stream(role(), *map(delta, texts), finish(reason), usage(), DONE)


def either(buffered: Step, streamed: Step) -> Step:
    """One step or the other, as the request asks."""

    async def step(exchange: Exchange) -> None:
        await (streamed if exchange.request.json.get("stream") else buffered)(exchange)

    return step


def calls_tool(name: str, arguments: str) -> Step:
    """An answer that asks for a tool, in the form that was asked for; its id is call_1."""
    function = {"name": name, "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    document = completion(None, finish_reason="tool_calls", usage=usage_of())
    document["choices"][0]["message"]["tool_calls"] = [call]

    def part(**fields: object) -> bytes:
        calls = [{"index": 0, **fields}]
        return _completion_event([{"index": 0, "delta": {"tool_calls": calls}}])

    begun = {**call, "function": {"name": name, "arguments": ""}}
    pieces = [part(function={"arguments": piece}) for piece in (arguments[:3], arguments[3:])]
    end = (finish("tool_calls"), usage(), DONE)
    return either(json_reply(document), stream(role(), part(**begun), *pieces, *end))


def good() -> Step:
    """An answer in the form that was asked for."""
    return either(ok(), answer_stream("Hi", " there"))


# Steps: a provider that breaks before its first content


async def fin(exchange: Exchange) -> None:
    """Close before the response."""
    exchange.fin()


async def rst(exchange: Exchange) -> None:
    """Reset before the response."""
    exchange.rst()


async def silence(exchange: Exchange) -> None:
    """No byte, until the other side leaves."""
    await exchange.closed.wait()


def held(until: asyncio.Event, then: Step) -> Step:
    """Nothing until the test says so."""

    async def step(exchange: Exchange) -> None:
        await until.wait()
        await then(exchange)

    return step


def dripped(data: bytes, before: bytes = b"") -> Step:
    """`before` at once, then `data` one byte at a time, from the start again when it is used up."""

    async def step(exchange: Exchange) -> None:
        await exchange.send(before)
        while not exchange.closed.is_set():
            for byte in data:
                await exchange.send(bytes((byte,)))
                await asyncio.sleep(0.005)

    return step


dripped_headers = dripped(b"X-Drip: 1\r\n", b"HTTP/1.1 200 OK\r\n")


async def dripped_body(exchange: Exchange) -> None:
    """A body, or a stream, whose bytes keep coming and never make sense."""
    if exchange.request.json.get("stream"):
        await exchange.stream_head()
        await dripped(b"1\r\n:\r\n")(exchange)
    else:
        await exchange.head(200, ("Content-Type", "application/json"), ("Content-Length", "99999"))
        await dripped(b" ")(exchange)


def _cut_short(end: Callable[[Exchange], None]) -> Step:
    async def step(exchange: Exchange) -> None:
        kind = "text/event-stream" if exchange.request.json.get("stream") else "application/json"
        await exchange.head(200, ("Content-Type", kind), ("Content-Length", "1000"))
        await exchange.send(b'{"choices": [{')
        end(exchange)

    return step


rst_in_body = _cut_short(Exchange.rst)
truncated_body = _cut_short(Exchange.fin)


async def bad_chunk(exchange: Exchange) -> None:
    """A chunk whose size is no number."""
    await exchange.stream_head()
    await exchange.send(b"zz\r\nwhat\r\n")
    exchange.hang_up = True


async def garbage_status_line(exchange: Exchange) -> None:
    await exchange.send(b"SMTP/9 hello\r\n\r\n")
    exchange.hang_up = True


async def huge_header(exchange: Exchange) -> None:
    await exchange.head(200, ("X-Huge", "x" * 100_000), ("Content-Length", "2"))
    await exchange.send(b"{}")


def shaped(
    body: bytes, *, kind: str | None = None, headers: Iterable[tuple[str, str]] = ()
) -> Step:
    """This body with the content type that was asked for: JSON, or an event of a stream."""

    async def step(exchange: Exchange) -> None:
        streamed = exchange.request.json.get("stream")
        data = b"data: " + body + b"\n\n" if streamed and kind is None else body
        content_type = kind or ("text/event-stream" if streamed else "application/json")
        await exchange.reply(200, (("Content-Type", content_type), *headers), data)

    return step


html = shaped(b"<html><body>It works!</body></html>", kind="text/html")
empty = shaped(b"", kind="application/json")
invalid_json = shaped(b'{"choices": [')
bad_utf8 = shaped(b'{"choices": [{"message": {"content": "\xff\xfe"}, "finish_reason": "stop"}]}')
deep = shaped(b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
unasked_gzip = shaped(
    gzip.compress(json.dumps(completion()).encode()), headers=[("Content-Encoding", "gzip")]
)


def oversize(max_bytes: int) -> Step:
    """A buffered answer, or one line of a stream, that is longer than this."""
    return shaped(json.dumps(completion("x" * (max_bytes + 1))).encode())


def redirect(location: str, status: int = 307) -> Step:
    return raw_reply(b"", status, ("Location", location))


# Steps: a provider that breaks in a stream that had begun


def after_content(then: Step | None = None) -> Step:
    """Three words as a stream, then something else; None: nothing any more."""

    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        for word in ("One", " two", " three"):
            await exchange.chunk(delta(word))
        await (then or silence)(exchange)

    return step


def chunks(*parts: bytes) -> Step:
    """These chunks and a clean end, for a stream whose headers are sent."""

    async def step(exchange: Exchange) -> None:
        for part in parts:
            await exchange.chunk(part)
        await exchange.chunk()

    return step


async def endless_comments(exchange: Exchange) -> None:
    while not exchange.closed.is_set():
        await exchange.chunk(b": still here\n\n")
        await asyncio.sleep(0.005)


async def endless_line(exchange: Exchange) -> None:
    await exchange.chunk(b"data: ")
    while not exchange.closed.is_set():
        await exchange.chunk(b"x" * 65_536)


async def garbage_chunk(exchange: Exchange) -> None:
    await exchange.send(b"zz\r\nwhat\r\n")
    exchange.hang_up = True


ERROR_IN_DATA = event({"error": {"message": "No.", "type": "server_error", "code": None}})
ERROR_EVENT = b'event: error\ndata: {"message": "No.", "type": "server_error"}\n\n'
