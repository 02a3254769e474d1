"""The body's reader: strict, cheap, and never surprised."""

import json
import math
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import CallError
from handlers.body import Schema, parse

SCHEMA = Schema("chat.request.json")
EXPLAINING = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).parent.parent / "schemas/chat.request.json").read_bytes())
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
NAMES = st.sampled_from(["userMessage", "messages", "model", "maxTokens", "stream", "role", "x"])
REQUEST = st.dictionaries(
    NAMES,
    JSON
    | st.text()
    | st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text() | JSON}
        ),
        max_size=4,
    ),
)


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_request_or_a_400(body):
    code = "completed"
    try:
        SCHEMA.check(parse(body))
    except CallError as error:
        code = error.code
    assert code in ("completed", "invalid_request")


@given(REQUEST)
@settings(max_examples=500, deadline=None)
def test_the_quick_judge_and_the_one_who_explains_agree(document):
    text = json.dumps(document, ensure_ascii=False)
    document = json.loads(text)
    explained = EXPLAINING.is_valid(document)
    if not any(_odd(value) for value in _leaves(document)):
        assert SCHEMA._fits(document) == explained


@given(REQUEST)
@settings(max_examples=500, deadline=None)
def test_a_refusal_names_no_value(document):
    canary = "canary-8f2e"
    body = json.dumps({**document, "zz": canary, "model": [canary]}, allow_nan=True)
    with pytest.raises(CallError) as caught:
        SCHEMA.check(parse(body.encode("utf-8", "surrogatepass")))
    assert canary not in caught.value.text


def test_fifty_messages_are_checked_without_a_slow_judge(monkeypatch):
    monkeypatch.setattr(jsonschema.Draft202012Validator, "iter_errors", None)
    messages = [{"role": "user", "content": "word " * 20}] * 50
    SCHEMA.check(parse(json.dumps({"userMessage": "Hi", "messages": messages}).encode()))


def _leaves(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _odd(value):
    """Not JSON, or white space of which Python and Unicode think differently."""
    if isinstance(value, float):
        return not math.isfinite(value) or abs(value) > 2**53
    return isinstance(value, str) and any("\x1c" <= c <= "\x1f" or c == "\x85" for c in value)
