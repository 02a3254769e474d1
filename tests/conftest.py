"""Fixtures: a real Sluice on a free port before a scripted upstream, and a raw client.

Coroutine tests are run by pytest-tornasync on the fixture `io_loop`. Sleep and random source
are injected, the clock can be moved, and every test ends with a check that nothing is left.

What only some tests need is imported where it is used: a test of pure code starts at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from server import HERE as ROOT  # which says where the tables of tokens are, too

if TYPE_CHECKING:
    import openai
    from redis_server import RedisServer
    from referencing import Registry
    from tornado.ioloop import IOLoop
    from upstream import Upstream

    from config import Config, ProviderConfig
    from provider.transport import AiohttpTransport
    from telemetry.tracing.spans import Traces

KEY = "sk-test-key"
HELLO = {"userMessage": "Hello"}
JSON = ("Content-Type", "application/json")


# Whoever uses one of these talks to a server: our own, a scripted one, or a real Redis.
_SERVERS: Final = frozenset(("sluice", "upstream", "house", "start", "redis", "http_server_client"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make unit` leaves out."""
    for item in items:
        if not _SERVERS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("server")
        if any(item.iter_markers("skipif")):  # it says which tool it would miss
            item.add_marker("tools")


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """Instead of the plugin's own fixture, which is not for uvloop and warns."""
    import uvloop
    from tornado.ioloop import IOLoop

    asyncio_loop = uvloop.new_event_loop()
    asyncio.set_event_loop(asyncio_loop)
    loop = IOLoop(asyncio_loop=asyncio_loop, make_current=False)
    yield loop
    loop.run_sync(asyncio_loop.shutdown_asyncgens)
    loop.close(all_fds=True)
    asyncio.set_event_loop(None)


@pytest.fixture
def settings() -> Callable[..., Config]:
    """`settings(provider_idle_s=0.05)`: config.ini under these overrides, with a key."""
    return make_settings


# Limits have tests of their own; elsewhere one address may make all the calls it likes.
_UNLIMITED: Final = {
    f"SLUICE_LIMIT_{scope}_{name}": "0"
    for scope in ("CALLER", "IP", "TOTAL")
    for name in (
        "REQUESTS_PER_MINUTE",
        "TOKENS_PER_MINUTE",
        "TOKENS_PER_DAY",
        "USD_PER_DAY",
        "IN_FLIGHT",
    )
}

# For answers longer than a call may ask for by default.
ENDLESS: Final = {"chat_max_tokens": 10**9, "chat_max_tokens_limit": 10**9}


def make_settings(
    base_url: str = "http://127.0.0.1:9/v1", api_key: str = KEY, **overrides: object
) -> Config:
    from config import loader

    environ = {"OPENAI_API_KEY": api_key, "OPENAI_BASE_URL": base_url}
    if redis_url := overrides.pop("redis_url", None):
        environ["REDIS_URL"] = str(redis_url)
    environ |= _UNLIMITED
    environ |= {f"SLUICE_{name.upper()}": str(value) for name, value in overrides.items()}
    return loader.load(ROOT / "config.ini", environ)


def deadline(seconds: float) -> dict[str, float]:
    """Overrides for a call that ends so soon; the phases inside it may take as long."""
    names = ("connect_s", "first_token_s", "attempt_s", "deadline_s")
    return {f"provider_{name}": seconds for name in names} | {"retry_min_attempt_s": 0}


# Schemas


@cache
def _schemas() -> tuple[dict[str, Any], Registry[Any]]:
    """The schemas by file name, and what resolves references between them."""
    from referencing import Registry, Resource

    schemas = {
        path.name: json.loads(path.read_bytes())
        for path in (ROOT / "schemas").glob("*.json")
        if path.name != "openapi.json"
    }
    resources = ((name, Resource.from_contents(schema)) for name, schema in schemas.items())
    return schemas, Registry().with_resources(resources)


def assert_valid(document: object, schema: str) -> None:
    """`document` fits `schemas/<schema>`, references resolved."""
    from jsonschema import Draft202012Validator

    schemas, registry = _schemas()
    Draft202012Validator(schemas[schema], registry=registry).validate(document)


# The client


@dataclass
class Reply:
    """A reply, its header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The stream's events; the last may be the word [DONE]. Comments are left out."""
        return parse_events(self.body)

    def assert_error(self, status: int, code: str) -> None:
        """This is the JSON form of that error, with the headers that belong to it."""
        assert (self.status, self.json.get("code")) == (status, code), self
        assert_valid(self.json, "error.json")
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"] == self.json["requestId"]
        assert "server" not in self.headers
        if status in (429, 503):
            assert int(self.headers["retry-after"]) >= 1


def parse_events(body: bytes) -> list[Any]:
    """Strictly `data: <json>` and comments, each ended by one blank line."""
    *blocks, rest = body.split(b"\n\n")
    assert rest == b"", f"a cut event: {rest!r}"
    events: list[Any] = []
    for block in blocks:
        if block.startswith(b": "):
            continue
        assert block.startswith(b"data: "), block
        assert b"\n" not in block, block
        data = block.removeprefix(b"data: ")
        events.append("[DONE]" if data == b"[DONE]" else json.loads(data))
    return events


def encoded(
    method: str, target: str, headers: tuple[tuple[str, str], ...] = (), body: bytes | None = None
) -> bytes:
    """A request's bytes; Content-Length is added where there is a body."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (body or b"")


def chat(body: object = None, *headers: tuple[str, str]) -> bytes:
    """A `POST /api/chat`: a document, or bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(HELLO if body is None else body).encode()
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers = (JSON, *headers)
    return encoded("POST", "/api/chat", headers, data)


class Client:
    """One connection to Sluice, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._chunked = False
        self._left = 0
        self._unparsed = b""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Reply:
        """Read a status line and headers; the body remains to be read."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        start, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        split = (line.partition(":") for line in lines)
        pairs = [(name.lower(), value.strip()) for name, _, value in split]
        headers = dict(pairs)
        assert len(headers) == len(pairs), f"a header twice: {pairs}"
        self._chunked = headers.get("transfer-encoding") == "chunked"
        self._left = int(headers.get("content-length", 0))
        self._unparsed = b""
        return Reply(int(start.split(" ")[1]), headers)

    async def chunk(self) -> bytes:
        """The next HTTP chunk of the body; b"" at its proper end.

        Raises:
            asyncio.IncompleteReadError: the body was cut.
        """
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def body(self) -> bytes:
        """The rest of the body."""
        if not self._chunked:
            return await self.reader.readexactly(self._left)
        pieces = []
        while piece := await self.chunk():
            pieces.append(piece)
        return b"".join(pieces)

    async def reply(self) -> Reply:
        """The whole next reply."""
        reply = await self.head()
        reply.body = await self.body()
        return reply

    async def until(self, text: bytes) -> bytes:
        """Read whole chunks of a stream until one holds these bytes; all that was read."""
        read = b""
        while text not in read:
            piece = await self.chunk()
            assert piece, f"the stream ended: {read!r}"
            read += piece
        return read

    async def closed(self) -> bytes:
        """Wait until the server closes; the bytes that came before."""
        with suppress(ConnectionError):
            return await self.reader.read()
        return b""

    def fin(self) -> None:
        """Leave in an orderly way."""
        self.writer.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self.writer.write_eof()

    def rst(self) -> None:
        """Leave with a reset."""
        from upstream import RESET

        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()


# The server


class Clock:
    """The server's clock, which a test may move forward."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead_s

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds


@dataclass
class WallClock:
    """Seconds since the epoch, which a test may set; at first a minute after midnight."""

    now: float = 20_000 * 86_400 + 60.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Backoff:
    """Stands in for `asyncio.sleep`: notes each wait and returns at once, unless `held`."""

    waits: list[float] = field(default_factory=list)
    held: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.begun.set()
        if self.held:
            await asyncio.Event().wait()
        await asyncio.sleep(0)


class CallLog(logging.Handler):
    """The records of `sluice.call`, as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []
        self._came = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self._came.set()

    async def wait(self, count: int) -> None:
        while len(self.records) < count:
            self._came.clear()
            await self._came.wait()


class Sluice:
    """A running server with its parts, its call records, and clients."""

    def __init__(
        self,
        config: Config,
        calls: CallLog,
        cassette: Path | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.config = config
        self.calls = calls
        self.clock = Clock()
        self.wall_clock = WallClock()
        self.backoff = Backoff()
        self._clients: list[Client] = []
        self.transports: list[AiohttpTransport] = []
        self.traces = traces
        self._cassette = cassette
        self._parts = AsyncExitStack()

    async def start(self) -> None:
        """Build the parts as the server does, on this test's clocks, and listen."""
        from tornado.netutil import bind_sockets

        from app import serving, wiring
        from telemetry.audit import Audit

        runtime = wiring.Runtime(
            clock=self.clock,
            wall_clock=self.wall_clock,
            sleep=self.backoff.sleep,
            random=lambda: 0.5,
            version="0.0.test",
        )
        traces = self.traces
        self.services = await self._parts.enter_async_context(
            wiring.build_services(
                self.config,
                traces_factory=(lambda version: traces) if traces else None,
                runtime=runtime,
                transport=self._transport,
            )
        )
        self.gate = self.services.gate
        sinks = self.services.settlement._sinks
        self.audit = next((sink for sink in sinks if isinstance(sink, Audit)), None)
        self.http_server = serving.make_server(self.services)
        sockets = bind_sockets(0, "127.0.0.1")
        self.http_server.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]

    def _transport(self, name: str, provider: ProviderConfig) -> Any:
        from provider.replay.cassette import Provenance
        from provider.replay.recorder import RecordingTransport
        from provider.transport import AiohttpTransport
        from telemetry.dropped import report_dropped

        made = AiohttpTransport(
            connect_s=provider.connect_s,
            max_response_bytes=provider.max_response_bytes,
            max_stream_bytes=provider.max_stream_bytes,
            # The services are there by the time a connection is.
            on_dropped=lambda *told: report_dropped(self.services.metrics, name, *told),
        )
        self.transports.append(made)
        if self._cassette is None:
            return made
        provenance = Provenance("a scripted upstream", "2026-01-01T00:00:00+00:00", "tests")
        return RecordingTransport(made, self._cassette, provenance, lambda count: None)

    async def stop(self) -> None:
        for client in self._clients:
            client.fin()
        await asyncio.gather(
            *(client.writer.wait_closed() for client in self._clients), return_exceptions=True
        )
        self.http_server.stop()
        await self.http_server.close_all_connections()
        await self._parts.aclose()

    async def connect(self) -> Client:
        """A new connection; it is closed after the test."""
        client = Client(
            *await asyncio.open_connection("127.0.0.1", self.port, limit=16 * 1024 * 1024)
        )
        self._clients.append(client)
        return client

    async def send(self, data: bytes) -> Client:
        """A new connection on which these bytes were sent."""
        client = await self.connect()
        await client.send(data)
        return client

    async def chat(self, body: object = None, *headers: tuple[str, str]) -> Reply:
        """`POST /api/chat` on a new connection."""
        return await (await self.send(chat(body, *headers))).reply()

    async def stream(self, *headers: tuple[str, str]) -> Reply:
        """A streamed call, read to its end."""
        return await self.chat({**HELLO, "stream": True}, *headers)

    async def fetch(self, method: str, target: str, *headers: tuple[str, str]) -> Reply:
        """A request without a body on a new connection."""
        return await (await self.send(encoded(method, target, headers))).reply()

    async def record(self) -> Any:
        """The one record of the one call of this test; afterwards everything is at rest."""
        await self.calls.wait(1)
        await self.at_rest()
        assert len(self.calls.records) == 1, [r.code for r in self.calls.records]
        return self.calls.records[0]

    async def at_rest(self) -> None:
        """Let the loop turn, then make sure that no call, retry or connection is in use."""
        for _ in range(10):
            await asyncio.sleep(0)
        retry = self.services.router.retry
        assert self.services.admission.in_flight == 0
        assert (retry.calls_in_flight, retry.retries_in_flight) == (0, 0)
        assert not any(each._session.connector._acquired for each in self.transports)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser."""
    from browser import browser

    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def house() -> Iterator[Any]:
    """Servers, and the upstream before which they stand, in a thread of their own."""
    from browser import House

    with House() as running:
        yield running


StartSluice = Callable[..., Awaitable[Sluice]]
Connect = Callable[..., "openai.AsyncOpenAI"]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis of this test's own."""
    from redis_server import RedisServer

    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def calls() -> Iterator[CallLog]:
    """The records of `sluice.call`."""
    handler = CallLog()
    logger = logging.getLogger("sluice.call")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def upstream(io_loop: IOLoop) -> Iterator[Upstream]:
    """The scripted upstream, listening."""
    from upstream import Upstream

    scripted = Upstream()
    io_loop.run_sync(scripted.start)
    yield scripted
    io_loop.run_sync(scripted.stop, timeout=10)
    assert scripted.faults == []


@pytest.fixture
def sluice(io_loop: IOLoop, upstream: Upstream, calls: CallLog) -> Iterator[StartSluice]:
    """`await sluice(provider_idle_s=0.05)`: start a server in front of `upstream`."""
    started: list[Sluice] = []

    async def start(
        *,
        base_url: str = upstream.url,
        cassette: Path | None = None,
        config: Config | None = None,
        traces: Traces | None = None,
        **overrides: object,
    ) -> Sluice:
        config = config or make_settings(base_url, **overrides)
        started.append(Sluice(config, calls, cassette, traces))
        await started[-1].start()
        return started[-1]

    async def stop() -> None:
        for one in started:
            await one.stop()
        await upstream.stop()
        for _ in range(10):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left: {left}"

    yield start
    io_loop.run_sync(stop, timeout=10)


@pytest.fixture
def sdk(io_loop: IOLoop) -> Iterator[Connect]:
    """`sdk(server)`: OpenAI's client, with nothing changed but its address."""
    import openai

    made: list[openai.AsyncOpenAI] = []

    def connect(server: Sluice, **options: Any) -> openai.AsyncOpenAI:
        url = f"http://127.0.0.1:{server.port}/v1"
        options = {"api_key": "any", "max_retries": 0, **options}
        made.append(openai.AsyncOpenAI(base_url=url, **options))
        return made[-1]

    yield connect
    for client in made:
        io_loop.run_sync(client.close)
