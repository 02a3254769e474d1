"""The provider's JSON, believed only as far as its types go."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from call import Usage
from errors import CallError
from provider.dialects.openai_chat import first_text, parse_completion, parse_event, said
from provider.sse import Event

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
CANARY = "canary-3f9a"


def whole(**changes):
    message = {"role": "assistant", "content": "Hi"} | changes.pop("message", {})
    choice = {"index": 0, "message": message, "finish_reason": "stop"} | changes.pop("choice", {})
    return json.dumps({"choices": [choice], "usage": USAGE} | changes).encode()


def event(document, name=b""):
    return Event(name, json.dumps(document).encode())


def refused(parse, given):
    with pytest.raises(CallError) as caught:
        parse(given)
    assert CANARY not in repr(caught.value)
    assert CANARY not in caught.value.text
    return caught.value


def test_a_completion():
    answer = parse_completion(whole())
    assert first_text(answer.document, "message") == "Hi"
    assert (answer.finish_reason, answer.usage) == ("stop", Usage(9, 3, 12))


def test_a_refusal_is_the_answer():
    answer = parse_completion(whole(message={"content": None, "refusal": "I cannot."}))
    assert first_text(answer.document, "message") == "I cannot."


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {**USAGE, "total_tokens": None},
        {**USAGE, "prompt_tokens": -1},
        {**USAGE, "prompt_tokens": 1.5},
        {**USAGE, "completion_tokens": True},
        {**USAGE, "completion_tokens": "3"},
    ],
)
def test_usage_that_cannot_be_believed_is_none(usage):
    assert parse_completion(whole(usage=usage)).usage is None


GARBAGE = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"<html>canary-3f9a</html>",
    b"\xff\xfe",
    b"NaN",
    b"{}",
    b'{"choices": null}',
    b'{"choices": {}}',
    b'{"choices": ["canary-3f9a"]}',
    b"[" * 2_000,
    b'{"choices": [{"finish_reason": "stop"',
]


@pytest.mark.parametrize("body", GARBAGE)
def test_garbage_is_unavailable_and_not_transient(body):
    for parse, given_ in ((parse_completion, body), (parse_event, Event(b"", body))):
        error = refused(parse, given_)
        assert (error.code, error.unhealthy) == ("provider_unavailable", True)
        assert not error.transient


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": []}',
        whole(choice={"finish_reason": None}),
        whole(choice={"finish_reason": 7}),
        whole(choice={"message": None}),
        whole(message={"content": [CANARY]}),
        whole(message={"content": {"text": CANARY}}),
    ],
)
def test_a_whole_answer_needs_a_message_and_a_finish_reason(body):
    assert refused(parse_completion, body).code == "provider_unavailable"


def test_a_filter_that_left_no_word_is_a_refused_prompt():
    filtered = whole(choice={"finish_reason": "content_filter"}, message={"content": None})
    assert refused(parse_completion, filtered).code == "prompt_rejected"


CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("document", "text", "everything", "choices", "is_content"),
    [
        ({"choices": [{"delta": {"content": "Hi"}}]}, "Hi", "Hi", [(0, None)], True),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}]}, "", "", [(0, "stop")], True),
        ({"choices": [{"delta": None}]}, "", "", [(0, None)], False),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, "", "", [(0, None)],
         False),
        ({"choices": [{"delta": {"refusal": "No."}}]}, "No.", "No.", [(0, None)], True),
        ({"choices": [{"delta": {"tool_calls": [CALL]}}]}, "", "f{}", [(0, None)], True),
        ({"choices": [{"delta": {"reasoning_content": "Hm"}}]}, "", "Hm", [(0, None)], True),
        ({"choices": [], "prompt_filter_results": []}, "", "", [], False),
        ({"choices": [{"index": 1, "delta": {"content": "b"}}, {"delta": {"content": "a"}}]},
         "a", "ba", [(1, None), (0, None)], True),
    ],
)  # fmt: skip
def test_an_event(document, text, everything, choices, is_content):
    delta = parse_event(event(document))
    assert first_text(delta.document, "delta") == text
    assert (delta.said, delta.choices, delta.is_content) == (everything, choices, is_content)
    assert delta.usage is None


def test_the_event_with_the_usage():
    assert parse_event(event({"choices": [], "usage": USAGE})).usage == Usage(9, 3, 12)


def test_a_document_that_could_not_be_passed_on_is_garbage():
    deep = {"content": "Hi", "x": json.loads("[" * 200 + "]" * 200)}
    assert refused(parse_completion, whole(message=deep)).reason == "too_deep"
    wide = parse_completion(whole(message={"content": "Hi", "x": [[]] * 200}))
    assert said(wide.document["choices"], "message") == "Hi"


@pytest.mark.parametrize(
    ("error", "code", "transient"),
    [
        ({"message": CANARY}, "provider_unavailable", True),
        (CANARY, "provider_unavailable", True),
        ({"type": "server_error"}, "provider_unavailable", True),
        ({"code": 503}, "provider_unavailable", True),
        ({"code": "429"}, "provider_unavailable", True),
        ({"code": 401}, "provider_misconfigured", False),
        ({"code": "insufficient_quota"}, "provider_misconfigured", False),
        ({"type": "invalid_request_error"}, "prompt_rejected", False),
        ({"code": "content_filter"}, "prompt_rejected", False),
    ],
)
def test_an_error_object_in_a_200(error, code, transient):
    for given_ in (
        refused(parse_completion, json.dumps({"error": error}).encode()),
        refused(parse_event, event({"error": error})),
    ):
        assert (given_.code, given_.transient) == (code, transient)


def test_an_event_named_error():
    assert refused(parse_event, event({"code": 503}, b"error")).reason == "status_503"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 999) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "content",
                    "finish_reason",
                    "usage",
                    "error",
                    "code",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_json_comes_it_is_an_answer_or_a_call_error(document):
    for parse, given_ in (
        (parse_completion, json.dumps(document).encode()),
        (parse_event, event(document)),
    ):
        with suppress(CallError):  # what else it raises would be answered 500
            parse(given_)
