"""Token counts that OpenAI published, and the budget that rests on them."""

import pytest

import server  # noqa: F401  says where the tables are
from call import Call
from errors import CallError
from guards.tokens import AnswerMeter, counter, prompt_tokens, weigh

# From OpenAI's cookbook, "How to count tokens with tiktoken".
PUBLISHED = [
    ("gpt-4", "antidisestablishmentarianism", 6),
    ("gpt-4", "2 + 2 = 4", 7),
    ("gpt-4", "お誕生日おめでとう", 9),
    ("gpt-4", "tiktoken is great!", 6),
    ("gpt-4o", "antidisestablishmentarianism", 6),
    ("gpt-4o", "2 + 2 = 4", 7),
    ("gpt-4o", "お誕生日おめでとう", 8),
    ("gpt-4o-mini", "お誕生日おめでとう", 8),
    ("an-engine-of-my-own", "お誕生日おめでとう", 8),
]


@pytest.mark.parametrize(("model", "text", "tokens"), PUBLISHED)
def test_texts_weigh_what_was_published(model, text, tokens):
    assert counter(model)(text) == tokens


def test_messages_weigh_what_the_api_charges():
    # What usage.prompt_tokens was for this conversation, in the API reference's example.
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello!"},
    ]
    assert prompt_tokens("gpt-4o", messages) == 19


def test_special_tokens_in_a_prompt_are_only_text():
    assert counter("gpt-4o")("<|endoftext|>") > 1


def call(text, model="gpt-4o-mini"):
    return Call("id", "/", 0.0, 1.0, model=model, messages=[{"role": "user", "content": text}])


async def test_a_prompt_over_its_budget_names_limit_and_count():
    with pytest.raises(CallError) as caught:
        await weigh(call("word " * 200), 100)
    assert caught.value.code == "prompt_too_long"
    assert caught.value.text == "The prompt has 208 tokens; the limit is 100 tokens"


async def test_a_prompt_far_over_its_budget_is_not_even_counted(monkeypatch):
    monkeypatch.setattr("guards.tokens.prompt_tokens", None)
    with pytest.raises(CallError) as caught:
        await weigh(call("x" * 1_000_000), 100)
    assert caught.value.text == "The prompt has at least 7812 tokens; the limit is 100 tokens"


async def test_a_long_prompt_is_counted_beside_the_loop():
    long = call("word " * 10_000)
    await weigh(long, 20_000)
    assert long.prompt_tokens == prompt_tokens(long.model, long.messages) == 10_008


def test_the_meter_lets_an_answer_of_its_length_pass():
    meter = AnswerMeter("gpt-4o", 300)
    assert all(meter.passes([" word"]) for _ in range(300))
    assert meter.tokens() == 300


@pytest.mark.parametrize(("model", "most"), [("gpt-4o", 310), ("an-engine-of-my-own", 610)])
def test_the_meter_stops_an_answer_that_goes_on(model, most):
    meter = AnswerMeter(model, 300)
    passed = 0
    while meter.passes([" word"]):
        passed += 1
    assert 300 <= passed <= most


def test_the_meter_stops_one_huge_delta():
    assert not AnswerMeter("gpt-4o", 300).passes([" word" * 1000])
