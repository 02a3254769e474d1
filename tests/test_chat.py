"""POST /api/chat, answered in one piece."""

import asyncio
from typing import Any

import pytest
from conftest import HELLO, KEY, StartSluice, assert_valid, chat
from upstream import Upstream, held, json_reply, ok, usage_of

from calls.admission import Admission
from errors import OUTCOMES, CallError

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


async def test_answers_with_text_and_usage(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok("Hi there", usage=usage_of(9, 3)))
    server = await sluice()

    reply = await server.chat(HELLO)

    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json == {
        "text": "Hi there",
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }
    assert_valid(reply.json, "chat.response.json")
    record = await server.record()
    assert (record.code, record.status, record.attempts) == ("completed", 200, 1)
    assert (record.prompt_tokens, record.completion_tokens) == (9, 3)
    assert (record.model, record.stream, record.finish_reason) == ("gpt-4o-mini", False, "stop")
    assert record.route == "/api/chat"


async def test_upstream_receives_exactly_what_was_asked(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice()

    await server.chat(HELLO, ("Cookie", "a=b"), ("Authorization", "Bearer theirs"))

    [request] = upstream.requests
    assert (request.method, request.target) == ("POST", "/v1/chat/completions")
    document = request.json
    assert document.pop("stream", False) is False
    assert document == {
        "model": "gpt-4o-mini",
        "messages": [SYSTEM, {"role": "user", "content": "Hello"}],
        "max_tokens": 4096,
    }
    assert request.header("Authorization") == f"Bearer {KEY}"
    assert request.header("Content-Type") == "application/json"
    assert request.header("Accept-Encoding") in (None, "identity")
    assert request.header("Cookie") is None


async def test_user_message_is_trimmed(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice()

    await server.chat({"userMessage": " \n\t Hello  you \u00a0"})

    assert upstream.requests[0].json["messages"][-1] == {"role": "user", "content": "Hello  you"}


async def test_history_stands_between_system_prompt_and_user_message(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice()
    history = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": " Hello, Ada! 🦆 "},
    ]

    await server.chat({"userMessage": "What is my name?", "messages": history})

    last = {"role": "user", "content": "What is my name?"}
    assert upstream.requests[0].json["messages"] == [SYSTEM, *history, last]


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4o", "gpt-4.1"])
async def test_a_listed_model_may_be_named(
    sluice: StartSluice, upstream: Upstream, model: str
) -> None:
    upstream.will(ok())
    server = await sluice(chat_models="gpt-4o, gpt-4.1")

    assert (await server.chat({**HELLO, "model": model})).status == 200

    assert upstream.requests[0].json["model"] == model


async def test_another_model_is_refused(sluice: StartSluice, upstream: Upstream) -> None:
    server = await sluice(chat_models="gpt-4o")

    reply = await server.chat({**HELLO, "model": "secret-model"})

    reply.assert_error(404, "model_not_found")
    assert reply.json["error"] == "There is no such model; there are gpt-4o-mini, gpt-4o"
    record = await server.record()
    assert (record.code, record.status, record.attempts) == ("model_not_found", 404, 0)
    assert record.model is None
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("asked", "sent"), [(1, 1), (16384, 16384), (5.0, 5)], ids=["least", "most", "whole float"]
)
async def test_max_tokens_is_passed_on(
    sluice: StartSluice, upstream: Upstream, asked: float, sent: int
) -> None:
    upstream.will(ok())
    server = await sluice()

    assert (await server.chat({**HELLO, "maxTokens": asked})).status == 200

    assert upstream.requests[0].json["max_tokens"] == sent
    assert type(upstream.requests[0].json["max_tokens"]) is int


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (16385, "maxTokens must be at most 16384"),
        (0, "maxTokens must be at least 1"),
        (1.5, "maxTokens must be an integer"),
        ("9", "maxTokens must be an integer"),
        (True, "maxTokens must be an integer"),
    ],
    ids=["over the limit", "zero", "fraction", "string", "boolean"],
)
async def test_max_tokens_has_bounds(
    sluice: StartSluice, upstream: Upstream, asked: object, text: str
) -> None:
    server = await sluice()

    reply = await server.chat({**HELLO, "maxTokens": asked})

    reply.assert_error(400, "invalid_request")
    assert reply.json["error"] == text
    assert upstream.requests == []


async def test_the_limit_may_have_another_name_on_the_wire(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice(provider_max_tokens_field="max_completion_tokens")

    await server.chat()

    assert upstream.requests[0].json["max_completion_tokens"] == 4096
    assert "max_tokens" not in upstream.requests[0].json


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"prompt_tokens": "9"}, usage_of(-1, 3), [1], {**usage_of(), "total_tokens": 1.5}],
    ids=["null", "empty", "strings", "negative", "array", "fraction"],
)
async def test_usage_is_null_where_the_provider_sent_none_to_believe(
    sluice: StartSluice, upstream: Upstream, usage: Any
) -> None:
    upstream.will(ok("Hi", usage=usage))
    server = await sluice()

    reply = await server.chat()

    assert reply.json == {"text": "Hi", "usage": None}
    assert_valid(reply.json, "chat.response.json")
    assert (await server.record()).prompt_tokens is None


async def test_further_counts_in_usage_are_left_out(
    sluice: StartSluice, upstream: Upstream
) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 4}}
    upstream.will(ok("Hi", usage=usage_of(9, 3) | details))
    server = await sluice()

    assert (await server.chat()).json["usage"] == usage_of(9, 3)


async def test_an_empty_answer_is_an_answer(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok("", finish_reason="length"))
    server = await sluice()

    assert (await server.chat()).json == {"text": "", "usage": None}


async def test_a_filtered_answer_without_text_is_a_refused_prompt(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok("", finish_reason="content_filter"))
    server = await sluice()

    (await server.chat()).assert_error(422, "prompt_rejected")

    assert (await server.record()).attempts == 1


@pytest.mark.parametrize("given", ["abc-123_X.9", "a", "x" * 128])
async def test_a_well_formed_request_id_is_kept(
    sluice: StartSluice, upstream: Upstream, given: str
) -> None:
    upstream.will(ok())
    server = await sluice()

    reply = await server.chat(HELLO, ("X-Request-Id", given))

    assert reply.headers["x-request-id"] == given
    assert (await server.record()).request_id == given
    assert upstream.requests[0].header("X-Client-Request-Id") == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ü", "a,b", "<b>"])
async def test_another_request_id_is_replaced(
    sluice: StartSluice, upstream: Upstream, given: str
) -> None:
    upstream.will(ok())
    server = await sluice()

    reply = await server.chat(HELLO, ("X-Request-Id", given))

    made = reply.headers["x-request-id"]
    assert len(made) == 32
    assert made.isalnum()
    assert (await server.record()).request_id == made


async def test_request_ids_differ(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice()
    client = await server.connect()
    ids = set()
    for _ in range(3):
        await client.send(chat())
        ids.add((await client.reply()).headers["x-request-id"])

    assert len(ids) == 3


async def test_the_providers_request_id_is_logged(sluice: StartSluice, upstream: Upstream) -> None:
    document = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    upstream.will(json_reply(document, 200, ("x-request-id", "req_42")))
    server = await sluice()

    await server.chat()

    assert (await server.record()).provider_request_id == "req_42"


REPLIES = sorted(OUTCOMES.keys() - {"completed", "client_gone"})


@pytest.mark.parametrize("code", REPLIES)
async def test_every_code_has_a_reply_and_a_record(
    sluice: StartSluice, upstream: Upstream, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise CallError(code, retry_after_s=1)

    monkeypatch.setattr(Admission, "enter", refuse)
    server = await sluice()

    reply = await server.chat()

    reply.assert_error(OUTCOMES[code].status, code)
    assert reply.json["error"] == OUTCOMES[code].text
    assert reply.json["retryable"] is OUTCOMES[code].retryable
    record = await server.record()
    assert (record.code, record.status, record.attempts) == (code, OUTCOMES[code].status, 0)
    assert record.request_id == reply.json["requestId"]


def test_the_schema_knows_every_code() -> None:
    for code in REPLIES:
        error = {"error": "x", "code": code, "retryable": True, "requestId": "1"}
        assert_valid(error, "error.json")


async def test_the_unforeseen_is_internal(
    sluice: StartSluice, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_: object) -> None:
        raise ValueError("nobody expected this")

    monkeypatch.setattr(Admission, "enter", burst)
    server = await sluice()

    reply = await server.chat()

    reply.assert_error(500, "internal")
    assert reply.json["error"] == "Unexpected server error"
    assert (await server.record()).code == "internal"


async def test_calls_do_not_wait_for_each_other(sluice: StartSluice, upstream: Upstream) -> None:
    go = asyncio.Event()
    upstream.will(held(go, ok("late")), ok("early"))
    server = await sluice()
    late = asyncio.ensure_future(server.chat())
    await upstream.request(1)

    assert (await server.chat()).json["text"] == "early"

    go.set()
    assert (await late).json["text"] == "late"
    await server.calls.wait(2)
    await server.at_rest()


async def test_connections_to_the_provider_are_kept(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice()

    for _ in range(3):
        await server.chat()

    assert (len(upstream.requests), upstream.connections) == (3, 1)
