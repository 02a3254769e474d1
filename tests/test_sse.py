"""Server-Sent Events, decoded at every byte boundary."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.sse import Event, LineTooLong, SSEDecoder

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n\r\n"
    b'data: {"text": "Gr\xc3\xbc\xc3\x9fe \xf0\x9f\xa6\x86"}\r\n\r\n'
    b"event: error\rdata:one\rdata: two\r\r"
    b"id: 7\nretry: 10\ndata\ndata:  spaced\n\n"
    b"event: lost\n\n"
    b"data: [DONE]\n\n"
    b"data: cut off"
)
EVENTS = [
    Event(b"", '{"text": "Grüße 🦆"}'.encode()),
    Event(b"error", b"one\ntwo"),
    Event(b"", b"\n spaced"),
    Event(b"", b"[DONE]"),
]


def decoded(*chunks: bytes, max_line_bytes: int = 1_000) -> list[Event]:
    decoder = SSEDecoder(max_line_bytes)
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def test_whole_stream():
    assert decoded(STREAM) == EVENTS


def test_every_single_split():
    for at in range(len(STREAM) + 1):
        assert decoded(STREAM[:at], STREAM[at:]) == EVENTS, at


def test_byte_by_byte():
    assert decoded(*(bytes([byte]) for byte in STREAM)) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_any_splits(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in pairwise(edges)]
    assert decoded(*chunks) == EVENTS


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_split_of_anything_changes_nothing(stream, cut):
    assert decoded(stream[:cut], stream[cut:]) == decoded(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_is_there_with_its_blank_line(end):
    decoder = SSEDecoder(100)
    assert decoder.feed(b"data: a" + end) == []
    assert decoder.feed(end) == [Event(b"", b"a")]


def test_a_byte_order_mark_counts_only_at_the_start():
    assert decoded(b"data: a\n\n\xef\xbb\xbfdata: b\n\n") == [Event(b"", b"a")]


def test_the_longest_line_is_accepted_and_a_longer_one_is_not():
    line = b"data: " + b"x" * 94
    assert decoded(line + b"\n\n", max_line_bytes=100) == [Event(b"", b"x" * 94)]
    with pytest.raises(LineTooLong):
        decoded(line + b"x\n\n", max_line_bytes=100)


def test_a_long_line_is_refused_before_it_ends():
    decoder = SSEDecoder(10_000_000)
    piece = b"x" * 65_536
    for _ in range(10_000_000 // len(piece)):
        assert decoder.feed(piece) == []
    with pytest.raises(LineTooLong):
        decoder.feed(piece)


def test_many_short_lines_cannot_make_a_long_event():
    with pytest.raises(LineTooLong):
        decoded(b"data: 0123456789\n" * 10, max_line_bytes=100)


def test_the_limit_is_for_each_event():
    assert len(decoded(b"data: 0123456789\n\n" * 50, max_line_bytes=100)) == 50
