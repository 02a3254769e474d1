"""Traces: spans as a real OTLP receiver gets them, and nothing at all where nobody asks."""

import asyncio
import base64
import json
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from conftest import HELLO, KEY, ROOT, Sluice, StartSluice, chat
from processes import Start, finished, start  # noqa: F401
from tornado.ioloop import IOLoop
from upstream import (
    DONE,
    Upstream,
    after_content,
    completion,
    delta,
    either,
    error,
    finish,
    json_reply,
    role,
    rst,
    silence,
    stream,
    usage,
    usage_of,
)

from errors import ConfigError
from telemetry.tracing.env import tracing
from telemetry.tracing.spans import Traces
from trace_context import TraceContext, parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = ("traceparent", f"00-{TRACE}-{SPAN}-01")
PROMPT, ANSWER = "canary-prompt-83ab", "canary-answer-d07e"
CACHED = usage_of(9, 3) | {"prompt_tokens_details": {"cached_tokens": 4}}


class Span:
    """A span as it came, with plain values."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.name = raw["name"]
        self.kind = raw["kind"].removeprefix("SPAN_KIND_")
        self.trace_id, self.id = _hex(raw["traceId"]), _hex(raw["spanId"])
        self.parent_id = _hex(raw.get("parentSpanId", ""))
        self.state = raw.get("traceState")
        self.failed = raw["status"].get("code") == "STATUS_CODE_ERROR"
        self.began, self.ended = int(raw["startTimeUnixNano"]), int(raw["endTimeUnixNano"])
        self.attributes = _attributes(raw.get("attributes", []))
        self.events = [
            (each["name"], int(each["timeUnixNano"]), _attributes(each.get("attributes", [])))
            for each in raw.get("events", [])
        ]


def _hex(text: str) -> str:
    return base64.b64decode(text).hex()


def _attributes(raw: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["key"]: _value(each["value"]) for each in raw}


def _value(raw: dict[str, Any]) -> Any:
    [(kind, value)] = raw.items()
    if kind == "arrayValue":
        return [_value(each) for each in value["values"]]
    return int(value) if kind == "intValue" else value


class Receiver:
    """tests/otlp_receiver.py, running."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.endpoint = f"http://127.0.0.1:{port}"
        self.requests: list[dict[str, Any]] = []

    def stop(self) -> None:
        if self.process.returncode is None:
            self.process.kill()

    async def spans(self, count: int) -> list[Span]:
        """Wait for so many; the server's first."""
        while len(self._spans()) < count:
            assert self.process.stdout is not None
            self.requests.append(json.loads(await self.process.stdout.readline()))
        spans = self._spans()
        assert len(spans) == count
        return spans

    def _spans(self) -> list[Span]:
        return [
            Span(span)
            for request in self.requests
            for resource in request["document"]["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    @property
    def resource(self) -> dict[str, Any]:
        [resource] = self.requests[0]["document"]["resourceSpans"]
        return _attributes(resource["resource"]["attributes"])


@pytest.fixture
def receive(io_loop: IOLoop) -> Iterator[Callable[[], Awaitable[Receiver]]]:
    """`await receive()`: a receiver that is listening."""
    running: list[Receiver] = []

    async def run() -> Receiver:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "tests/otlp_receiver.py"),
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        assert process.stdout is not None
        running.append(Receiver(process, int(await process.stdout.readline())))
        return running[-1]

    async def stop() -> None:
        for receiver in running:
            receiver.stop()
            await receiver.process.wait()

    yield run
    io_loop.run_sync(stop, timeout=10)


Receive = Callable[[], Awaitable[Receiver]]


@pytest.fixture
def traced(
    receive: Receive, sluice: StartSluice, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Awaitable[tuple[Sluice, Receiver]]]:
    """`await traced(provider_idle_s=1)`: a server before `upstream`, and who gets its spans."""

    async def run(**overrides: Any) -> tuple[Sluice, Receiver]:
        receiver = await receive()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        return await sluice(traces=Traces("0.0.test"), **overrides), receiver

    return run


Traced = Callable[..., Awaitable[tuple[Sluice, Receiver]]]
STREAMED = stream(role(), delta(ANSWER), finish(), usage(), DONE)


async def test_a_call_is_a_server_span_with_an_attempt(
    start: Start,  # noqa: F811
    receive: Receive,
    upstream: Upstream,
) -> None:
    upstream.will(json_reply(completion(ANSWER, usage=CACHED)))
    receiver = await receive()
    server = await start(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="60000",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        OTEL_EXPORTER_OTLP_HEADERS="x-token=abc",
        OPENAI_API_KEY=KEY,
        OPENAI_BASE_URL=upstream.url,
    )

    reply = await server.ask(chat({"userMessage": PROMPT}, PARENT, ("tracestate", "a=1,b=2")))
    server.signal(signal.SIGTERM)  # what waits is sent now
    assert await server.ended() == 0

    assert reply.status == 200
    own, attempt = await receiver.spans(2)
    assert (own.name, own.kind, own.failed) == ("POST /api/chat", "SERVER", False)
    assert (own.trace_id, own.parent_id, own.state) == (TRACE, SPAN, "a=1,b=2")
    assert (attempt.name, attempt.kind) == ("chat gpt-4o-mini", "CLIENT")
    assert (attempt.trace_id, attempt.parent_id) == (TRACE, own.id)
    assert own.began <= attempt.began <= attempt.ended <= own.ended
    assert own.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/chat",
        "http.response.status_code": 200,
        "url.path": "/api/chat",
        "url.scheme": "http",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o-mini",
        "sluice.request_id": reply.headers["x-request-id"],
        "sluice.code": "completed",
        "sluice.attempts": 1,
        "sluice.charged.input_tokens": 9,
        "sluice.charged.output_tokens": 3,
        "sluice.charged.counted_by": "provider",
        "sluice.charged.usd": 2.85e-06,
    }
    assert attempt.attributes == {
        "http.request.method": "POST",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.max_tokens": 4096,
        "gen_ai.request.stream": False,
        "sluice.provider": "default",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
    }
    assert receiver.resource["service.name"] == "sluice"
    assert receiver.resource["deployment.environment.name"] == "test"
    assert receiver.requests[0]["headers"]["x-token"] == "abc"
    assert receiver.requests[0]["path"] == "/v1/traces"
    line = await server.line("call")
    assert (line["trace_id"], line["span_id"]) == (TRACE, own.id)


async def test_the_provider_is_told_the_attempt(traced: Traced, upstream: Upstream) -> None:
    upstream.will(error(500), either(json_reply(completion()), STREAMED))
    server, receiver = await traced()

    await server.chat(HELLO, PARENT, ("tracestate", "a=1"))

    _, first, second = await receiver.spans(3)
    assert [request.header("traceparent") for request in upstream.requests] == [
        f"00-{TRACE}-{attempt.id}-01" for attempt in (first, second)
    ]
    assert [request.header("tracestate") for request in upstream.requests] == ["a=1", "a=1"]
    assert first.failed
    assert first.attributes["error.type"] == "status_500"
    assert "http.request.resend_count" not in first.attributes
    assert "gen_ai.usage.input_tokens" not in first.attributes
    assert not second.failed
    assert second.attributes["http.request.resend_count"] == 1
    assert first.ended <= second.began


async def test_a_failed_call_is_a_failed_span(traced: Traced, upstream: Upstream) -> None:
    upstream.will(error(503))
    server, receiver = await traced()

    assert (await server.chat(HELLO)).status == 502

    own, *attempts = await receiver.spans(4)
    assert own.failed
    assert own.parent_id == ""
    assert own.attributes["error.type"] == "provider_unavailable"
    assert own.attributes["http.response.status_code"] == 502
    assert all(attempt.failed for attempt in attempts)


async def test_a_refused_request_is_a_span_and_no_failure(
    traced: Traced, upstream: Upstream
) -> None:
    server, receiver = await traced()

    assert (await server.chat({})).status == 400

    [own] = await receiver.spans(1)
    assert not own.failed
    assert own.attributes["sluice.code"] == "invalid_request"
    assert "error.type" not in own.attributes


async def test_what_is_no_post_is_no_span(traced: Traced) -> None:
    server, receiver = await traced()

    assert (await server.fetch("GET", "/api/chat")).status == 405
    assert (await server.chat({})).status == 400

    [own] = await receiver.spans(1)
    assert (own.name, own.attributes["sluice.code"]) == ("POST /api/chat", "invalid_request")


async def test_a_streams_attempt_lasts_and_marks_its_first_token(
    traced: Traced, upstream: Upstream
) -> None:
    upstream.will(STREAMED)
    server, receiver = await traced()

    await server.chat({**HELLO, "stream": True})

    own, attempt = await receiver.spans(2)
    [(name, at, _)] = attempt.events
    assert name == "first_token"
    assert attempt.began <= at <= attempt.ended == own.ended
    seconds = attempt.attributes["gen_ai.response.time_to_first_chunk"]
    assert seconds == pytest.approx((at - attempt.began) / 1e9, abs=1e-5)
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 3
    assert attempt.attributes["gen_ai.request.stream"] is True


async def test_a_stream_that_breaks_is_a_failed_attempt(traced: Traced, upstream: Upstream) -> None:
    upstream.will(after_content(rst))
    server, receiver = await traced()

    await server.chat({**HELLO, "stream": True})

    own, attempt = await receiver.spans(2)
    assert own.failed
    assert attempt.failed
    assert attempt.attributes["error.type"] == own.attributes["sluice.reason"]


async def test_a_client_that_leaves_is_no_failure(traced: Traced, upstream: Upstream) -> None:
    upstream.will(silence)
    server, receiver = await traced()

    client = await server.send(chat(HELLO))
    await upstream.request()
    client.rst()

    own, attempt = await receiver.spans(2)
    assert not own.failed
    assert not attempt.failed
    assert own.attributes["sluice.code"] == "client_gone"
    assert attempt.attributes["error.type"] == "disconnected"


async def test_an_open_circuit_is_an_event(traced: Traced, upstream: Upstream) -> None:
    upstream.will(error(500))
    server, receiver = await traced(circuit_min_calls=1, retry_max_attempts=1)
    await server.chat(HELLO)
    await receiver.spans(2)

    assert (await server.chat(HELLO)).status == 503

    own = (await receiver.spans(3))[-1]
    [(name, at, attributes)] = own.events
    assert (name, attributes) == ("circuit_open", {"sluice.provider": "default"})
    assert own.began <= at <= own.ended
    assert own.attributes["sluice.attempts"] == 0


@pytest.mark.parametrize(
    ("sampler", "flag", "sampled"),
    [
        ("parentbased_always_on", "00", False),
        ("always_off", "01", False),
        ("always_on", "00", True),
    ],
)
async def test_the_sampler_decides(
    traced: Traced,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    flag: str,
    sampled: bool,
) -> None:
    upstream.will(json_reply(completion()))
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gate")
    server, receiver = await traced()

    await server.chat(HELLO, ("traceparent", f"00-{TRACE}-{SPAN}-{flag}"))

    told = upstream.requests[0].header("traceparent") or ""
    assert told.startswith(f"00-{TRACE}-")
    assert told.endswith(f"-0{sampled:d}")
    assert (await server.record()).trace_id == TRACE
    assert server.traces is not None
    server.traces.close()  # what waits is sent now
    if sampled:
        await receiver.spans(2)
        assert receiver.resource["service.name"] == "gate"
    else:
        receiver.stop()
        assert receiver.process.stdout is not None
        assert await receiver.process.stdout.read() == b""


async def test_no_word_and_no_key_is_exported(traced: Traced, upstream: Upstream) -> None:
    upstream.will(
        error(500, code=PROMPT, message=f"{KEY} {PROMPT}"),
        json_reply(completion(ANSWER) | {"model": f"{PROMPT} {KEY}"}),
        STREAMED,
    )
    server, receiver = await traced()

    headers = (("Authorization", f"Bearer {KEY}"), ("tracestate", f"{PROMPT}"))
    await server.chat({"userMessage": PROMPT}, *headers)
    await server.chat({"userMessage": PROMPT, "stream": True}, ("traceparent", PROMPT))

    await receiver.spans(5)
    sent = json.dumps(receiver.requests)
    for canary in (KEY, PROMPT, ANSWER):
        assert canary not in sent
        assert canary not in str(upstream.requests[1].header("tracestate"))
    assert "gpt-4o-mini" in sent


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_receiver_that_fails_hurts_no_call_and_no_end(
    start: Start,  # noqa: F811
    upstream: Upstream,
    hangs: bool,
) -> None:
    upstream.will(json_reply(completion()))
    with socket.create_server(("127.0.0.1", 0)) as receiver:
        port = receiver.getsockname()[1] if hangs else 9
        server = await start(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_BSP_SCHEDULE_DELAY="10",
            OPENAI_API_KEY=KEY,
            OPENAI_BASE_URL=upstream.url,
        )
        for _ in range(3):
            assert (await server.ask(chat(HELLO))).status == 200
        loop = asyncio.get_running_loop()
        began = loop.time()
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert loop.time() - began < 15  # the SDK by itself: 30
    assert [line["code"] for line in server.lines if line["event"] == "call"] == ["completed"] * 3
    assert any(line["event"] == "traces_dropped" for line in server.lines)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"},
            "OTEL_EXPORTER_OTLP_ENDPOINT: must be an address like http://localhost:4318",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            },
            "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf, or not set",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: must be http/protobuf, or not set",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "abc",
            },
            "OTEL_EXPORTER_OTLP_TIMEOUT: must be a number of seconds",
        ),
    ],
)
def test_a_fault_is_one_line(variables: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tracing(variables)
    assert str(caught.value) == told


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9999", "max_export_batch_size must be"),
    ],
)
async def test_what_the_sdk_refuses_is_one_line_of_either_command(
    command: str, name: str, value: str, fault: str
) -> None:
    code, output, errors = await finished(
        command,
        PORT="0",
        **{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", name: value},
    )
    told = output if command == "check" else errors
    assert (code, f"OTEL_… variables: {fault}" in told) == (1, True)
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("variables", "made"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": ""}, Traces),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": " ", "OTEL_EXPORTER_OTLP_TIMEOUT": ""}, Traces),
        (
            {
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            },
            Traces,
        ),
        ({"OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Traces),
    ],
)
def test_variables_mean_what_opentelemetry_says(
    variables: dict[str, str], made: type[Traces] | None
) -> None:
    on = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    assert tracing(on | variables) is made


# A program of its own, for the tests have imported all of it. Not all of OpenTelemetry is looked
# for: redis imports the metrics of its SDK, where that is installed.
_IMPORTS = """
import sys
sys.path.insert(0, ROOT)
import server
from telemetry.tracing.env import tracing
on = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}
def tell(made):
    names = ("opentelemetry.exporter", "opentelemetry.sdk.trace", "requests")
    print(made, any(name in sys.modules for name in names))
tell(tracing({}))
tell(tracing({**on, "OTEL_SDK_DISABLED": "true"}))
tell(tracing(on))
"""


async def test_without_the_variable_nothing_is_imported() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"ROOT = {str(ROOT)!r}\n{_IMPORTS}", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.decode().splitlines() == [
        "None False",
        "None False",
        "<class 'telemetry.tracing.spans.Traces'> True",
    ]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "telemetry.tracing.spans")
    with pytest.raises(ConfigError, match=r"pip install -r requirements-otel\.txt$"):
        tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"})


async def test_without_the_variable_the_provider_is_told_nothing(
    start: Start,  # noqa: F811
    upstream: Upstream,
) -> None:
    upstream.will(json_reply(completion()))
    server = await start(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=upstream.url)

    await server.ask(chat(HELLO, PARENT))

    assert upstream.requests[0].header("traceparent") is None
    assert "trace_id" not in await server.line("call")


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01 ",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01{'x' * 9}",
        f"01-{TRACE}-{SPAN}-01-{'x' * 600}",
        f"00-{TRACE}-{SPAN}-\u0660\u0661",
    ],
)
def test_a_bad_traceparent_is_ignored(header: str) -> None:
    assert parent_of(header, "a=1") is None


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("fe", False)])
def test_a_good_traceparent(flags: str, sampled: bool) -> None:
    parent = parent_of(f"00-{TRACE}-{SPAN}-{flags}", "")
    assert parent == (TRACE, SPAN, sampled, "")
    assert parent_of(f"cc-{TRACE}-{SPAN}-{flags}-more", "") == parent


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("a=1", True),
        ("vendor@x=a b;c , 0t/x=~!", True),
        (",".join(f"k{n}=1" for n in range(32)), True),
        (",".join(f"k{n}=1" for n in range(33)), False),
        ("a=" + "x" * 256, True),
        ("a=" + "x" * 257, False),
        ("A=1", False),
        ("a", False),
        ("a=", False),
        ("a=é", False),
        ("a=1\r\nX: y", False),
        (",".join(["a=" + "x" * 200] * 3), False),
    ],
)
def test_a_tracestate_is_passed_on_if_it_is_one(state: str, kept: bool) -> None:
    parent = parent_of(PARENT[1], state)
    assert parent is not None
    headers = TraceContext(TRACE, "1" * 16, parent, sampled=False).headers("2" * 16)
    assert headers["traceparent"] == f"00-{TRACE}-{'2' * 16}-00"
    assert headers.get("tracestate") == (state if kept else None)
