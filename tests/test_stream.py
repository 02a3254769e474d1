"""POST /api/chat as an event stream: the contract of the UI message stream, and its timing."""

import asyncio
from typing import Any

import pytest
from conftest import HELLO, StartSluice, assert_valid, chat, deadline, parse_events
from upstream import (
    DONE,
    Exchange,
    Upstream,
    answer_stream,
    delta,
    finish,
    ok,
    role,
    stream,
    usage,
    usage_of,
)

STREAM = {**HELLO, "stream": True}
EVENTS = ("Accept", "text/event-stream")


def types(events: list[Any]) -> list[str]:
    return [event if event == "[DONE]" else event["type"] for event in events]


def text(events: list[Any]) -> str:
    return "".join(e["delta"] for e in events if e != "[DONE]" and e["type"] == "text-delta")


def assert_each_valid(events: list[Any]) -> None:
    for event in events:
        if event != "[DONE]":
            assert_valid(event, "chat.event.json")


async def test_the_whole_sequence(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(answer_stream("Hi", " there"))
    server = await sluice()

    reply = await server.stream()

    start, *rest = reply.events
    assert start.keys() == {"type", "messageId", "messageMetadata"}
    assert start["type"] == "start"
    assert start["messageMetadata"]["model"] == "gpt-4o-mini"
    metadata = rest[-2]["messageMetadata"]
    times = {name: metadata.pop(name) for name in ("firstTokenMs", "latencyMs")}
    assert rest == [
        {"type": "text-start", "id": "0"},
        {"type": "text-delta", "id": "0", "delta": "Hi"},
        {"type": "text-delta", "id": "0", "delta": " there"},
        {"type": "text-end", "id": "0"},
        {
            "type": "finish",
            "finishReason": "stop",
            "messageMetadata": {
                "usage": usage_of(9, 3),
                "charged": {
                    "promptTokens": 9,
                    "answerTokens": 3,
                    "estimated": False,
                    "usd": 3.15e-6,
                },
                "provider": "default",
                "attempts": 1,
            },
        },
        "[DONE]",
    ]
    assert 0 <= times["firstTokenMs"] <= times["latencyMs"]
    assert_each_valid(reply.events)
    record = await server.record()
    assert (record.code, record.status, record.attempts) == ("completed", 200, 1)
    assert (record.stream, record.finish_reason) == (True, "stop")
    assert (record.prompt_tokens, record.completion_tokens) == (9, 3)
    assert 0 < record.first_token_ms <= record.latency_ms


async def test_the_headers_of_the_contract(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(answer_stream("Hi"))
    server = await sluice()

    headers = (await server.stream(("X-Request-Id", "mine"))).headers

    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert headers["x-request-id"] == "mine"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers
    assert "content-encoding" not in headers


async def test_upstream_is_asked_for_a_stream_with_usage(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream("Hi"))
    server = await sluice()

    await server.stream(("Accept-Encoding", "gzip, br"))

    [request] = upstream.requests
    assert request.json["stream"] is True
    assert request.json["stream_options"] == {"include_usage": True}
    assert request.header("Accept-Encoding") in (None, "identity")


@pytest.mark.parametrize(
    ("fields", "accept", "streamed"),
    [
        ({}, None, False),
        ({}, "application/json", False),
        ({}, "*/*", False),
        ({}, "text/event-stream", True),
        ({}, "application/json, Text/Event-Stream;q=0.9", True),
        ({"stream": True}, None, True),
        ({"stream": True}, "application/json", True),
        ({"stream": False}, None, False),
        ({"stream": False}, "text/event-stream", False),
    ],
    ids=str,
)
async def test_the_body_and_then_the_accept_header_choose_the_form(
    sluice: StartSluice,
    upstream: Upstream,
    fields: dict[str, bool],
    accept: str | None,
    streamed: bool,
) -> None:
    upstream.will(answer_stream("Hi") if streamed else ok("Hi"))
    server = await sluice()

    reply = await server.chat({**HELLO, **fields}, *([("Accept", accept)] if accept else []))

    assert reply.status == 200
    kind = "text/event-stream" if streamed else "application/json"
    assert reply.headers["content-type"] == kind
    assert upstream.requests[0].json.get("stream", False) is streamed


async def test_chunks_that_arrive_together_leave_together(
    sluice: StartSluice, upstream: Upstream
) -> None:
    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(role(), delta("a"), delta("b"), delta("c"))
        await exchange.chunk(finish(), DONE)
        await exchange.chunk()

    upstream.will(step)
    server = await sluice()
    client = await server.send(chat(STREAM))
    assert (await client.head()).status == 200

    first = parse_events(await client.chunk())

    assert types(first)[:2] == ["start", "text-start"]
    assert text(first) == "abc"


async def test_first_words_leave_while_the_upstream_is_still_open(
    sluice: StartSluice, upstream: Upstream
) -> None:
    go = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(role())
        await exchange.chunk(delta("Hi"))
        await go.wait()
        await exchange.chunk(finish(), DONE)
        await exchange.chunk()

    upstream.will(step)
    server = await sluice()
    client = await server.send(chat(STREAM))
    assert (await client.head()).status == 200

    assert text(parse_events(await client.until(b'"Hi"'))) == "Hi"

    go.set()
    assert types(parse_events(await client.body())) == ["text-end", "finish", "[DONE]"]


async def test_each_word_leaves_as_it_comes(sluice: StartSluice, upstream: Upstream) -> None:
    words: asyncio.Queue[str] = asyncio.Queue()

    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        while word := await words.get():
            await exchange.chunk(delta(word))
        await exchange.chunk(finish(), DONE)
        await exchange.chunk()

    upstream.will(step)
    server = await sluice()
    client = await server.send(chat(STREAM))
    words.put_nowait("w0")
    await client.head()
    await client.until(b'"w0"')
    for number in range(1, 20):
        words.put_nowait(f"w{number}")
        assert text(parse_events(await client.chunk())) == f"w{number}"
    words.put_nowait("")
    assert types(parse_events(await client.body()))[-1] == "[DONE]"


async def test_usage_is_null_where_the_provider_sent_none(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(stream(delta("Hi"), finish(), DONE))
    server = await sluice()

    reply = await server.stream()

    metadata = reply.events[-2]["messageMetadata"]
    assert metadata["usage"] is None
    assert metadata["charged"]["estimated"] is True
    assert metadata["charged"]["answerTokens"] == 1
    assert_each_valid(reply.events)
    assert (await server.record()).prompt_tokens is None


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content-filter"),
        ("tool_calls", "tool-calls"),
        ("function_call", "tool-calls"),
        ("something_new", "other"),
    ],
)
async def test_finish_reasons_are_mapped(
    sluice: StartSluice, upstream: Upstream, theirs: str, ours: str
) -> None:
    upstream.will(answer_stream("Hi", reason=theirs))
    server = await sluice()

    reply = await server.stream()

    assert reply.events[-2]["finishReason"] == ours
    assert_each_valid(reply.events)
    assert (await server.record()).code == "completed"


@pytest.mark.parametrize(
    "chunks",
    [
        (delta("Hi"), finish(), usage()),
        (delta("Hi"), finish()),
        (delta("Hi"), finish(), usage(), b": bye\n\n", DONE),
        (b"\xef\xbb\xbf" + delta("Hi"), finish(), DONE),
        (delta("Hi").replace(b"\n", b"\r\n"), finish().replace(b"\n", b"\r"), DONE),
        (delta("Hi"), finish(), DONE, b"data: {oops\n\n"),
    ],
    ids=["no [DONE]", "nothing after finish", "comments", "BOM", "CRLF and CR", "after [DONE]"],
)
async def test_a_finish_reason_makes_the_answer_whole(
    sluice: StartSluice, upstream: Upstream, chunks: tuple[bytes, ...]
) -> None:
    upstream.will(stream(*chunks))
    server = await sluice()

    events = (await server.stream()).events

    assert text(events) == "Hi"
    assert types(events)[-2:] == ["finish", "[DONE]"]
    assert (await server.record()).code == "completed"


async def test_silence_after_the_finish_reason_costs_only_the_usage(
    sluice: StartSluice, upstream: Upstream
) -> None:
    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(delta("Hi"), finish())
        await exchange.closed.wait()

    upstream.will(step)
    server = await sluice(provider_idle_s=0.05)

    events = (await server.stream()).events

    assert types(events)[-2:] == ["finish", "[DONE]"]
    assert (await server.record()).code == "completed"
    await upstream.exchanges[0].closed.wait()


async def test_an_answer_without_words_has_no_delta(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(stream(role(), finish("length"), DONE))
    server = await sluice()

    events = (await server.stream()).events

    assert types(events) == ["start", "text-start", "text-end", "finish", "[DONE]"]
    assert_each_valid(events)


async def test_comments_keep_a_quiet_stream_alive(sluice: StartSluice, upstream: Upstream) -> None:
    go = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(delta("Hi"))
        await go.wait()
        await exchange.chunk(delta(" there"), finish(), DONE)
        await exchange.chunk()

    upstream.will(step)
    server = await sluice(server_heartbeat_s=0.02)
    client = await server.send(chat(STREAM))
    await client.head()

    quiet = await client.until(b": ping\n\n") + await client.until(b": ping\n\n")

    assert text(parse_events(quiet)) == "Hi"
    go.set()
    rest = parse_events(await client.body())
    assert text(rest) == " there"
    assert types(rest)[-2:] == ["finish", "[DONE]"]


async def test_heartbeats_do_not_reset_the_idle_timer(
    sluice: StartSluice, upstream: Upstream
) -> None:
    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(delta("Hi"))
        await exchange.closed.wait()

    upstream.will(step)
    server = await sluice(server_heartbeat_s=0.02, provider_idle_s=0.2)

    reply = await server.stream()

    assert b": ping\n\n" in reply.body
    assert types(reply.events) == ["start", "text-start", "text-delta", "error"]
    assert reply.events[-1]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_text_may_be_split_at_any_byte(
    sluice: StartSluice, upstream: Upstream, size: int
) -> None:
    words = 'Grüße, 漢字 and 🦆\u2028 "quoted" \\ \u0000'
    data = delta(words) + finish() + DONE
    upstream.will(stream(*(data[n : n + size] for n in range(0, len(data), size))))
    server = await sluice()

    reply = await server.stream()

    assert text(reply.events) == words
    assert_each_valid(reply.events)


async def test_a_stream_ends_at_its_own_deadline(sluice: StartSluice, upstream: Upstream) -> None:
    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        while not exchange.closed.is_set():
            await exchange.chunk(delta("x"))
            await asyncio.sleep(0.005)

    upstream.will(step)
    server = await sluice(**deadline(0.5), provider_stream_s=0.5)

    events = (await server.stream()).events

    assert types(events)[-1] == "error"
    assert types(events).count("error") == 1
    assert not {"finish", "[DONE]"} & set(types(events))
    assert events[-1] == {
        "type": "error",
        "errorText": "Request timed out",
        "code": "deadline_exceeded",
        "retryable": True,
    }
    assert_each_valid(events)
    record = await server.record()
    assert (record.code, record.status, record.attempts) == ("deadline_exceeded", 504, 1)
    await upstream.exchanges[0].closed.wait()


async def test_a_begun_stream_outlives_the_calls_deadline(
    sluice: StartSluice, upstream: Upstream
) -> None:
    server = await sluice(**deadline(0.3), provider_stream_s=30, provider_idle_s=30)

    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(delta("Hi"))
        # The loop's timers fire in order: this one is after the deadline.
        await asyncio.sleep(0.4)
        await exchange.chunk(finish(), DONE)
        await exchange.chunk()

    upstream.will(step)

    events = (await server.stream()).events

    assert types(events)[-2:] == ["finish", "[DONE]"]
    assert (await server.record()).code == "completed"


async def test_a_connection_serves_streams_one_after_the_other(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream("Hi"))
    server = await sluice()
    client = await server.connect()
    ids = set()
    for _ in range(3):
        await client.send(chat(STREAM, EVENTS))
        reply = await client.reply()
        assert types(reply.events)[-1] == "[DONE]"
        ids.add(reply.events[0]["messageId"])

    assert len(ids) == 3
    assert upstream.connections == 1
