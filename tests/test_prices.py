"""What tokens cost: the table's price, the operator's, or nobody knows."""

from pathlib import Path

import pytest
from conftest import HELLO, StartSluice
from upstream import DONE, Upstream, completion, delta, finish, json_reply, stream, usage, usage_of

from call import Attempt, Call, Usage
from config import Config, loader
from prices import Prices, known_price
from provider.dialects.openai_chat import usage_of as counted

MODELS = """\
[chat]
models = nobodys-model
[model:gpt-4o]
[model:own]
upstream = default/gpt-4o
input_usd_per_million = 7
output_usd_per_million = 11
[model:own-input]
upstream = default/nobodys-model
input_usd_per_million = 7
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "config.ini"
    path.write_text(MODELS)
    return loader.load(path, {"OPENAI_API_KEY": "x"})


def call_of(config: Config, model: str, usage: Usage | None) -> Call:
    call = Call("id", "/api/chat", 0.0, 1.0, model=model)
    target = config.models[model].upstream[0]
    call.timeline.append(Attempt(target, 0.0, 1.0, state="ended", usage=usage))
    return call


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("gpt-4o", 1000 * 2.5e-6 + 100 * 10e-6),
        ("own", 1000 * 7e-6 + 100 * 11e-6),
        ("own-input", 1000 * 7e-6),
        ("nobodys-model", None),
    ],
)
def test_each_model_has_its_price(config: Config, model: str, usd: float | None) -> None:
    call = call_of(config, model, Usage(1000, 100, 1100))
    assert Prices(config.models).usd(call) == (usd if usd is None else pytest.approx(usd))


def test_a_cached_prompt_costs_what_the_table_says(config: Config) -> None:
    prices = Prices(config.models)
    cached = Usage(1000, 100, 1100, cached_tokens=600)
    usd = 400 * 2.5e-6 + 600 * 1.25e-6 + 100 * 10e-6
    assert prices.usd(call_of(config, "gpt-4o", cached)) == pytest.approx(usd)
    # An own price is for all of the prompt.
    assert prices.usd(call_of(config, "own", cached)) == pytest.approx(1000 * 7e-6 + 100 * 11e-6)


def test_a_model_without_a_price_for_cached_tokens() -> None:
    price = known_price("gpt-4")
    assert price is not None
    assert price.cached_usd == price.input_usd == 30


@pytest.mark.parametrize(
    ("details", "cached"),
    [
        ({"cached_tokens": 4}, 4),
        ({"cached_tokens": 9}, 9),
        ({"cached_tokens": 10}, 0),
        ({"cached_tokens": -1}, 0),
        ({"cached_tokens": True}, 0),
        ({"cached_tokens": "4"}, 0),
        ({"cached_tokens": None}, 0),
        ({}, 0),
        ([4], 0),
        (None, 0),
    ],
)
def test_only_a_count_that_can_be_is_believed(details: object, cached: int) -> None:
    document = {"usage": usage_of(9, 3) | {"prompt_tokens_details": details}}
    assert counted(document) == Usage(9, 3, 12, cached)


async def test_an_unknown_price_is_unknown_and_not_zero(
    sluice: StartSluice, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.will(
        stream(delta("Hi"), finish(), usage(9, 3), DONE),
        json_reply(completion(usage=usage_of(9, 3))),
    )
    audited = {"audit_destination": tmp_path / "audit.jsonl", "audit_success_rate": 1}
    server = await sluice(chat_model="nobodys-model", **audited)

    streamed = await server.chat({**HELLO, "stream": True})
    await server.chat(HELLO)

    charged = streamed.events[-2]["messageMetadata"]["charged"]
    assert charged == {"promptTokens": 9, "answerTokens": 3, "estimated": False, "usd": None}
    await server.calls.wait(2)
    for record in server.calls.records:
        assert (record.charged_tokens, record.counted_by) == (12, "provider")
        assert (record.cost_usd, record.cost_unknown) == (None, True)
    assert server.audit is not None
    server.audit.close()
    for line in (tmp_path / "audit.jsonl").read_text().splitlines():
        assert '"cost_usd":null' in line


async def test_what_cost_nothing_is_not_unknown(sluice: StartSluice, upstream: Upstream) -> None:
    server = await sluice(chat_model="nobodys-model")
    await server.chat({})
    record = await server.record()
    assert (record.charged_tokens, record.cost_usd, record.cost_unknown) == (0, None, None)


async def test_a_cached_prompt_is_charged_as_one(sluice: StartSluice, upstream: Upstream) -> None:
    counts = usage_of(1000, 1) | {"prompt_tokens_details": {"cached_tokens": 1000}}
    upstream.will(json_reply(completion(usage=counts)))
    server = await sluice()
    reply = await server.chat(HELLO)
    assert reply.json["usage"] == usage_of(1000, 1)
    assert (await server.record()).cost_usd == pytest.approx(1000 * 0.075e-6 + 0.6e-6)
