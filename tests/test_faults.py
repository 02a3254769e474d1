"""The fault matrix: what a provider may do wrong, and the one honest outcome of each."""

import asyncio
import gc
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest
import upstream as scripted
from conftest import (
    ENDLESS,
    HELLO,
    Reply,
    Sluice,
    StartSluice,
    assert_valid,
    chat,
    deadline,
    parse_events,
)
from upstream import (
    DONE,
    ERROR_EVENT,
    ERROR_IN_DATA,
    Exchange,
    Step,
    Upstream,
    after_content,
    answer_stream,
    chunks,
    completion,
    delta,
    error,
    event,
    fin,
    finish,
    good,
    held,
    json_reply,
    oversize,
    raw_reply,
    redirect,
    rst,
    shaped,
    silence,
    stream,
)

from provider import transport

FORMS = pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
SMALL = {"provider_max_response_bytes": 200_000, "provider_max_line_bytes": 200_000}


async def ask(server: Sluice, streamed: bool) -> Reply:
    return await server.chat({**HELLO, "stream": streamed})


async def assert_outcome(
    server: Sluice, reply: Reply, status: int, code: str, attempts: int
) -> None:
    reply.assert_error(status, code)
    record = await server.record()
    assert (record.code, record.status, record.attempts) == (code, status, attempts)
    assert record.request_id == reply.json["requestId"]


def no_choice(choices: object) -> Step:
    return json_or_event({"choices": choices})


def json_or_event(document: object) -> Step:
    return scripted.either(json_reply(document), stream(event(document)))


def content_of(value: object) -> Step:
    return scripted.either(
        json_reply({"choices": [{"message": {"content": value}, "finish_reason": "stop"}]}),
        stream(event({"choices": [{"delta": {"content": value}, "finish_reason": None}]})),
    )


# Transient faults are tried three times, and garbage, which may have been paid for, once.
BEFORE_CONTENT: dict[str, tuple[Step, int]] = {
    "FIN before the response": (fin, 3),
    "RST before the response": (rst, 3),
    "RST in the body": (scripted.rst_in_body, 3),
    "truncated body": (scripted.truncated_body, 3),
    "bad chunk": (scripted.bad_chunk, 3),
    "garbage status line": (scripted.garbage_status_line, 3),
    "huge header": (scripted.huge_header, 3),
    "status 500": (error(500), 3),
    "status 502 with HTML": (raw_reply(b"<html>", 502, ("Content-Type", "text/html")), 3),
    "status 503 without a body": (raw_reply(b"", 503), 3),
    "status 504": (error(504), 3),
    "status 429": (error(429), 3),
    "status 408": (error(408), 3),
    "status 501": (error(501), 3),
    "status 500 not to be retried": (error(500, ("x-should-retry", "false")), 1),
    "status 409 to be retried": (error(409, ("x-should-retry", "true")), 3),
    "error in a 200": (json_or_event({"error": {"message": "No.", "type": "server_error"}}), 3),
    "error with a status in a 200": (json_or_event({"error": {"code": 503}}), 3),
    "invalid JSON": (scripted.invalid_json, 1),
    "empty 200": (scripted.empty, 1),
    "status 204": (raw_reply(b"", 204), 1),
    "HTML": (scripted.html, 1),
    "null": (shaped(b"null"), 1),
    "array": (shaped(b"[]"), 1),
    "object": (shaped(b"{}"), 1),
    "string": (shaped(b'"Hi"'), 1),
    "choices null": (no_choice(None), 1),
    "choices an object": (no_choice({}), 1),
    "a choice null": (no_choice([None]), 1),
    "content a number": (content_of(5), 1),
    "bad UTF-8": (scripted.bad_utf8, 1),
    "NaN": (shaped(b'{"choices": [NaN]}'), 1),
    "deep nesting": (scripted.deep, 1),
    "unasked gzip": (scripted.unasked_gzip, 1),
    "oversize": (oversize(200_000), 1),
}


@FORMS
@pytest.mark.parametrize("fault", BEFORE_CONTENT)
async def test_a_fault_before_the_first_content_is_502(
    sluice: StartSluice, upstream: Upstream, fault: str, streamed: bool
) -> None:
    step, attempts = BEFORE_CONTENT[fault]
    upstream.will(step)
    server = await sluice(**SMALL)

    reply = await ask(server, streamed)

    await assert_outcome(server, reply, 502, "provider_unavailable", attempts)
    assert len(upstream.requests) == attempts
    assert len(server.backoff.waits) == attempts - 1
    assert reply.json["error"] == "Upstream provider unavailable"


@FORMS
async def test_a_bad_chunk_after_the_headers_is_noticed_at_once(
    sluice: StartSluice, upstream: Upstream, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers_read = asyncio.Event()
    server = await sluice(**deadline(1), retry_max_attempts=1)

    class Noted(transport._Body):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            headers_read.set()

    async def step(exchange: Exchange) -> None:
        kind = "text/event-stream" if streamed else "application/json"
        await exchange.head(200, ("Content-Type", kind), ("Transfer-Encoding", "chunked"))
        await headers_read.wait()
        await scripted.garbage_chunk(exchange)

    monkeypatch.setattr(transport, "_Body", Noted)
    upstream.will(step)

    reply = await ask(server, streamed)

    await assert_outcome(server, reply, 502, "provider_unavailable", 1)


@pytest.mark.parametrize(
    "step",
    [
        no_choice([]),
        json_reply(completion("Hi", finish_reason=None)),
        json_reply({"choices": [{"finish_reason": "stop"}]}),
    ],
    ids=["no choices", "no finish reason", "no message"],
)
async def test_a_buffered_answer_must_be_whole(
    sluice: StartSluice, upstream: Upstream, step: Step
) -> None:
    upstream.will(step)
    server = await sluice()

    await assert_outcome(server, await ask(server, False), 502, "provider_unavailable", 1)


@pytest.mark.parametrize(
    ("step", "attempts"),
    [
        (stream(), 3),
        (stream(DONE), 3),
        (stream(b": hello\n\n", scripted.role()), 3),
        (stream(ERROR_IN_DATA), 3),
        (stream(ERROR_EVENT), 3),
        (json_reply(completion("Hi")), 1),
    ],
    ids=["no chunks", "only [DONE]", "only a role", "error", "error event", "JSON instead"],
)
async def test_a_stream_that_brings_nothing_is_502(
    sluice: StartSluice, upstream: Upstream, step: Step, attempts: int
) -> None:
    upstream.will(step)
    server = await sluice()

    reply = await ask(server, True)

    await assert_outcome(server, reply, 502, "provider_unavailable", attempts)
    assert len(upstream.requests) == attempts


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port that is bound but does not listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@FORMS
async def test_a_refused_connection_is_502(
    sluice: StartSluice, refusing_port: int, streamed: bool
) -> None:
    server = await sluice(base_url=f"http://127.0.0.1:{refusing_port}/v1")

    reply = await ask(server, streamed)

    await assert_outcome(server, reply, 502, "provider_unavailable", 3)


@FORMS
async def test_a_name_that_does_not_resolve_is_502(
    sluice: StartSluice, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise OSError(None, "no such name")

    monkeypatch.setattr(aiohttp.resolver.DefaultResolver, "resolve", fail)
    server = await sluice(base_url="http://nowhere.invalid/v1")

    reply = await ask(server, streamed)

    await assert_outcome(server, reply, 502, "provider_unavailable", 3)
    assert server.calls.records[0].reason == "dns"


@FORMS
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(
    sluice: StartSluice, upstream: Upstream, status: int, streamed: bool
) -> None:
    other = Upstream()
    await other.start()
    other.will(good())
    upstream.will(redirect(f"{other.url}/chat/completions", status))
    server = await sluice()

    reply = await ask(server, streamed)

    await assert_outcome(server, reply, 502, "provider_unavailable", 1)
    assert other.connections == 0
    await other.stop()


REFUSED = {
    "400": (error(400), 422, "prompt_rejected"),
    "413": (error(413), 422, "prompt_rejected"),
    "422": (error(422), 422, "prompt_rejected"),
    "content filter": (error(400, code="content_filter"), 422, "prompt_rejected"),
    "401": (error(401), 500, "provider_misconfigured"),
    "403": (error(403), 500, "provider_misconfigured"),
    "404": (error(404), 500, "provider_misconfigured"),
    "404 with HTML": (raw_reply(b"<html>", 404), 500, "provider_misconfigured"),
    "insufficient_quota": (
        error(429, ("Retry-After", "1"), code="insufficient_quota"),
        500,
        "provider_misconfigured",
    ),
    "quota in a 200": (
        json_or_event({"error": {"code": "insufficient_quota"}}),
        500,
        "provider_misconfigured",
    ),
    "bad request in a 200": (
        json_or_event({"error": {"type": "invalid_request_error"}}),
        422,
        "prompt_rejected",
    ),
}


@FORMS
@pytest.mark.parametrize("refusal", REFUSED)
async def test_a_refusal_is_final(
    sluice: StartSluice, upstream: Upstream, refusal: str, streamed: bool
) -> None:
    step, status, code = REFUSED[refusal]
    upstream.will(step)
    server = await sluice()

    reply = await ask(server, streamed)

    await assert_outcome(server, reply, status, code, 1)
    assert len(upstream.requests) == 1
    assert server.services.router.circuits["default"].state == "closed"


# Time


SLOW = {
    "no headers": silence,
    "dripped headers": scripted.dripped_headers,
    "dripped body": scripted.dripped_body,
}


@FORMS
@pytest.mark.parametrize("fault", SLOW)
async def test_the_deadline_ends_the_call(
    sluice: StartSluice, upstream: Upstream, fault: str, streamed: bool
) -> None:
    upstream.will(SLOW[fault])
    server = await sluice(**deadline(0.4))

    reply = await ask(server, streamed)

    await assert_outcome(server, reply, 504, "deadline_exceeded", 1)
    assert reply.json["error"] == "Request timed out"
    await upstream.exchanges[0].closed.wait()
    assert len(upstream.requests) == 1


@FORMS
@pytest.mark.parametrize("fault", SLOW)
async def test_a_slow_attempt_is_given_up_for_another(
    sluice: StartSluice, upstream: Upstream, fault: str, streamed: bool
) -> None:
    upstream.will(SLOW[fault], good())
    phases = {"connect_s": 0.3, "first_token_s": 0.3, "attempt_s": 0.3}
    server = await sluice(**{f"provider_{name}": value for name, value in phases.items()})

    reply = await ask(server, streamed)

    assert reply.status == 200
    record = await server.record()
    assert (record.code, record.attempts) == ("completed", 2)
    await upstream.exchanges[0].closed.wait()


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """A port whose queue of connections is full, so that the next one hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(3):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()


@FORMS
async def test_a_hanging_connect_is_504(
    sluice: StartSluice, hanging_port: int, streamed: bool
) -> None:
    server = await sluice(
        base_url=f"http://127.0.0.1:{hanging_port}/v1",
        provider_connect_s=0.05,
        retry_max_attempts=2,
    )

    reply = await ask(server, streamed)

    await assert_outcome(server, reply, 504, "deadline_exceeded", 2)
    assert server.calls.records[0].reason == "connect_timeout"


@FORMS
async def test_the_deadline_ends_a_backoff(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    upstream.will(error(503))
    server = await sluice(**deadline(0.4), retry_backoff_s=0.001)
    server.backoff.held = True

    reply = await ask(server, streamed)

    await assert_outcome(server, reply, 504, "deadline_exceeded", 1)
    assert len(upstream.requests) == 1


# Retries


@FORMS
async def test_503_twice_then_an_answer(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    upstream.will(error(503), error(503), good())
    server = await sluice()

    reply = await ask(server, streamed)

    assert reply.status == 200
    record = await server.record()
    assert (record.code, record.attempts) == ("completed", 3)
    assert server.backoff.waits == [0.15, 0.3]
    counts = [request.header("x-stainless-retry-count") for request in upstream.requests]
    assert counts == ["0", "1", "2"]
    assert len({request.body for request in upstream.requests}) == 1


@FORMS
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ([], 0.15),
        ([("Retry-After", "1")], 1.15),
        ([("Retry-After", "0")], 0.15),
        ([("Retry-After", "2.5")], 2.65),
        ([("retry-after-ms", "250")], 0.4),
        ([("retry-after-ms", "250"), ("Retry-After", "9")], 0.4),
        ([("Retry-After", "soon")], 0.15),
        ([("Retry-After", "-5")], 0.15),
        ([("Retry-After", "nan")], 0.15),
        ([("Retry-After", "inf")], 0.15),
        ([("Retry-After", "Mon, 01 Jan 2001 00:00:00 GMT")], 0.15),
        ([("Retry-After", "Mon, 99 Jan 2001 00:00:00 GMT")], 0.15),
        ([("Retry-After", "Mon, 01 Jan 99999999999 00:00:00 GMT")], 0.15),
    ],
    ids=str,
)
async def test_retry_after_is_obeyed(
    sluice: StartSluice,
    upstream: Upstream,
    headers: list[tuple[str, str]],
    wait_s: float,
    streamed: bool,
) -> None:
    upstream.will(error(429, *headers), good())
    server = await sluice()

    assert (await ask(server, streamed)).status == 200

    assert server.backoff.waits == pytest.approx([wait_s])
    assert (await server.record()).attempts == 2


async def test_retry_after_may_be_a_date(sluice: StartSluice, upstream: Upstream) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True)
    upstream.will(error(503, ("Retry-After", soon)), good())
    server = await sluice()

    assert (await ask(server, False)).status == 200

    [wait_s] = server.backoff.waits
    assert 0.15 < wait_s <= 10.15


@FORMS
async def test_a_wait_beyond_the_deadline_is_not_begun_but_passed_on(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    upstream.will(error(429, ("Retry-After", "60")))
    server = await sluice()

    reply = await ask(server, streamed)

    await assert_outcome(server, reply, 502, "provider_unavailable", 1)
    assert reply.headers["retry-after"] == "60"
    assert server.backoff.waits == []


async def test_without_budget_there_is_one_attempt(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(error(503))
    server = await sluice(retry_budget_min=0, retry_budget_ratio=0)

    await assert_outcome(server, await ask(server, False), 502, "provider_unavailable", 1)


async def test_retries_at_the_same_time_stay_within_the_budget(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(error(503))
    server = await sluice(
        retry_budget_min=2, retry_budget_ratio=0, retry_max_attempts=2, circuit_min_calls=1000
    )
    server.backoff.held = True
    clients = [await server.send(chat()) for _ in range(6)]

    await server.calls.wait(4)

    assert server.services.router.retry.retries_in_flight == 2
    assert [record.attempts for record in server.calls.records] == [1] * 4
    for client in clients:
        client.fin()
    await server.calls.wait(6)
    await server.at_rest()


async def answer_and_leave(exchange: Exchange) -> None:
    await scripted.ok()(exchange)
    exchange.hang_up = True


async def test_a_kept_connection_that_was_closed_meanwhile_costs_a_retry_at_most(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_and_leave)
    server = await sluice()

    for _ in range(5):
        assert (await ask(server, False)).status == 200


# The circuit breaker


async def tripped(sluice: StartSluice, upstream: Upstream) -> Sluice:
    """A server whose circuit two failed calls have opened."""
    upstream.will(error(500))
    server = await sluice(circuit_min_calls=2, retry_max_attempts=1)
    for _ in range(2):
        (await ask(server, False)).assert_error(502, "provider_unavailable")
    return server


@FORMS
async def test_an_open_circuit_answers_at_once(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    server = await tripped(sluice, upstream)

    reply = await ask(server, streamed)

    reply.assert_error(503, "circuit_open")
    assert 1 <= int(reply.headers["retry-after"]) <= 5
    assert len(upstream.requests) == 2
    record = server.calls.records[-1]
    assert (record.code, record.status, record.attempts) == ("circuit_open", 503, 0)
    await server.at_rest()


async def test_a_probe_closes_the_circuit(sluice: StartSluice, upstream: Upstream) -> None:
    server = await tripped(sluice, upstream)
    server.clock.advance(6)
    assert server.services.router.circuits["default"].state == "half_open"
    go = asyncio.Event()
    upstream.will(held(go, good()))

    probe = asyncio.ensure_future(ask(server, False))
    await upstream.request(3)
    (await ask(server, False)).assert_error(503, "circuit_open")
    (await ask(server, True)).assert_error(503, "circuit_open")
    assert len(upstream.requests) == 3
    go.set()

    assert (await probe).status == 200
    assert server.services.router.circuits["default"].state == "closed"
    assert (await ask(server, True)).status == 200
    await server.at_rest()


async def test_a_failed_probe_opens_the_circuit_for_longer(
    sluice: StartSluice, upstream: Upstream
) -> None:
    server = await tripped(sluice, upstream)
    server.clock.advance(6)

    (await ask(server, True)).assert_error(502, "provider_unavailable")

    server.clock.advance(6)
    reply = await ask(server, False)
    reply.assert_error(503, "circuit_open")
    assert 1 <= int(reply.headers["retry-after"]) <= 9
    assert len(upstream.requests) == 3


async def test_a_probe_whose_client_left_makes_room_for_the_next(
    sluice: StartSluice, upstream: Upstream
) -> None:
    server = await tripped(sluice, upstream)
    server.clock.advance(6)
    upstream.will(silence, good())
    client = await server.send(chat())
    await upstream.request(3)
    client.rst()
    await server.calls.wait(3)

    assert server.services.router.circuits["default"].state == "half_open"
    assert (await ask(server, False)).status == 200
    assert server.services.router.circuits["default"].state == "closed"


async def test_streams_that_break_after_a_good_beginning_open_the_circuit(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(after_content(chunks()))
    server = await sluice(circuit_min_calls=3, circuit_failure_rate=1)
    for _ in range(3):
        assert server.services.router.circuits["default"].state == "closed"
        assert (await ask(server, True)).status == 200

    assert server.services.router.circuits["default"].state == "open"


async def test_a_stream_that_breaks_counts_as_one_attempt(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(after_content(chunks()))
    server = await sluice(circuit_min_calls=2, circuit_failure_rate=0.5)

    assert (await ask(server, True)).status == 200

    assert server.services.router.circuits["default"].state == "closed"


async def test_refusals_do_not_open_the_circuit(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(error(401))
    server = await sluice(circuit_min_calls=1)
    for _ in range(3):
        (await ask(server, False)).assert_error(500, "provider_misconfigured")

    assert server.services.router.circuits["default"].state == "closed"


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Whoever opens a file or a socket fails; what is open stays so."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["connect", "lookup"])
async def test_running_out_of_descriptors_is_not_the_providers_fault(
    sluice: StartSluice, upstream: Upstream, host: str
) -> None:
    upstream.will(answer_and_leave)
    server = await sluice(circuit_min_calls=1, base_url=f"http://{host}:{upstream.port}/v1")
    client = await server.send(chat())
    assert (await client.reply()).status == 200

    with no_descriptors_left():
        await client.send(chat())
        (await client.reply()).assert_error(503, "overloaded")

    await server.calls.wait(2)
    record = server.calls.records[-1]
    assert (record.reason, record.attempts, record.charged_tokens) == ("emfile", 1, 0)
    assert server.services.router.circuits["default"].state == "closed"
    assert (await ask(server, False)).status == 200


# Streams that break after their first content


AFTER_CONTENT: dict[str, tuple[Step, str]] = {
    "stall": (silence, "deadline_exceeded"),
    "endless comments": (scripted.endless_comments, "deadline_exceeded"),
    "end of the body": (chunks(), "provider_unavailable"),
    "[DONE] without a finish reason": (chunks(DONE), "provider_unavailable"),
    "usage without a finish reason": (chunks(scripted.usage(), DONE), "provider_unavailable"),
    "a cut event": (chunks(finish()[:-2]), "provider_unavailable"),
    "FIN": (fin, "provider_unavailable"),
    "RST": (rst, "provider_unavailable"),
    "bad chunk": (scripted.garbage_chunk, "provider_unavailable"),
    "error in data": (chunks(ERROR_IN_DATA), "provider_unavailable"),
    "error event": (chunks(ERROR_EVENT), "provider_unavailable"),
    "error event and then a finish": (chunks(ERROR_EVENT, finish(), DONE), "provider_unavailable"),
    "invalid JSON": (chunks(b"data: {oops\n\n"), "provider_unavailable"),
    "null": (chunks(b"data: null\n\n"), "provider_unavailable"),
    "content a number": (
        chunks(event({"choices": [{"delta": {"content": 5}}]})),
        "provider_unavailable",
    ),
    "bad UTF-8": (chunks(delta("x").replace(b"x", b"\xff")), "provider_unavailable"),
    "endless line": (scripted.endless_line, "provider_unavailable"),
    "oversize": (chunks(*[delta("x" * 1000)] * 400), "provider_unavailable"),
    "content filter": (
        chunks(event({"error": {"code": "content_filter"}})),
        "prompt_rejected",
    ),
    "quota": (chunks(event({"error": {"code": "insufficient_quota"}})), "provider_misconfigured"),
}


@pytest.mark.parametrize("fault", AFTER_CONTENT)
async def test_a_fault_after_content_is_exactly_one_error_event(
    sluice: StartSluice, upstream: Upstream, fault: str
) -> None:
    step, code = AFTER_CONTENT[fault]
    read = asyncio.Event()
    upstream.will(after_content(held(read, step)))
    server = await sluice(
        provider_idle_s=0.2,
        provider_max_line_bytes=200_000,
        provider_max_stream_bytes=300_000,
        **ENDLESS,
    )
    client = await server.send(chat({**HELLO, "stream": True}))
    assert (await client.head()).status == 200
    body = await client.until(b" three")
    read.set()
    body += await client.body()

    *before, last = events = parse_events(body)

    types = [one["type"] for one in before]
    assert types[:5] == ["start", "text-start"] + ["text-delta"] * 3
    assert set(types[5:]) <= {"text-delta"}
    assert [one["delta"] for one in before[2:5]] == ["One", " two", " three"]
    assert (last["type"], last["code"]) == ("error", code)
    for one in events:
        assert_valid(one, "chat.event.json")
    record = await server.record()
    assert (record.code, record.attempts) == (code, 1)
    assert record.status >= 400
    assert len(upstream.requests) == 1
    assert server.backoff.waits == []


async def test_words_that_came_with_the_fault_are_handed_on(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(stream(delta("One") + delta(" two") + ERROR_EVENT))
    server = await sluice()

    events = (await ask(server, True)).events

    assert [e["type"] for e in events][-3:] == ["text-delta", "text-delta", "error"]
    assert (await server.record()).attempts == 1


async def test_a_connection_serves_on_after_a_failed_stream(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(after_content(rst), good())
    server = await sluice()
    client = await server.connect()

    await client.send(chat({**HELLO, "stream": True}))
    assert (await client.reply()).events[-1]["type"] == "error"
    await client.send(chat())

    assert (await client.reply()).json["text"] == "Hi there"


@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "idle"])
async def test_a_reset_is_no_surprise_to_the_event_loop(
    sluice: StartSluice, upstream: Upstream, in_use: bool
) -> None:
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    upstream.will(after_content(rst) if in_use else good(), good())
    server = await sluice()
    await ask(server, True)
    if not in_use:
        upstream.exchanges[0].rst()

    assert (await ask(server, False)).status == 200

    assert upstream.connections == 2
    gc.collect()  # a future that failed unheard says so when it is thrown away
    assert heard == []


async def test_a_stream_is_retried_until_its_first_content(
    sluice: StartSluice, upstream: Upstream
) -> None:
    # The first reset is of a kept-alive connection, and repeated; the second one is an attempt's.
    upstream.will(stream(scripted.role()), rst, rst, answer_stream("Hi"))
    server = await sluice()

    events = (await ask(server, True)).events

    assert [e for e in events if e != "[DONE]" and e["type"] == "text-delta"] == [
        {"type": "text-delta", "id": "0", "delta": "Hi"}
    ]
    assert (await server.record()).attempts == 3
