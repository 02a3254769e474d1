"""Personal data is found, what only looks so is not, and no text makes it slow."""

import random
from itertools import pairwise

import pytest
from pii_report import KINDS, LEAST, corpus, measure

from guards.redaction import card_phone_iban as numbers
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
