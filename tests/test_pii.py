"""Personal data is found, what only looks so is not, and no text makes it slow."""

import random
from itertools import pairwise

import pytest
from pii_report import KINDS, LEAST, corpus, measure

from guards import numbers
from guards.pii import find

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
