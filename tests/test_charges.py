"""What an attempt is charged: all that the provider may bill, and nothing that was never sent."""

import json

import pytest
from conftest import HELLO, JSON, Sluice, StartSluice, chat, deadline, encoded
from test_guards import PROMPT, held_now
from test_metrics import scrape
from upstream import (
    DONE,
    Step,
    Upstream,
    after_content,
    answer_stream,
    chunks,
    completion,
    delta,
    error,
    fin,
    finish,
    json_reply,
    ok,
    oversize,
    role,
    silence,
    stream,
    usage,
    usage_of,
)

from call import Attempt, Call, Charge, Usage
from config import Target

TARGET = Target("default", "gpt-4o-mini")
STREAM = {**HELLO, "stream": True, "maxTokens": 50}
SPEECH = {**HELLO, "maxTokens": 50}
MOST = PROMPT + 50


# One attempt


@pytest.mark.parametrize(
    ("state", "usage", "answer_tokens", "charged"),
    [
        ("unsent", None, 0, None),
        ("refused", None, 0, None),
        ("ended", Usage.of(9, 3), 0, (Usage.of(9, 3), "provider")),
        ("ended", Usage.of(9, 900), 0, (Usage.of(9, 900), "provider")),
        ("ended", Usage(9, 3, 12, 4), 0, (Usage(9, 3, 12, 4), "provider")),
        ("ended", None, 7, (Usage.of(10, 7), "estimated")),
        ("sent", None, 0, (Usage.of(10, 50), "partial")),
        ("sent", None, 7, (Usage.of(10, 50), "partial")),
        ("sent", None, 70, (Usage.of(10, 70), "partial")),
        ("sent", Usage.of(9, 3), 7, (Usage.of(10, 50), "partial")),
        ("sent", Usage.of(20, 60), 7, (Usage.of(20, 60), "partial")),
    ],
)
def test_an_attempt_is_charged_by_how_far_it_came(state, usage, answer_tokens, charged):
    attempt = Attempt(TARGET, 0.0, state=state, usage=usage, answer_tokens=answer_tokens)
    expected = None if charged is None else Charge(TARGET, *charged)
    assert attempt.charge(10, 50) == expected


def test_thoughts_outside_the_answer_are_in_the_total():
    assert Usage(12, 1, 399).answer_tokens == 387


@pytest.mark.parametrize(
    ("usage", "has_answer", "believed"),
    [
        (None, True, False),
        (Usage.of(9, 3), True, True),
        (Usage.of(9, 0), True, False),
        (Usage.of(9, 0), False, True),
        (Usage(9, 0, 30), True, True),
        (Usage.of(100_000 + 32 * 110 - 1, 1), True, True),
        (Usage.of(100_000 + 32 * 110, 1), True, False),
        (Usage.of(9, 2 * 10**9), True, False),
    ],
)
def test_a_count_is_believed_if_it_can_be_true(usage, has_answer, believed):
    call = Call("id", "/api/chat", 0.0, 1.0, prompt_tokens=10, max_tokens=50, options={"n": 2})
    assert call.believed(usage, has_answer=has_answer) == (usage if believed else None)


@pytest.mark.parametrize(
    ("states", "counted_by", "charged"),
    [
        ([], None, (0, 0)),
        (["unsent", "refused"], None, (0, 0)),
        (["refused", "ended"], "estimated", (10, 7)),
        (["sent", "ended"], "partial", (20, 57)),
        (["sent", "sent"], "partial", (20, 100)),
    ],
)
def test_a_call_is_charged_every_attempt(states, counted_by, charged):
    call = Call("id", "/api/chat", 0.0, 1.0, prompt_tokens=10, max_tokens=50)
    call.timeline = [Attempt(TARGET, 0.0, state=state, answer_tokens=7) for state in states]
    assert (call.counted_by, call.charged_tokens()) == (counted_by, charged)


# Over sockets


async def charged(server: Sluice) -> tuple[str, int, str | None]:
    """Outcome, tokens and whose count, after log, limits and metrics have been compared."""
    record = await server.record()
    assert held_now(server) == {"tokens_per_day": record.charged_tokens, "in_flight": 0}
    seen = await scrape(server)
    assert seen.sum("sluice_tokens_total") == record.charged_tokens
    return record.code, record.charged_tokens, record.counted_by


LIMITED = {
    "limit_ip_tokens_per_day": 10**6,
    "limit_ip_in_flight": 1,
    "retry_max_attempts": 1,
}
CAPPED = {"provider_max_response_bytes": 150_000, "provider_max_line_bytes": 150_000}
TOO_LONG = oversize(200_000)
FILTERED = completion(None, finish_reason="content_filter")
CUT_BY_FILTER = completion("Hi", finish_reason="content_filter")


@pytest.mark.parametrize(
    ("step", "body", "expected"),
    [
        (ok(usage=usage_of(9, 3)), SPEECH, ("completed", 12, "provider")),
        (ok("Hi there", usage=usage_of(0, 0)), SPEECH, ("completed", PROMPT + 2, "estimated")),
        (ok("Hi there", usage=usage_of(9, 0)), SPEECH, ("completed", PROMPT + 2, "estimated")),
        (
            ok("Hi there", usage=usage_of(9, 2 * 10**9)),
            SPEECH,
            ("completed", PROMPT + 2, "estimated"),
        ),
        (
            ok("Hi there", usage=usage_of(9, 3) | {"total_tokens": 11}),
            SPEECH,
            ("completed", PROMPT + 2, "estimated"),
        ),
        (
            stream(role(), delta("Hi there"), finish(), usage(0, 0), DONE),
            STREAM,
            ("completed", PROMPT + 2, "estimated"),
        ),
        (
            stream(role(), delta("Hi there"), usage(9, 3), finish(), usage(0, 0), DONE),
            STREAM,
            ("completed", 12, "provider"),
        ),
        (
            stream(role(), usage(9, 1), delta("Hi"), usage(9, 2), finish(), usage(9, 3), DONE),
            STREAM,
            ("completed", 12, "provider"),
        ),
        (silence, SPEECH, ("deadline_exceeded", MOST, "partial")),
        (silence, STREAM, ("deadline_exceeded", MOST, "partial")),
        (fin, SPEECH, ("provider_unavailable", MOST, "partial")),
        (TOO_LONG, SPEECH, ("provider_unavailable", MOST, "partial")),
        (TOO_LONG, STREAM, ("provider_unavailable", MOST, "partial")),
        (json_reply([]), SPEECH, ("provider_unavailable", MOST, "partial")),
        (json_reply(FILTERED), SPEECH, ("prompt_rejected", MOST, "partial")),
        (
            json_reply(FILTERED | {"usage": usage_of(9, 3)}),
            SPEECH,
            ("prompt_rejected", 12, "provider"),
        ),
        (json_reply(CUT_BY_FILTER), SPEECH, ("completed", MOST, "partial")),
        (answer_stream("Hi", reason="content_filter"), STREAM, ("completed", MOST, "partial")),
        (after_content(chunks()), STREAM, ("provider_unavailable", MOST, "partial")),
        (
            after_content(chunks(usage(9, 3))),
            STREAM,
            ("provider_unavailable", MOST, "partial"),
        ),
        (error(503), SPEECH, ("provider_unavailable", 0, None)),
        (error(400), STREAM, ("prompt_rejected", 0, None)),
        (error(429), SPEECH, ("provider_unavailable", 0, None)),
        (json_reply({"error": {"code": 503}}), SPEECH, ("provider_unavailable", 0, None)),
    ],
)
async def test_what_may_be_billed_is_charged(
    sluice: StartSluice, upstream: Upstream, step: Step, body: object, expected: object
) -> None:
    upstream.will(step)
    server = await sluice(**CAPPED, **LIMITED, **deadline(0.2))
    await server.chat(body)
    assert await charged(server) == expected


async def test_who_leaves_pays_for_all_that_was_asked(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(after_content(silence))
    server = await sluice(**LIMITED)
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
    body |= {"n": 90, "max_tokens": 1024}
    data = json.dumps(body).encode()
    client = await server.send(encoded("POST", "/v1/chat/completions", (JSON,), data))
    await client.head()

    client.rst()

    prompt = 8  # tokens of "Hello", for no prompt of the operator's goes before it here
    assert await charged(server) == ("client_gone", prompt + 90 * 1024, "partial")


async def test_each_attempt_that_timed_out_is_charged(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(silence)
    settings = LIMITED | {"retry_max_attempts": 2}
    server = await sluice(**settings, **deadline(0.05) | {"provider_deadline_s": 5})
    (await server.chat(SPEECH)).assert_error(504, "deadline_exceeded")
    assert await charged(server) == ("deadline_exceeded", 2 * MOST, "partial")


async def test_an_attempt_before_the_one_that_answered_is_charged_too(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(silence, ok(usage=usage_of(9, 3)))
    settings = LIMITED | {"retry_max_attempts": 2}
    server = await sluice(**settings, **deadline(0.2) | {"provider_deadline_s": 5})
    reply = await server.chat(SPEECH)
    assert reply.json["usage"] == usage_of(9, 3)
    assert await charged(server) == ("completed", MOST + 12, "partial")


async def test_a_refused_attempt_is_free_and_so_is_the_wait_for_the_next(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(error(503))
    server = await sluice(**LIMITED | {"retry_max_attempts": 2})
    server.backoff.held = True
    client = await server.send(chat(SPEECH))
    await server.backoff.begun.wait()

    client.fin()

    assert await charged(server) == ("client_gone", 0, None)


async def test_a_provider_that_was_never_reached_costs_nothing(sluice: StartSluice) -> None:
    server = await sluice(base_url="http://127.0.0.1:9/v1", **LIMITED)
    (await server.chat(SPEECH)).assert_error(502, "provider_unavailable")
    assert await charged(server) == ("provider_unavailable", 0, None)


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_provider_that_hangs_in_tls_costs_nothing(
    sluice: StartSluice, upstream: Upstream, leaves: bool
) -> None:
    url = f"https://127.0.0.1:{upstream.port}/v1"
    connect_s = 5 if leaves else 0.05
    server = await sluice(
        base_url=url, **LIMITED, **deadline(5) | {"provider_connect_s": connect_s}
    )
    client = await server.send(chat(SPEECH))
    await upstream.until(lambda: upstream.open)
    if leaves:
        client.fin()
    else:
        (await client.reply()).assert_error(504, "deadline_exceeded")
    assert await charged(server) == ("client_gone" if leaves else "deadline_exceeded", 0, None)


@pytest.mark.parametrize("streamed", [False, True])
async def test_answers_over_the_cap_do_not_shut_the_provider_for_others(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    upstream.will(*[TOO_LONG] * 10, ok("Hi there"))
    server = await sluice(**CAPPED, circuit_min_calls=2, circuit_failure_rate=0.1)
    for _ in range(10):
        reply = await server.chat({**SPEECH, "stream": streamed})
        reply.assert_error(502, "provider_unavailable")
    assert (await server.chat(HELLO)).status == 200
