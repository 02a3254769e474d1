"""The body's reader: strict, cheap, and never surprised."""

import json
import math
import time
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import CallError
from handlers.body import MAX_VALUES, Schema, parse

SCHEMA = Schema("chat.request.json")
SCHEMAS = [
    SCHEMA,
    Schema("chat.ui.request.json"),
    Schema("openai.chat.request.json"),
    Schema("openai.responses.request.json"),
]
REFERENCE = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).parent.parent / "schemas/chat.request.json").read_bytes())
)
REQUESTS = sorted((Path(__file__).parent.parent / "schemas").glob("*.request.json"))
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
@pytest.mark.slow
def test_what_is_valid_is_what_the_reference_implementation_says(document):
    document = json.loads(json.dumps(document, ensure_ascii=False))
    if not any(_odd(value) for value in _leaves(document)):
        assert (_fault(SCHEMA, document) is None) == REFERENCE.is_valid(document)


@given(REQUEST)
@settings(max_examples=500, deadline=None)
@pytest.mark.slow
def test_a_refusal_names_no_value(document):
    canary = "canary-8f2e"
    body = json.dumps({**document, "zz": canary, "model": [canary]}, allow_nan=True)
    with pytest.raises(CallError) as caught:
        SCHEMA.check(parse(body.encode("utf-8", "surrogatepass")))
    assert canary not in caught.value.text


@pytest.mark.parametrize(
    ("document", "text", "param"),
    [
        ({"userMessage": "a", "zz": 1}, 'The body has an unknown field "zz"; known are', "zz"),
        (
            {"userMessage": "a", "messages": [{"role": "user", "content": "b", "name": "c"}]},
            'messages[0] has an unknown field "name"',
            "messages[0].name",
        ),
        ({"userMessage": "a", "\x1b[2J": 1}, 'an unknown field "?[2J"', "?[2J"),
        ({"userMessage": "a", "z" * 64: 1}, f'an unknown field "{"z" * 64}"', "z" * 64),
        ({"userMessage": "a", "z" * 65: 1}, f'an unknown field "{"z" * 63}…"', "z" * 63 + "…"),
        ({"userMessage": "a", "messages": [{}]}, "messages[0].role is required", None),
        ({"userMessage": "a", "messages": [5]}, "messages[0] must be an object", "messages[0]"),
        (
            {"userMessage": "a", "messages": [{"role": "x", "content": "b"}]},
            "messages[0].role must be one of user, assistant",
            "messages[0].role",
        ),
        (
            {"userMessage": "a", "messages": [{"role": "user", "content": "a\0"}]},
            "messages[0].content must not contain NUL characters",
            "messages[0].content",
        ),
        (
            {"userMessage": "a", "messages": [{}] * 201},
            "messages must have at most 200 items",
            "messages",
        ),
        ({"userMessage": " "}, "userMessage must be a non-empty string", "userMessage"),
        ({"userMessage": "a", "maxTokens": 0}, "maxTokens must be at least 1", "maxTokens"),
    ],
)
def test_the_first_fault_is_described(document, text, param):
    fault = _fault(SCHEMA, document)
    assert text in fault.text
    assert param is None or fault.param == param


# Bodies that nobody sends but to do harm, each as large as one may be by default.

CAP = 262_144


def repeated(item: str, head: str, tail: str) -> bytes:
    count = (CAP - len(head) - len(tail)) // (len(item) + 1)
    return (head + ",".join([item] * count) + tail).encode()


MANY = {
    "objects": repeated("{}", '{"messages":[', "]}"),
    "lists": repeated("[]", '{"messages":[', "]}"),
    "strings": repeated('""', '{"metadata":{"a":[', "]}}"),
    "numbers": repeated("0", '{"input":[', "]}"),
    "literals": repeated("null", '{"input":[', "]}"),
    "members": repeated('"a":0', '{"metadata":{', "}}"),
    "parts": repeated("{}", '{"messages":[{"role":"user","content":[', "]}]}"),
    "nested": repeated("[" * 30 + "]" * 30, '{"tools":[', "]}"),
    "brackets": b"[" * CAP,
    "brackets in a cut string": b'"' + b"[," * (CAP // 2 - 1) + b'\\""' + b"[" * 40_000,
}


@pytest.mark.parametrize("kind", MANY)
def test_too_many_values_are_refused_before_they_are_read(monkeypatch, kind):
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(CallError) as caught:
        parse(MANY[kind])
    assert caught.value.text == f"The body must have at most {MAX_VALUES} values"


@pytest.mark.parametrize("end", ["", "\\\\", '\\"', '\\\\\\"'])
def test_a_text_may_hold_any_characters(end):
    words = '[{, \\"a\\": [1], \\\\' * 20_000 + end
    assert parse(f'{{"a": "{words}", "b": [1, "c,"]}}'.encode())["b"] == [1, "c,"]


@pytest.mark.parametrize("count", [MAX_VALUES, MAX_VALUES + 1])
@pytest.mark.parametrize("item", ["0", '""', '",["'])
def test_values_are_counted_exactly(count, item):
    body = f'{{"a": [{",".join([item] * (count - 2))}]}}'.encode()
    if count > MAX_VALUES:
        with pytest.raises(CallError):
            parse(body)
    else:
        assert len(parse(body)["a"]) == count - 2


@pytest.mark.parametrize("item", [{}, [], "", 0, {"type": "text"}, {"content": [{}]}])
@pytest.mark.parametrize(
    "document",
    [
        lambda many: {"messages": many},
        lambda many: {"input": many},
        lambda many: {"messages": [{"role": "user", "content": many}]},
        lambda many: {"messages": [{"role": "user", "parts": many}]},
        lambda many: {"input": [{"role": "user", "content": many}]},
        lambda many: {"input": "a", "tools": many},
    ],
)
def test_only_the_first_of_many_faults_is_looked_for(document, item):
    many = document([item] * 50_000)
    for schema in SCHEMAS:
        began = time.thread_time()
        _fault(schema, many)
        assert time.thread_time() - began < 0.5  # all of them: 1 to 6 s


@pytest.mark.parametrize("name", [path.name for path in REQUESTS])
def test_every_list_of_a_request_has_a_most(name):
    schema = json.loads((REQUESTS[0].parent / name).read_bytes())
    unbounded = [
        place
        for place, rules in _rules(schema, name)
        if "array" in rules.get("type", ()) and "maxItems" not in rules
    ]
    assert unbounded == []


def _rules(schema, place):
    if isinstance(schema, dict):
        yield place, schema
        for key, inner in schema.items():
            yield from _rules(inner, f"{place}/{key}")


def _fault(schema, document):
    try:
        schema.check(document)
    except CallError as error:
        return error
    return None


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
