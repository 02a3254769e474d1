"""Token counts that OpenAI published, and the budget that rests on them."""

import pytest

import server  # noqa: F401  says where the tables are
from call import Call
from errors import CallError
from guards.tokens import AnswerMeter, count_prompt, tokenizer

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
    assert tokenizer(model)(text) == tokens


async def test_messages_weigh_what_the_api_charges():
    # What usage.prompt_tokens was for this conversation, in the API reference's example.
    example = call("Hello!", "gpt-4o")
    example.messages.insert(0, {"role": "system", "content": "You are a helpful assistant."})
    await count_prompt(example, "gpt-4o", 100)
    assert example.prompt_tokens == 19


async def test_tools_images_and_files_weigh_something():
    plain, rich = call("Hello!"), call("Hello!")
    parts = [
        {"type": "text", "text": "Hello!"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}},
        {"type": "file", "file": {"file_data": "A" * 9000}},
    ]
    rich.messages[0]["content"] = parts
    rich.options["tools"] = [{"type": "function", "function": {"name": "f", "description": "x"}}]
    for each in (plain, rich):
        await count_prompt(each, each.model, 9000)
    assert 1500 < rich.prompt_tokens - plain.prompt_tokens < 1600


def test_special_tokens_in_a_prompt_are_only_text():
    assert tokenizer("gpt-4o")("<|endoftext|>") > 1


def call(text, model="gpt-4o-mini"):
    return Call("id", "/", 0.0, 1.0, model=model, messages=[{"role": "user", "content": text}])


async def test_a_prompt_over_its_budget_names_limit_and_count():
    with pytest.raises(CallError) as caught:
        await count_prompt(call("word " * 200), "gpt-4o-mini", 100)
    assert caught.value.code == "prompt_too_long"
    assert caught.value.text == "The prompt has 208 tokens; the limit is 100 tokens"


async def test_a_prompt_far_over_its_budget_is_not_even_counted(monkeypatch):
    monkeypatch.setattr("guards.tokens._weight", None)
    with pytest.raises(CallError) as caught:
        await count_prompt(call("x" * 1_000_000), "gpt-4o-mini", 100)
    assert caught.value.text == "The prompt has at least 7812 tokens; the limit is 100 tokens"


async def test_a_long_prompt_is_counted_beside_the_loop():
    long = call("word " * 10_000)
    await count_prompt(long, long.model, 20_000)
    assert long.prompt_tokens == 10_008


def test_the_meter_lets_an_answer_of_its_length_pass():
    meter = AnswerMeter("gpt-4o", 300)
    assert all(meter.within_limit([" word"]) for _ in range(300))
    assert meter.tokens() == 300


@pytest.mark.parametrize(("model", "most"), [("gpt-4o", 310), ("an-engine-of-my-own", 610)])
def test_the_meter_stops_an_answer_that_goes_on(model, most):
    meter = AnswerMeter(model, 300)
    passed = 0
    while meter.within_limit([" word"]):
        passed += 1
    assert 300 <= passed <= most


def test_the_meter_stops_one_huge_delta():
    assert not AnswerMeter("gpt-4o", 300).within_limit([" word" * 1000])


def test_the_meter_only_counts_where_no_limit_was_sent():
    meter = AnswerMeter("gpt-4o", None)
    assert all(meter.within_limit([" word" * 1000]) for _ in range(20))
    assert meter.tokens() == 20_000
