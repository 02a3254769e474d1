"""Personal data is found, what only looks so is not, and no text makes it slow."""

import logging
import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pii_report import KINDS, LEAST, corpus, measure

from guards.redaction import card_phone_iban as numbers
from guards.redaction import checks, national_ids
from guards.redaction.detect import find

TEXTS = corpus()


def test_the_corpus_is_large_and_half_of_it_is_hard():
    assert len(TEXTS) >= 200
    assert sum(not marks for _, marks in TEXTS) >= len(TEXTS) * 0.4


def test_precision_and_recall():
    right, wrong, missed, faults = measure(TEXTS)
    assert right.total() / (right.total() + wrong.total()) >= LEAST, faults
    assert right.total() / (right.total() + missed.total()) >= LEAST, faults
    assert all(right[kind] for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_not_asked_for_is_not_looked_for(kind):
    others = [each for each in KINDS if each != kind]
    assert not any(found.kind == kind for text, _ in TEXTS for found in find(text, others, "US"))


def test_found_values_do_not_overlap_and_are_in_order():
    text = " ".join(text for text, _ in TEXTS)
    found = find(text, KINDS, "US")
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert len(found) > 100


def test_national_numbers_are_those_of_the_configured_country():
    text = "030 901820 or (415) 555-2671"
    assert [text[a:b] for a, b, _ in find(text, ["phone"], "US")] == ["(415) 555-2671"]
    assert [text[a:b] for a, b, _ in find(text, ["phone"], "DE")] == ["030 901820"]
    assert find(text, ["phone"], "") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("メールはada@example.comです", "ada@example.com"),
        ("邮箱ada@example.cn是我的", "ada@example.cn"),
        ("to='ada@example.cn'", "ada@example.cn"),
        ("地址是203.0.113.9吗", "203.0.113.9"),
        ("서버는 203.0.113.9에서", "203.0.113.9"),
        ("卡号4242424242424242到期", "4242424242424242"),
        ("電話は+81 3-3224-9999です", "+81 3-3224-9999"),
        ("身份证11010519491231002X吗", "11010519491231002X"),
    ],
)
def test_values_are_found_where_no_space_stands(text, value):
    assert [text[a:b] for a, b, _ in find(text, KINDS)] == [value]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("peer ::ffff:203.0.113.9 left", "::ffff:203.0.113.9"),
        ("2001:db8::1: no route", "2001:db8::1"),
        ("2001:db8:: is a net", "2001:db8::"),
    ],
)
def test_an_address_is_found_to_its_end_and_no_further(text, value):
    assert [text[a:b] for a, b, _ in find(text, ["ip"])] == [value]


def test_a_secret_key_is_found_in_what_amazon_answers():
    text = '"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"'
    assert [text[a:b] for a, b, _ in find(text, ["api_key"])] == [text[20:60]]


@pytest.mark.parametrize("text", ["Firefox/115.0.2.1", "§ 3.2.1.4", "pkg@1.0.0.tgz"])
def test_versions_are_no_addresses(text):
    assert find(text, KINDS) == []


def test_each_of_two_accounts_in_a_row_is_found():
    accounts = ["GB29NWBK60161331926819", "DE89 3704 0044 0532 0130 00"]
    text = " ".join(accounts)
    assert [text[a:b] for a, b, _ in find(text, ["iban"])] == accounts


@pytest.mark.parametrize(("text", "count"), [("SIN 130692544", 1), ("since 130692544", 0)])
def test_a_short_name_of_a_number_must_be_a_word(text, count):
    assert len(find(text, ["national_id"])) == count


def numbered(shape: str, count: int) -> str:
    rng = random.Random(1)
    return "".join(shape.format(rng.randrange(10**4, 10**5)) for _ in range(count))


def test_costly_checks_are_bounded_and_then_the_shape_is_enough(monkeypatch):
    made = []
    monkeypatch.setattr(numbers, "_is_phone", lambda number, region=None: made.append(number))
    found = find(numbered("+141555{} ", 5000), ["phone"])
    assert len(made) == 100
    assert len(found) == 4900


def test_a_chinese_id_needs_no_county_that_the_library_knows():
    # python-stdnum raises KeyError for both; nobody was born in the year 8761.
    assert find("What is order 528666876112297156?", KINDS) == []
    text = "身份证636277197612291238吗"
    assert [text[a:b] for a, b, _ in find(text, KINDS)] == ["636277197612291238"]


def test_a_check_that_raises_takes_the_value_by_its_shape(monkeypatch, caplog):
    def fail(number):
        raise LookupError(number)

    monkeypatch.setattr(numbers, "_is_card", fail)
    monkeypatch.setattr(checks, "failures", checks.Counter())
    text = "4242424242424241 and 4242424242424243"
    with caplog.at_level(logging.ERROR, "sluice.redaction"):
        assert [text[a:b] for a, b, _ in find(text, KINDS)] == text.split(" and ")
    assert checks.failures == {("card", "LookupError"): 2}
    [line] = caplog.records
    assert (line.msg, line.check, line.error_type) == ("detector_failed", "card", "LookupError")
    assert "4242" not in f"{line.__dict__}"


def test_a_detector_that_raises_costs_what_the_others_find_nothing(monkeypatch):
    monkeypatch.setattr(numbers, "_CARD", None)
    monkeypatch.setattr(checks, "failures", checks.Counter())
    text = "4242424242424242 ada@example.com +14155552671"
    assert [kind for _, _, kind in find(text, KINDS)] == ["email", "phone"]
    assert checks.failures == {("card", "AttributeError"): 1}


FORMS = [*national_ids._FORMS.values(), *(form for form, _ in national_ids._NAMED.values())]
NAMES = [name for _, names in national_ids._NAMED.values() for name in names]
PIECES = (
    st.text("0123456789", min_size=4, max_size=24)
    | st.text("0123456789ABXZ -./()+:", max_size=40)
    | st.text("abc09.@:-_ üé١２²Ⅷ", max_size=20)
    | st.text(max_size=20)
    | st.sampled_from([*NAMES, "sk-", "eyJ", "@", "+49 ", "GB29", "-----BEGIN PRIVATE KEY-----"])
    | st.one_of([st.from_regex(re.compile(form, re.A), fullmatch=True) for form in FORMS])
)


@given(st.lists(PIECES, max_size=6), st.sampled_from([" ", "", "\n"]), st.sampled_from(["", "US"]))
@settings(max_examples=1500, deadline=None)
@pytest.mark.slow
def test_no_text_makes_a_detector_raise(pieces, between, region):
    before = checks.failures.copy()
    find(between.join(pieces), KINDS, region)
    assert checks.failures == before


HOSTILE = {
    "ats": "a@" * 50_000,
    "digits": "1" * 100_000,
    "spaced digits": "4 " * 50_000,
    "cards": "4444 " * 20_000,
    "dots": "1.1.1." * 16_000,
    "colons": "::" * 50_000,
    "labels": "b@" + "a." * 50_000,
    "keys": "sk-" * 33_000,
    "tokens": "eyJ" * 33_000,
    "accounts": "GB29NWBK60161331" * 6_000,
    "blocks": "-----BEGIN PRIVATE KEY-----" * 4_000,
    "names": "ssn nhs sin bsn cpf pesel tfn aadhaar " + "123456789 " * 10_000,
    "brackets": "[EMAIL_" * 14_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_come_to_an_end(text):
    # A pattern that goes wrong takes minutes for these, and the run's own limit ends it.
    for each in find(text, KINDS, "US"):
        assert each.end <= len(text)


def test_a_private_key_without_an_end_hides_all_that_follows():
    text = "x -----BEGIN PRIVATE KEY-----\nAAAA\nBBBB"
    assert find(text, KINDS) == [(2, len(text), "private_key")]
