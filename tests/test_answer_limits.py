"""How long an answer may be: what is sent to the provider, and by which name."""

import httpx2
import orjson
import pytest
from conftest import HELLO, make_settings
from upstream import completion, ok

import wiring
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
        clock=io_loop.time,
        sleep=None,
        random=lambda: 0.5,
    )
    now = io_loop.time()
    call = Call("id", "/", now, now + 9, model="gpt-4o-mini", messages=ASK["messages"])
    call.max_tokens = 7
    await router.complete(call)
    await router.aclose()
    field = "max_completion_tokens" if base_url.endswith("openai.com/v1") else "max_tokens"
    assert (sent[0][field], len(sent[0])) == (7, 3)
