"""Kept-alive connections to the provider: what comes on one unasked is nobody's answer."""

import asyncio
import gc
import json
import logging

import pytest
from conftest import HELLO, Reply, Sluice, StartSluice, chat
from test_metrics import scrape
from upstream import (
    DONE,
    Exchange,
    Step,
    Upstream,
    completion,
    delta,
    error,
    fin,
    finish,
    good,
    ok,
    rst,
    silence,
)

FORMS = pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])


def response(text: str, streamed: bool, status: str = "200 OK", *headers: str) -> bytes:
    """The bytes of a whole answer."""
    kind = "text/event-stream" if streamed else "application/json"
    body = json.dumps(completion(text)).encode()
    if streamed:
        body = b"".join((delta(text), finish(), DONE))
    lines = (f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, *headers, "", "")).encode() + body


FORGED = {streamed: response("Forged", streamed) for streamed in (False, True)}
TIMED_OUT = response("", False, "408 Request Timeout", "Connection: close")


def text_of(reply: Reply) -> str:
    assert reply.status == 200, reply
    if reply.headers["content-type"] == "application/json":
        return str(reply.json["text"])
    return "".join(e["delta"] for e in reply.events if e != "[DONE]" and e["type"] == "text-delta")


async def ask(server: Sluice, word: str, streamed: bool) -> Reply:
    return await server.chat({"userMessage": word, "stream": streamed})


def echo(behind: bytes = b"", cut: int | None = None) -> Step:
    """Answers with the question; further bytes stand right behind, in the same segment, except
    that all up to `cut` leaves first."""

    async def step(exchange: Exchange) -> None:
        asked = exchange.request.json
        whole = response(asked["messages"][-1]["content"], bool(asked.get("stream")))
        if cut is not None:
            await exchange.send(whole[:cut])
            await asyncio.sleep(0.001)
        await exchange.send(whole[cut or 0 :] + behind)

    return step


async def dropped(server: Sluice, reason: str) -> float:
    seen = await scrape(server)
    labels = {"provider": "default", "reason": reason}
    return seen.of("sluice_connections_dropped_total", **labels) or 0


@FORMS
async def test_bytes_on_an_idle_connection_are_nobodys_answer(
    sluice: StartSluice, upstream: Upstream, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.will(echo())
    server = await sluice()
    with caplog.at_level(logging.WARNING, "sluice.provider"):
        for number in range(60):
            assert text_of(await ask(server, f"Word{number}", streamed)) == f"Word{number}"
            await upstream.exchanges[-1].send(FORGED[number % 2 == 0])

    assert len(upstream.requests) == 60
    assert {record.attempts for record in server.calls.records} == {1}
    assert await dropped(server, "unsolicited_bytes") + await dropped(server, "stale") >= 59
    lines = [r for r in caplog.records if r.name == "sluice.provider"]
    assert {(r.msg, r.provider, r.reason) for r in lines} == {
        ("connection_dropped", "default", "unsolicited_bytes")
    }


@FORMS
@pytest.mark.parametrize("cut", [None, 20, -3], ids=["whole", "from the head on", "behind the end"])
@pytest.mark.parametrize(
    "part", [None, 5, 25, 90], ids=["whole", "a word", "a part of the head", "a part of the body"]
)
async def test_bytes_behind_an_answer_are_nobodys_answer(
    sluice: StartSluice, upstream: Upstream, streamed: bool, cut: int | None, part: int | None
) -> None:
    upstream.will(echo(FORGED[streamed][:part], cut))
    server = await sluice()

    for number in range(4):
        assert text_of(await ask(server, f"Word{number}", streamed)) == f"Word{number}"

    assert upstream.connections == 4
    assert {record.attempts for record in server.calls.records} == {1}
    assert await dropped(server, "unsolicited_bytes") >= 3


@FORMS
async def test_concurrent_calls_get_their_own_answers(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    async def echo_and_more(exchange: Exchange) -> None:
        await echo()(exchange)
        await asyncio.sleep(0)
        await exchange.send(FORGED[streamed])

    upstream.will(echo_and_more)
    server = await sluice()
    for turn in range(8):
        words = [f"Word{turn}{number}" for number in range(8)]
        replies = await asyncio.gather(*(ask(server, word, streamed) for word in words))
        assert [text_of(reply) for reply in replies] == words


async def test_a_quiet_connection_is_used_again(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(echo())
    server = await sluice()

    for streamed in (False, True) * 5:
        assert text_of(await ask(server, "Word", streamed)) == "Word"

    assert upstream.connections == 1
    for reason in ("unsolicited_bytes", "closed", "stale"):
        assert await dropped(server, reason) == 0


async def test_an_answer_before_the_request_is_none(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(echo())
    server = await sluice()
    greeted = upstream.connected

    def greet(connection) -> None:
        connection.writer.write(FORGED[False])
        greeted(connection)

    upstream.connected = greet  # type: ignore[method-assign]

    (await server.chat()).assert_error(502, "provider_unavailable")

    assert upstream.requests == []


# Closed meanwhile


@FORMS
@pytest.mark.parametrize("end", [fin, rst], ids=["fin", "rst"])
async def test_a_stale_connection_costs_no_attempt(
    sluice: StartSluice, upstream: Upstream, streamed: bool, end: Step
) -> None:
    upstream.will(good(), end, good())
    server = await sluice()
    await ask(server, "Word", streamed)

    assert text_of(await ask(server, "Word", streamed)) == "Hi there"

    assert len(upstream.requests) == 3
    assert upstream.requests[1].body == upstream.requests[2].body
    assert [record.attempts for record in server.calls.records] == [1, 1]
    assert server.backoff.waits == []
    assert await dropped(server, "stale") == 1


@pytest.mark.parametrize("end", [fin, rst], ids=["fin", "rst"])
async def test_a_new_connection_that_is_cut_costs_an_attempt(
    sluice: StartSluice, upstream: Upstream, end: Step
) -> None:
    upstream.will(end, good())
    server = await sluice()

    assert (await server.chat()).status == 200

    assert (await server.record()).attempts == 2
    assert await dropped(server, "stale") == 0


async def test_a_stale_connection_is_repeated_on_a_new_one_only(
    sluice: StartSluice, upstream: Upstream
) -> None:
    """However many others are idle, which may be as stale."""
    together = asyncio.Event()

    async def all_at_once(exchange: Exchange) -> None:
        await together.wait()
        await good()(exchange)

    upstream.will(*[all_at_once] * 3, fin, good())
    server = await sluice()
    asked = [asyncio.ensure_future(server.chat()) for _ in range(3)]
    await upstream.request(3)
    together.set()
    await asyncio.gather(*asked)

    assert (await server.chat()).status == 200

    assert (len(upstream.requests), upstream.connections) == (5, 4)


async def test_a_connection_cut_after_some_of_a_response_is_not_repeated_for_free(
    sluice: StartSluice, upstream: Upstream
) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n")
        exchange.fin()

    upstream.will(good(), cut, good())
    server = await sluice()
    await server.chat()

    assert (await server.chat()).status == 200

    assert [record.attempts for record in server.calls.records] == [1, 2]


async def test_a_connection_that_ended_late_had_the_request(
    sluice: StartSluice, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provider.connections._STALE_S", 0.0)
    upstream.will(good(), fin, good())
    server = await sluice()
    await server.chat()

    assert (await server.chat()).status == 200

    assert [record.attempts for record in server.calls.records] == [1, 2]


@FORMS
async def test_a_408_that_waits_on_an_idle_connection_is_nobodys_answer(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    upstream.will(echo())
    server = await sluice()
    for number in range(50):
        assert text_of(await ask(server, f"Word{number}", streamed)) == f"Word{number}"
        await upstream.exchanges[-1].send(TIMED_OUT)
        upstream.exchanges[-1].fin()

    assert {record.attempts for record in server.calls.records} == {1}
    assert len(upstream.requests) <= 100


async def test_a_408_that_crosses_the_request_costs_no_attempt(
    sluice: StartSluice, upstream: Upstream
) -> None:
    async def timed_out(exchange: Exchange) -> None:
        await exchange.send(TIMED_OUT)
        exchange.fin()

    upstream.will(good(), timed_out, good())
    server = await sluice()
    await server.chat()

    assert text_of(await server.chat()) == "Hi there"

    assert [record.attempts for record in server.calls.records] == [1, 1]
    assert await dropped(server, "stale") == 1


async def test_a_408_on_a_new_connection_is_the_providers_answer(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(error(408, ("Connection", "close")))
    server = await sluice(retry_max_attempts=1)

    assert (await server.chat()).status == 502
    assert len(upstream.requests) == 1


async def test_a_connection_closed_at_rest_is_counted(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice()
    await server.chat()
    upstream.exchanges[0].fin()
    await upstream.until(lambda: not upstream.open)

    assert (await server.chat()).status == 200

    assert upstream.connections == 2
    assert await dropped(server, "closed") + await dropped(server, "stale") == 1


async def test_a_client_that_leaves_is_no_drop(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(silence)
    server = await sluice()
    client = await server.send(chat(HELLO))
    await upstream.request()
    client.rst()
    await server.record()

    gc.collect()
    for reason in ("unsolicited_bytes", "closed", "stale"):
        assert await dropped(server, reason) == 0
