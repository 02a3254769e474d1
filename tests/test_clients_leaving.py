"""Clients that leave or do not read: the upstream call ends, the books are closed once."""

import asyncio
import socket
from pathlib import Path
from resource import getpagesize
from typing import Any

import pytest
from conftest import ENDLESS, HELLO, Client, StartSluice, chat, encoded
from upstream import (
    DONE,
    Exchange,
    Step,
    Upstream,
    after_content,
    delta,
    error,
    finish,
    good,
    ok,
    silence,
    usage_of,
)

STREAM = {**HELLO, "stream": True}
WAYS = pytest.mark.parametrize(
    "leave", [Client.fin, Client.rst, Client.half_close], ids=["FIN", "RST", "half-close"]
)


async def headers_then_silence(exchange: Exchange) -> None:
    await exchange.stream_head()
    await silence(exchange)


async def body_then_silence(exchange: Exchange) -> None:
    await exchange.head(200, ("Content-Type", "application/json"), ("Content-Length", "1000"))
    await exchange.send(b'{"choices"')
    await silence(exchange)


BEFORE_CONTENT: dict[str, tuple[dict[str, object], Step]] = {
    "buffered, before headers": (HELLO, silence),
    "buffered, in the body": (HELLO, body_then_silence),
    "streamed, before headers": (STREAM, silence),
    "streamed, before the first token": (STREAM, headers_then_silence),
}


@WAYS
@pytest.mark.parametrize("phase", BEFORE_CONTENT)
async def test_leaving_before_content_closes_the_upstream(
    sluice: StartSluice, upstream: Upstream, phase: str, leave: Any
) -> None:
    body, step = BEFORE_CONTENT[phase]
    upstream.will(step)
    server = await sluice()
    client = await server.send(chat(body))
    exchange = await upstream.request()

    leave(client)

    await exchange.closed.wait()
    record = await server.record()
    assert (record.code, record.status, record.attempts) == ("client_gone", 499, 1)
    assert record.reason == "disconnected"
    assert len(upstream.requests) == 1


@WAYS
async def test_leaving_mid_stream_closes_the_upstream(
    sluice: StartSluice, upstream: Upstream, leave: Any
) -> None:
    upstream.will(after_content())
    server = await sluice()
    client = await server.send(chat(STREAM))
    await client.head()
    await client.until(b" three")

    leave(client)

    await upstream.exchanges[0].closed.wait()
    record = await server.record()
    assert (record.code, record.status, record.attempts) == ("client_gone", 499, 1)
    assert record.first_token_ms is not None


@WAYS
async def test_leaving_while_words_pour_in_closes_the_upstream(
    sluice: StartSluice, upstream: Upstream, leave: Any
) -> None:
    async def pour(exchange: Exchange) -> None:
        await exchange.stream_head()
        while not exchange.closed.is_set():
            await exchange.chunk(delta("word ") * 50)

    upstream.will(pour)
    server = await sluice(provider_max_stream_bytes=1_000_000_000, **ENDLESS)
    client = await server.send(chat(STREAM))
    await client.head()
    await client.until(b"word")

    leave(client)

    await upstream.exchanges[0].closed.wait()
    assert (await server.record()).code == "client_gone"


@WAYS
@pytest.mark.parametrize("body", [HELLO, STREAM], ids=["buffered", "streamed"])
async def test_leaving_during_backoff_ends_the_call(
    sluice: StartSluice, upstream: Upstream, body: dict[str, object], leave: Any
) -> None:
    upstream.will(error(503), good())
    server = await sluice()
    server.backoff.held = True
    client = await server.send(chat(body))
    await server.backoff.begun.wait()

    leave(client)

    record = await server.record()
    assert (record.code, record.status, record.attempts) == ("client_gone", 499, 1)
    assert len(upstream.requests) == 1


@WAYS
async def test_leaving_before_the_body_is_complete(
    sluice: StartSluice, upstream: Upstream, leave: Any
) -> None:
    server = await sluice()
    client = await server.send(chat()[:-5])

    leave(client)

    record = await server.record()
    assert (record.code, record.status, record.attempts) == ("client_gone", 499, 0)
    assert upstream.requests == []


async def test_a_place_is_free_again_when_its_client_left(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(silence, ok())
    server = await sluice(server_max_in_flight=1)
    client = await server.send(chat())
    await upstream.request()
    (await server.chat()).assert_error(503, "overloaded")

    client.rst()
    await server.calls.wait(2)

    assert (await server.chat()).status == 200


async def test_a_client_that_left_does_not_hurt_the_others(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(after_content())
    server = await sluice()
    clients = [await server.send(chat(STREAM)) for _ in range(10)]
    for client in clients:
        await client.head()
        await client.until(b" three")
    for client in clients[::2]:
        client.rst()

    await server.calls.wait(5)

    assert {record.code for record in server.calls.records} == {"client_gone"}
    assert server.services.admission.in_flight == 5
    for client in clients[1::2]:
        client.fin()
    await server.calls.wait(10)
    await server.at_rest()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


async def test_a_client_that_does_not_read_holds_the_provider_back(
    sluice: StartSluice, upstream: Upstream
) -> None:
    most = 50_000_000
    block = delta("word " * 200) * 50
    peak = 0

    async def pour(exchange: Exchange) -> None:
        nonlocal peak
        await exchange.stream_head()
        while exchange.sent_bytes < most:
            await exchange.chunk(block)
            peak = max(peak, resident_bytes())

    upstream.will(good(), pour)
    server = await sluice(
        provider_max_stream_bytes=4 * most,
        server_flush_timeout_s=1,
        provider_idle_s=20,
        **ENDLESS,
    )
    assert (await server.stream()).status == 200  # everything is imported and warm
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", server.port))
        before = resident_bytes()
        await loop.sock_sendall(client, chat(STREAM))
        exchange = await upstream.request(2)

        await exchange.closed.wait()

        assert max(peak, resident_bytes()) - before < 10_000_000
        assert exchange.sent_bytes < 20_000_000
    await server.calls.wait(2)
    await server.at_rest()
    record = server.calls.records[-1]
    assert (record.code, record.reason) == ("client_gone", "not_reading")


async def test_a_client_that_does_not_read_its_json_is_closed(
    sluice: StartSluice, upstream: Upstream
) -> None:
    most = 30_000_000
    upstream.will(ok("x" * most, usage=usage_of()))
    server = await sluice(provider_max_response_bytes=2 * most, server_flush_timeout_s=0.2)
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(client, ("127.0.0.1", server.port))
        await loop.sock_sendall(client, chat())
        await server.calls.wait(1)
    await server.at_rest()
    record = server.calls.records[0]
    assert (record.code, record.reason) == ("client_gone", "not_reading")


async def test_a_slow_reader_loses_nothing(sluice: StartSluice, upstream: Upstream) -> None:
    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        for number in range(2000):
            await exchange.chunk(delta(f"{number} " + "x" * 1000))
        await exchange.chunk(finish(), DONE)
        await exchange.chunk()

    upstream.will(step)
    server = await sluice(**ENDLESS)
    client = await server.send(chat(STREAM))
    await client.head()
    body = b""
    while piece := await client.chunk():
        body += piece
        await asyncio.sleep(0)
    numbers = [int(part.split(b" ")[0]) for part in body.split(b'"delta":"')[1:]]

    assert numbers == list(range(2000))
    assert body.endswith(b"data: [DONE]\n\n")
    assert (await server.record()).code == "completed"


async def test_pipelined_requests_are_answered_in_order(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok("first"), ok("second"))
    server = await sluice()
    client = await server.send(chat() + chat() + encoded("GET", "/healthz"))

    assert (await client.reply()).json["text"] == "first"
    assert (await client.reply()).json["text"] == "second"
    assert (await client.reply()).json["status"] == "ok"
