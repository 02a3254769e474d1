"""How long an answer may be: what is sent to the provider, and by which name."""

import asyncio

import httpx2
import openai
import orjson
import pytest
from conftest import HELLO, assert_valid, make_settings
from upstream import (
    DONE,
    answer_stream,
    completion,
    delta,
    finish,
    held,
    ok,
    role,
    stream,
    usage,
    usage_of,
)

from app import wiring
from call import Call
from provider.client import max_tokens_field

ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
OPENAI = "api.openai.com"
ELSEWHERE = "llm.example.com"


# The name


@pytest.mark.parametrize(
    ("host", "model", "field"),
    [
        (OPENAI, "gpt-4o-mini", "max_completion_tokens"),
        (OPENAI, "gpt-3.5-turbo", "max_completion_tokens"),
        (OPENAI, "ft:o4-mini-2025-04-16:org::id", "max_completion_tokens"),
        ("eu.api.openai.com", "gpt-4.1", "max_completion_tokens"),
        ("api.openai.com.example.com", "gpt-4.1", "max_tokens"),
        ("notapi.openai.com", "gpt-4.1", "max_tokens"),
        (ELSEWHERE, "gpt-5", "max_completion_tokens"),
        (ELSEWHERE, "GPT-5.1-mini", "max_completion_tokens"),
        (ELSEWHERE, "openai/gpt-5-nano", "max_completion_tokens"),
        (ELSEWHERE, "o1", "max_completion_tokens"),
        (ELSEWHERE, "o3-2025-04-16", "max_completion_tokens"),
        (ELSEWHERE, "azure/eu/o4-mini", "max_completion_tokens"),
        (ELSEWHERE, "openai/o3:online", "max_completion_tokens"),
        (ELSEWHERE, "gpt-4o-mini", "max_tokens"),
        (ELSEWHERE, "openai/gpt-4.1", "max_tokens"),
        (ELSEWHERE, "openai/gpt-oss-120b", "max_tokens"),
        (ELSEWHERE, "AIDC-AI/Marco-o1", "max_tokens"),
        (ELSEWHERE, "o1js", "max_tokens"),
        (ELSEWHERE, "olmo-2", "max_tokens"),
        (ELSEWHERE, "gpt-50b", "max_tokens"),
    ],
)
def test_the_name_of_the_limit_fits_provider_and_model(host, model, field):
    assert max_tokens_field("auto", host, model) == field


def test_a_configured_name_wins():
    assert max_tokens_field("max_tokens", OPENAI, "o3") == "max_tokens"
    assert max_tokens_field("max_completion_tokens", ELSEWHERE, "m") == "max_completion_tokens"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("model", ["gpt-5-mini", "openai/o3"])
async def test_a_reasoning_model_is_asked_by_the_name_it_knows(sluice, upstream, sdk, model, field):
    upstream.will(ok())
    server = await sluice(chat_models=model)
    ask = {**ASK, "model": model, field: 50}

    await sdk(server).chat.completions.create(**ask)
    await server.chat({**HELLO, "model": model, "maxTokens": 50})

    for request in upstream.requests:
        assert request.json["max_completion_tokens"] == 50
        # Reasoning models refuse further fields that nobody asked for, temperature among them.
        assert request.json.keys() == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize("base_url", ["https://api.openai.com/v1", "https://llm.example.com/v1"])
async def test_openais_own_api_gets_the_newer_name_for_all_models(io_loop, base_url):
    """The one test that cannot be made over a socket: the address itself decides."""
    sent = []

    def answer(request):
        sent.append(orjson.loads(request.content))
        return httpx2.Response(200, json=completion("Hi"))

    router = wiring.make_router(
        make_settings(base_url),
        lambda name, provider: httpx2.MockTransport(answer),
    )
    now = io_loop.time()
    call = Call("id", "/", now, now + 9, model="gpt-4o-mini", messages=ASK["messages"])
    call.max_tokens = 7
    await router.complete(call)
    await router.aclose()
    field = "max_completion_tokens" if base_url.endswith("openai.com/v1") else "max_tokens"
    assert (sent[0][field], len(sent[0])) == (7, 3)


# /v1, where no limit is requested


@pytest.mark.parametrize("kind", ["whole", "stream", "responses"])
async def test_where_none_is_requested_none_is_sent(sluice, upstream, sdk, kind):
    words = [" word"] * 9000
    upstream.will(answer_stream(*words) if kind == "stream" else ok("".join(words)))
    client = sdk(await sluice())
    if kind == "responses":
        response = await client.responses.create(model="gpt-4o-mini", input="Hello")
        assert (response.status, response.max_output_tokens) == ("completed", None)
        text = response.output_text
    elif kind == "whole":
        answer = await client.chat.completions.create(**ASK)
        text = answer.choices[0].message.content
    else:
        chunks = [each async for each in await client.chat.completions.create(**ASK, stream=True)]
        text = "".join(each.choices[0].delta.content or "" for each in chunks)
        assert chunks[-1].choices[0].finish_reason == "stop"
    assert text == "".join(words)
    assert not any("max" in name for name in upstream.requests[0].json)


async def test_what_is_reserved_then_is_the_operators_figure(sluice, upstream, sdk):
    go = asyncio.Event()
    upstream.will(held(go, ok(usage=usage_of(9, 3))), ok(usage=usage_of(9, 3)))
    server = await sluice(limit_ip_tokens_per_day=1000, openai_max_tokens_reserved=900)
    client = sdk(server)
    first = asyncio.ensure_future(client.chat.completions.create(**ASK))
    await upstream.request()
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(**ASK)
    go.set()
    await first
    await client.chat.completions.create(**ASK)
    assert [record.charged_tokens for record in server.calls.records] == [0, 12, 12]


@pytest.mark.parametrize("counted", [True, False], ids=["by the provider", "by us"])
async def test_an_answer_beyond_what_was_reserved_is_charged_whole(sluice, upstream, sdk, counted):
    tail = [usage(9, 600)] if counted else []
    upstream.will(stream(role(), *[delta(" word")] * 600, finish(), *tail, DONE))
    server = await sluice(limit_ip_tokens_per_day=650, openai_max_tokens_reserved=100)
    client = sdk(server)
    async for _ in await client.chat.completions.create(**ASK, stream=True):
        pass
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**ASK)
    assert caught.value.code == "quota_exceeded"
    assert server.calls.records[0].charged_tokens == pytest.approx(609, abs=3)
    assert not server.calls.records[0].cut


async def test_the_operators_limit_is_sent_instead(sluice, upstream, sdk):
    upstream.will(ok())
    client = sdk(await sluice(chat_max_tokens_limit=500))
    raw = await client.chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["X-Sluice-Max-Tokens"] == "500"
    response = await client.responses.create(model="gpt-4o-mini", input="Hello")
    assert response.max_output_tokens == 500
    assert [each.json["max_tokens"] for each in upstream.requests] == [500, 500]


# /v1, where one is requested


@pytest.mark.parametrize(
    ("requested", "sent", "header"),
    [(1, 1, None), (2048, 2048, None), (16_384, 16_384, None), (32_000, 16_384, "16384")],
)
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
async def test_too_much_is_clamped_and_said(sluice, upstream, sdk, field, requested, sent, header):
    upstream.will(ok())
    client = sdk(await sluice())
    if field == "max_output_tokens":
        raw = await client.responses.with_raw_response.create(
            model="gpt-4o-mini", input="Hello", max_output_tokens=requested
        )
        assert raw.parse().max_output_tokens == sent
    else:
        raw = await client.chat.completions.with_raw_response.create(**ASK, **{field: requested})
    assert raw.headers.get("X-Sluice-Max-Tokens") == header
    assert upstream.requests[0].json["max_tokens"] == sent


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
async def test_or_refused_where_the_operator_prefers_that(sluice, upstream, sdk, field):
    client = sdk(await sluice(openai_max_tokens_policy="refuse", chat_max_tokens_limit=500))
    if field == "max_output_tokens":
        request = client.responses.create(model="gpt-4o-mini", input="Hello", **{field: 501})
    else:
        request = client.chat.completions.create(**ASK, **{field: 501})
    with pytest.raises(openai.BadRequestError) as caught:
        await request
    assert caught.value.param == field
    assert f"{field} must be at most 500" in caught.value.message
    assert upstream.requests == []


async def test_models_show_the_operators_limit(sluice):
    limited = await sluice(chat_max_tokens_limit=500)
    [model] = (await limited.fetch("GET", "/v1/models")).json["data"]
    assert_valid(model, "openai.model.json")
    assert model["max_completion_tokens"] == 500
    [model] = (await (await sluice()).fetch("GET", "/v1/models")).json["data"]
    assert "max_completion_tokens" not in model


# /api/chat


async def test_the_operators_limit_holds_on_api_chat_too(sluice, upstream):
    upstream.will(ok())
    server = await sluice(chat_max_tokens_limit=500)
    assert (await server.chat(HELLO)).status == 200
    assert upstream.requests[0].json["max_tokens"] == 500
    reply = await server.chat({**HELLO, "maxTokens": 501})
    reply.assert_error(400, "invalid_request")
    assert reply.json["error"] == "maxTokens must be at most 500"
