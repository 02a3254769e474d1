"""Redaction: out of the prompt, back into the answer, and never anybody else's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import RedactionConfig
from errors import CallError
from guards.redaction import Redactor, Restorer

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
    assert (redacted.messages, redacted.counts, redacted.restorer) == (messages, {}, None)


def test_the_same_value_has_the_same_placeholder_in_all_messages():
    messages = user("a@example.com, b@example.com", "b@example.com a@example.com")
    redacted = redactor().redact(messages)
    assert [each["content"] for each in redacted.messages] == [
        "[EMAIL_1], [EMAIL_2]",
        "[EMAIL_2] [EMAIL_1]",
    ]
    assert redacted.counts == {"email": 2}
    assert messages == user("a@example.com, b@example.com", "b@example.com a@example.com")


def test_only_what_is_in_mode_restore_comes_back():
    redacted = redactor(card="redact").redact(user("a@example.com 4242424242424242"))
    assert redacted.restorer.whole("[EMAIL_1] [CARD_1]") == "a@example.com [CARD_1]"


def test_nothing_to_restore_is_no_restorer():
    assert redactor(card="redact").redact(user("4242424242424242")).restorer is None


def test_off_leaves_the_value():
    redacted = redactor(email="off").redact(user("a@example.com"))
    assert redacted.messages == user("a@example.com")


def test_block_refuses_by_kind_and_not_by_value():
    with pytest.raises(CallError) as caught:
        redactor(card="block", iban="block").redact(
            user("4242424242424242", "a@example.com DE89370400440532013000")
        )
    assert caught.value.code == "prompt_rejected"
    assert caught.value.text == "The prompt holds what may not be sent: card, iban"


def test_a_placeholder_that_the_caller_wrote_is_left_alone():
    redacted = redactor().redact(user("what is [EMAIL_1]? not a@example.com"))
    assert redacted.messages == user("what is [EMAIL_1]? not [EMAIL_2]")
    assert redacted.restorer.whole("[EMAIL_1] [EMAIL_2]") == "[EMAIL_1] a@example.com"


def test_a_placeholder_in_a_later_message_is_left_alone_too():
    redacted = redactor().redact(user("a@example.com", "[EMAIL_1]"))
    assert redacted.messages == user("[EMAIL_2]", "[EMAIL_1]")


def test_what_was_put_back_is_not_read_again():
    restorer = Restorer({"[EMAIL_1]": "[EMAIL_2]", "[EMAIL_2]": "x"})
    assert restorer.whole("[EMAIL_1]") == "[EMAIL_2]"


def test_placeholders_that_were_not_given_out_stay():
    assert Restorer({"[IP_1]": "x"}).whole("[IP_2] [IP_10] [IP_1") == "[IP_2] [IP_10] [IP_1"


def test_deltas_without_a_bracket_are_handed_on_untouched():
    deltas = ["a", "b"]
    assert Restorer({"[IP_1]": "x"}).feed(deltas) is deltas


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
        out += "".join(restorer.feed([delta]))
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
    redacted = redactor().redact(user(text))
    [message] = redacted.messages
    back = redacted.restorer.whole(message["content"]) if redacted.restorer else message["content"]
    assert back == text
