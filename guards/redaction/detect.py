"""Personal data in a text: where, and of which kind.

Rules of this module, and of numbers.py, national_ids.py and secrets.py, which do the looking:

- A shape is only a candidate. What has a check digit, a register or a grammar is held against
  it; what has too weak a one needs a word before it that says what it is. So versions, dates,
  order numbers, ISBNs and hashes stay.
- An ordinary text costs a few searches at the speed of C: most detectors run only where there
  are digits enough.
- Linear: a pattern begins only where a run begins, repeats are bounded, and no two parts of it
  can take the same characters.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

from guards.redaction.card_phone_iban import cards, ibans, phones
from guards.redaction.checks import Span, bounded, unfailing
from guards.redaction.credentials import api_keys, private_keys
from guards.redaction.national_ids import national_ids


class Found(NamedTuple):
    """One value in a text."""

    start: int
    end: int
    kind: str


# What any number of a person is made of, and how many digits the shortest has.
_RUN: Final = re.compile(r"[0-9A-Z+(][0-9A-Z ()+./-]{5,}")
_SIX_DIGITS: Final = re.compile(r"[0-9](?:[^0-9]{0,3}[0-9]){5}")
# A window shows what follows the run, so that a number's end can be told.
_AFTER: Final = 2
# Letters of scripts that set spaces between words; next to others a value may stand without one.
_SPACED: Final = r"A-Za-z0-9_\u00c0-\u0dff\u1e00-\u1fff"
_EMAIL: Final = re.compile(
    rf"(?<![{_SPACED}.%+-])([{_SPACED}.%+-][{_SPACED}.%+'-]{{0,63}})@"
    r"((?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
    rf"(xn--[a-z0-9-]{{2,59}}|[A-Za-z]{{2,24}}|[^\W\d_a-zA-Z]{{2,24}}))(?![{_SPACED}@-]|\.\w)"
)
_NO_TLD: Final = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "json", "tar", "gz", "tgz")
)
_DOTTED: Final = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_IPV4: Final = re.compile(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\w)", re.A)
_COLONS: Final = re.compile(r":[0-9A-Fa-f]{0,4}:")
# It may end in an IPv4 address, and a colon that ends a clause is not part of it.
_IPV6: Final = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f:]{2,38}(?:[0-9A-Fa-f](?:\.\d{1,3}){3}|[0-9A-Fa-f]|(?<=:):)"
    r"(?!\w|:[\w:])",
    re.A,
)
# The last is a product's, as in `Firefox/115.0.2.1`; Java writes `host/203.0.113.9`.
_VERSION: Final = re.compile(
    r"(?i:version|release|build|firmware|driver|§|section|clause|\bver|\bv)[\s:=.]*$|[A-Z][a-z]+/$"
)
_BEFORE: Final = 16


def find(text: str, kinds: Collection[str], phone_region: str = "") -> list[Found]:
    """The values of these kinds, in their order, without overlap."""
    found = [
        (start, rank, Found(start, end, kind))
        for rank, (kind, spans) in enumerate(_detected(text, phone_region))
        if kind in kinds
        for start, end in unfailing(kind, spans)
    ]
    chosen: list[tuple[int, Found]] = []
    for _, rank, each in sorted(found):
        if chosen and each.start < chosen[-1][1].end:
            if rank >= chosen[-1][0]:
                continue
            chosen.pop()
        chosen.append((rank, each))
    return [each for _, each in chosen]


def _detected(text: str, phone_region: str) -> Iterator[tuple[str, Iterable[Span]]]:
    """The spans of each kind, found as they are asked for; the first of two that overlap wins."""
    yield "private_key", private_keys(text)
    yield "api_key", api_keys(text)
    yield "email", _emails(text)
    if any(digit in text for digit in "0123456789"):
        yield "ip", _addresses(text)
        if windows := [
            (run.start(), run.end() + _AFTER)
            for run in _RUN.finditer(text)
            if _SIX_DIGITS.search(text, run.start(), run.end())
        ]:
            yield "iban", ibans(text, windows)
            yield "card", cards(text, windows)
            yield "national_id", national_ids(text, windows)
            yield "phone", phones(text, windows, phone_region)


def _emails(text: str) -> Iterator[Span]:
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        # Pictures for dense screens, and git's way to name a remote, only look so.
        remote = match[1] == "git" and text[match.end() : match.end() + 1] == ":"
        if match[3].lower() not in _NO_TLD and not remote:
            yield match.span()


def _addresses(text: str) -> Iterator[Span]:
    if _DOTTED.search(text):
        is_ipv4 = bounded("ip", _is_ipv4)
        yield from (match.span() for match in _IPV4.finditer(text) if is_ipv4(match))
    if _COLONS.search(text):
        is_ipv6 = bounded("ip", _is_ipv6)
        yield from (match.span() for match in _IPV6.finditer(text) if is_ipv6(match))


def _is_ipv4(match: re.Match[str]) -> bool:
    """Whether it is somebody's, and no version."""
    try:
        address = IPv4Address(match[0])
    except AddressValueError:
        return False
    if address.is_loopback or address.packed[0] in (0, 255):  # this host, all hosts, masks
        return False
    return not _VERSION.search(match.string[max(0, match.start() - _BEFORE) : match.start()])


def _is_ipv6(match: re.Match[str]) -> bool:
    """Whether it is one, and not `std::max` or a time of day."""
    groups = [group for group in match[0].split(":") if group]
    if len(groups) < 2 or not any(c.isdigit() for c in match[0]):
        return False
    if len(groups) == 2 and len(groups[0]) < 4:
        return False
    try:
        return not IPv6Address(match[0]).is_loopback
    except AddressValueError:
        return False
