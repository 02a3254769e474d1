"""Numbers of cards, bank accounts and telephones in a text.

Sources: ISO/IEC 7812 (issuers and Luhn's digit), ISO 13616 by python-stdnum, libphonenumber.
A telephone number's check is a slow one: it is made a hundred times for a text.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import phonenumbers
from stdnum import iban, luhn

from guards.redaction.checks import Span, bounded

_CARD: Final = re.compile(
    r"(?<![\w.-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|"
    r"3\d{3}([ -])\d{6}\2\d{4,5})(?![\w-]|\.\d)",
    re.A,
)
# Issuer's first digits, and how long its numbers are.
_ISSUERS: Final = tuple(
    (re.compile(prefix), lengths)
    for prefix, lengths in (
        (r"4", (13, 16, 19)),  # Visa
        (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),  # Mastercard
        (r"3[47]", (15,)),  # American Express
        (r"6011|64[4-9]|65", (16, 19)),  # Discover
        (r"3(?:0[0-5]|[689])", (14, 16, 19)),  # Diners Club
        (r"35(?:2[89]|[3-8])", (16, 17, 18, 19)),  # JCB
        (r"62|81", (16, 17, 18, 19)),  # UnionPay
        (r"50[1-9]|5[6-9]|6[0-9]", (16, 18, 19)),  # Maestro
    )
)
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")
_PHONE: Final = re.compile(r"(?<![\w+.-])(?:\+|00 ?)[1-9](?:[ ()./-]{0,3}\d){6,14}(?!\w)", re.A)
_NANP: Final = re.compile(
    r"(?<![\w+./-])(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}(?![\w-]|\.\d)",
    re.A,
)
# Elsewhere a national number begins with 0, and is seldom written in one piece.
_NATIONAL: Final = re.compile(
    r"(?<![\w+./-])(?:\(0\d{1,5}\)|0\d{1,5})(?:[ ./-]{1,3}\d{2,8}){1,5}(?![\w-])",
    re.A,
)
_NANP_REGIONS: Final = ("US", "CA")
_LEAST_IBAN: Final = 15
_MOST_PHONES: Final = 100


def matches(pattern: re.Pattern[str], text: str, windows: list[Span]) -> Iterator[re.Match[str]]:
    """All matches within the windows; what stands before them is seen, too."""
    for start, end in windows:
        yield from pattern.finditer(text, start, end)


def cards(text: str, windows: list[Span]) -> Iterator[Span]:
    is_card = bounded("card", _is_card)
    for window in windows:
        yield from _cards(text, *window, is_card)


def _cards(text: str, at: int, end: int, is_card: Callable[[str], bool]) -> Iterator[Span]:
    while match := _CARD.search(text, at, end):
        digits = match[0].replace(" ", "").replace("-", "")
        if is_card(digits):
            yield match.span()
            at = match.end()
        else:  # what follows the first group may be one
            at = match.start() + (5 if len(digits) < len(match[0]) else len(digits))


def _is_card(digits: str) -> bool:
    return luhn.is_valid(digits) and any(
        len(digits) in lengths and prefix.match(digits) for prefix, lengths in _ISSUERS
    )


def ibans(text: str, windows: list[Span]) -> Iterator[Span]:
    # Without the national banks' registers: they lag behind.
    is_iban = bounded("iban", partial(iban.is_valid, check_country=False))

    def check(number: str) -> bool:
        compact = number.replace(" ", "")
        return len(compact) >= _LEAST_IBAN and is_iban(compact)

    yield from _grouped(_IBAN, text, windows, check)


def phones(text: str, windows: list[Span], region: str) -> Iterator[Span]:
    """International numbers, and national ones of `region` where they are written in groups."""
    is_phone = bounded("phone", _is_phone, _MOST_PHONES)
    yield from _grouped(_PHONE, text, windows, lambda number: is_phone(f"+{number.lstrip('+0 ')}"))
    if region:
        national = _NANP if region in _NANP_REGIONS else _NATIONAL
        is_national = bounded("phone", partial(_is_phone, region=region), _MOST_PHONES)
        yield from _grouped(national, text, windows, is_national)


def _grouped(
    pattern: re.Pattern[str], text: str, windows: list[Span], check: Callable[[str], bool]
) -> Iterator[Span]:
    """Numbers in groups; what follows one, or the first group of what is none, may be the next."""
    for at, end in windows:
        while match := pattern.search(text, at, end):
            number = match[0]
            length = next((each for each in _ends(number) if check(number[:each])), 0)
            if length:
                yield match.start(), match.start() + length
            at = match.start() + (length or max(number.find(" "), 0) or len(number))


def _ends(number: str) -> Iterator[int]:
    """The whole, then without the last groups: words or another number may follow it."""
    end = len(number)
    for _ in range(4):
        if end > 0:
            yield end
        end = number.rfind(" ", 0, end)


def _is_phone(number: str, region: str | None = None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False
