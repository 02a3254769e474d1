"""Redaction: out of the prompt, back into the answer, and never anybody else's."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import RedactionConfig
from errors import CallError
from guards.redaction.redactor import Redactor
from guards.redaction.restorer import AnswerRestorer, Restorer

RESTORE = dict.fromkeys(
    ("email", "phone", "card", "iban", "national_id", "ip", "api_key", "private_key"), "restore"
)


def redactor(**modes):
    return Redactor(RedactionConfig(**(RESTORE | modes), phone_region="US"))


def user(*texts):
    return [{"role": "user", "content": text} for text in texts]


def test_a_text_without_values_is_passed_as_it_is():
    messages = user("Hello")
    redacted = redactor().redact(messages)
    assert (messages, redacted.counts, redacted.restored) == (user("Hello"), {}, {})


def test_the_same_value_has_the_same_placeholder_in_all_messages():
    messages = user("a@example.com, b@example.com", "b@example.com a@example.com")
    redacted = redactor().redact(messages)
    assert messages == user("[EMAIL_1], [EMAIL_2]", "[EMAIL_2] [EMAIL_1]")
    assert redacted.counts == {"email": 2}


def test_only_what_is_in_mode_restore_comes_back():
    redacted = redactor(card="redact").redact(user("a@example.com 4242424242424242"))
    assert redacted.restored == {"[EMAIL_1]": "a@example.com"}


def test_off_leaves_the_value():
    messages = user("a@example.com")
    redactor(email="off").redact(messages)
    assert messages == user("a@example.com")


def test_block_refuses_by_kind_and_not_by_value():
    messages = user("4242424242424242", "a@example.com DE89370400440532013000")
    with pytest.raises(CallError) as caught:
        redactor(card="block", iban="block").redact(messages)
    assert caught.value.code == "prompt_rejected"
    assert caught.value.text == "The prompt holds what may not be sent: card, iban"


def test_a_placeholder_that_the_caller_wrote_is_left_alone():
    messages = user("what is [EMAIL_1]? not a@example.com")
    redacted = redactor().redact(messages)
    assert messages == user("what is [EMAIL_1]? not [EMAIL_2]")
    assert Restorer(redacted.restored).whole("[EMAIL_1] [EMAIL_2]") == "[EMAIL_1] a@example.com"


def test_a_placeholder_in_a_later_message_is_left_alone_too():
    messages = user("a@example.com", "[EMAIL_1]")
    redactor().redact(messages)
    assert messages == user("[EMAIL_2]", "[EMAIL_1]")


def test_every_text_of_a_conversation_with_tools_is_read():
    arguments = '{"to":"a@example.com","cards":[4242424242424242,7],"n":{"url":"b@example.com"}}'
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "I am a@example.com"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "function": {"name": "mail", "arguments": arguments}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"from": "c@example.com"}'},
        {"role": "user", "content": "bye", "unheard_of": {"deep": ["d@example.com"]}},
    ]
    redacted = redactor().redact(messages)
    assert messages[0]["content"][0]["text"] == "I am [EMAIL_1]"
    assert json.loads(messages[1]["tool_calls"][0]["function"]["arguments"]) == {
        "to": "[EMAIL_1]",
        "cards": ["[CARD_1]", 7],
        "n": {"url": "[EMAIL_2]"},
    }
    assert messages[2]["content"] == '{"from": "[EMAIL_3]"}'
    assert messages[3]["unheard_of"] == {"deep": ["[EMAIL_4]"]}
    assert redacted.counts == {"email": 4, "card": 1}


@pytest.mark.parametrize("arguments", ["a@example.com", "[" * 300 + '"a@example.com"', "{"])
def test_arguments_that_are_no_json_are_a_text(arguments):
    call = {"function": {"name": "f", "arguments": arguments}}
    redactor().redact([{"role": "assistant", "tool_calls": [call]}])
    assert call["function"]["arguments"] == arguments.replace("a@example.com", "[EMAIL_1]")


def test_names_addresses_and_data_are_no_texts():
    image = {"url": "data:image/png;base64,4242424242424242"}
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": image},
                {"type": "input_audio", "input_audio": {"data": "4242424242424242"}},
            ],
        },
        {"role": "tool", "tool_call_id": "4242424242424242", "content": "ok"},
    ]
    before = copy.deepcopy(messages)
    redactor().redact(messages)
    assert messages == before


def test_what_was_put_back_is_not_read_again():
    restorer = Restorer({"[EMAIL_1]": "[EMAIL_2]", "[EMAIL_2]": "x"})
    assert restorer.whole("[EMAIL_1]") == "[EMAIL_2]"


def test_placeholders_that_were_not_given_out_stay():
    assert Restorer({"[IP_1]": "x"}).whole("[IP_2] [IP_10] [IP_1") == "[IP_2] [IP_10] [IP_1"


def answer(part, *texts, **fields):
    return {"choices": [{"index": n, part: {"content": t, **fields}} for n, t in enumerate(texts)]}


def test_every_choice_and_tool_call_of_a_stream_is_a_text_of_its_own():
    restorer = AnswerRestorer({"[EMAIL_1]": "a@x", "[KEY_1]": 'two\n"lines"'})
    out: dict = {}

    def feed(index, finish=None, **delta):
        document = {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}
        restorer.feed(document)
        for key, value in document["choices"][0]["delta"].items():
            if key == "tool_calls":
                for each in value:
                    name = index, each["index"]
                    out[name] = out.get(name, "") + each["function"]["arguments"]
            else:
                out[index, key] = out.get((index, key), "") + value

    def tool(number, arguments):
        return [{"index": number, "function": {"arguments": arguments}}]

    feed(0, content="to [EMA", refusal="[EM")
    feed(1, content="[EMAIL_")
    feed(0, content="IL_1] and [E")
    feed(1, content="1]", tool_calls=tool(0, '{"a": "[KEY'))
    feed(1, tool_calls=tool(1, "[EMAIL_1"))
    feed(1, tool_calls=tool(0, '_1]"}'))
    feed(0, "stop")
    feed(1, "tool_calls")
    assert out == {
        (0, "content"): "to a@x and [E",
        (0, "refusal"): "[EM",
        (1, "content"): "a@x",
        (1, 0): '{"a": "two\\n\\"lines\\""}',
        (1, 1): "[EMAIL_1",
    }


def test_a_whole_answer_is_restored_everywhere():
    call = {"id": "[IP_1]", "function": {"name": "f", "arguments": '{"ip": "[IP_1]"}'}}
    document = answer("message", "[IP_1]", "no", tool_calls=[call])
    AnswerRestorer({"[IP_1]": "10.0.0.1"}).whole(document)
    first, second = (choice["message"] for choice in document["choices"])
    assert (first["content"], second["content"]) == ("10.0.0.1", "no")
    assert call == {"id": "[IP_1]", "function": {"name": "f", "arguments": '{"ip": "10.0.0.1"}'}}


def test_whatever_a_provider_sends_is_let_through():
    restorer = AnswerRestorer({"[IP_1]": "x"})
    for delta in (None, {}, {"tool_calls": 7}, {"tool_calls": ["x", {}, {"function": 1}]}):
        restorer.feed({"choices": [{"delta": delta, "finish_reason": "stop"}]})


def test_deltas_without_a_bracket_are_handed_on():
    assert Restorer({"[IP_1]": "x"}).feed("a") == "a"


VALUES = {"[EMAIL_1]": "ada@example.com", "[EMAIL_12]": "bob@example.com", "[NATIONAL_ID_1]": "1-2"}
PIECES = st.lists(
    st.sampled_from(
        [*VALUES, "[", "]", "[EMAIL_", "_1]", "[X]", "[[", "E", " ", "word", "[EMAIL_3]"]
    )
    | st.text(max_size=5)
)


@given(PIECES, st.data())
@settings(max_examples=500, deadline=None)
def test_a_stream_restores_as_the_whole_does(pieces, data):
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    deltas = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    restorer = Restorer(VALUES)
    out = ""
    for delta in deltas:
        out += restorer.feed(delta)
        assert len(restorer._held) < 22
    assert out + restorer.end() == Restorer(VALUES).whole(text)


WORDS = st.lists(
    st.sampled_from(
        [
            "ada@example.com",
            "203.0.113.9",
            "4242 4242 4242 4242",
            "+1 415 555 2671",
            "DE89370400440532013000",
            "AKIAIOSFODNN7EXAMPLE",
            "[EMAIL_1]",
            "hello",
        ]
    )
    | st.text(max_size=10)
)


@given(WORDS)
@settings(max_examples=300, deadline=None)
def test_what_leaves_comes_back_as_it_was(words):
    text = " ".join(words)
    [message] = messages = user(text)
    redacted = redactor().redact(messages)
    assert Restorer(redacted.restored).whole(message["content"]) == text
