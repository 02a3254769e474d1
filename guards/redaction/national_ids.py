"""National identity numbers in a text, by python-stdnum's rules for each country.

A number whose form alone says what it is needs no more than its check; one that is only so
many digits needs its name within the forty characters before it.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Final

from stdnum.cn import ric
from stdnum.exceptions import ValidationError

from guards.redaction.card_phone_iban import matches
from guards.redaction.checks import Span, bounded

# By python-stdnum's module. The form alone says what these are.
_FORMS: Final = {
    "us.ssn": r"[0-9]{3}-[0-9]{2}-[0-9]{4}",
    "br.cpf": r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}",
    "es.dni": r"[0-9]{8}-?[A-Z]",
    "es.nie": r"[XYZ]-?[0-9]{7}-?[A-Z]",
    "it.codicefiscale": r"[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z][0-9]{3}[A-Z]",
    "fr.nir": r"[12] [0-9]{2} [0-9]{2} [0-9][0-9AB] [0-9]{3} [0-9]{3} [0-9]{2}"
    r"|[12][0-9]{5}[0-9AB][0-9]{8}",
    "be.nn": r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}",
    "se.personnummer": r"(?:[0-9]{2})?[0-9]{6}[-+][0-9]{4}",
    "fi.hetu": r"[0-9]{6}[-+A][0-9]{3}[0-9A-Y]",
    "ch.ssn": r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}",
    "cn.ric": r"[1-9][0-9]{5}(?:19|20)[0-9]{9}[0-9X]",
    "kr.rrn": r"[0-9]{6}-[0-9]{7}",
    # python-stdnum has no rule for it: HMRC's manual, NIM39110.
    "gb.nino": r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
    r"(?: ?[0-9]{2}){3} ?[A-D]",
}
# These are only digits: what must stand before them.
_NAMED: Final = {
    "us.ssn": (r"[0-9]{3} ?[0-9]{2} ?[0-9]{4}", ("ssn", "social security")),
    "ca.sin": (r"[0-9]{3}([ -])[0-9]{3}\1[0-9]{3}|[0-9]{9}", ("sin", "social insurance")),
    "gb.nhs": (r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", ("nhs",)),
    "br.cpf": (r"[0-9]{11}", ("cpf",)),
    "de.idnr": (r"[0-9]{11}|[0-9]{2}(?: [0-9]{3}){3}", ("steuer", "idnr", "tax id")),
    "nl.bsn": (r"[0-9]{9}|[0-9]{4}\.[0-9]{2}\.[0-9]{3}", ("bsn", "burgerservice")),
    "pl.pesel": (r"[0-9]{11}", ("pesel",)),
    "in_.aadhaar": (r"[0-9]{4} ?[0-9]{4} ?[0-9]{4}", ("aadhaar", "aadhar", "uidai")),
    "au.tfn": (r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", ("tfn", "tax file")),
}
_EDGES: Final = r"(?<![\w.-])(?:{})(?![\w-]|\.[0-9])"
_MODULES: Final = tuple(_FORMS)
_ANY_FORM: Final = re.compile(
    _EDGES.format("|".join(f"({form})" for form in _FORMS.values())), re.A
)


def _whole_if_short(name: str) -> str:
    """An abbreviation must be a word: `sin`, not `since`."""
    return rf"{name}\b" if len(name) <= 4 else name


_BY_NAME: Final = tuple(
    (
        module,
        re.compile(_EDGES.format(form), re.A),
        names,
        re.compile(r"\b(?:{})".format("|".join(map(_whole_if_short, names))), re.I | re.A),
    )
    for module, (form, names) in _NAMED.items()
)
_BEFORE: Final = 40
_LONGEST: Final = 20


def national_ids(text: str, windows: list[Span]) -> Iterator[Span]:
    is_valid = bounded("national_id", _is_valid)
    for match in matches(_ANY_FORM, text, windows):
        if is_valid(f"{_MODULES[(match.lastindex or 1) - 1]} {match[0]}"):
            yield match.span()
    lowered = text.lower()
    for module, form, names, name in _BY_NAME:
        if any(each in lowered for each in names):
            at = 0
            for named in name.finditer(text):
                at, last = max(at, named.end()), named.end() + _BEFORE
                for match in form.finditer(text, at, last + _LONGEST):
                    if match.start() <= last and is_valid(f"{module} {match[0]}"):
                        yield match.span()
                at = last  # what began before it was seen


def _is_valid(named: str) -> bool:
    """Whether MODULE NUMBER is one by the rules of that module."""
    module, _, number = named.partition(" ")
    if module == "gb.nino":
        return True
    if module == "cn.ric":
        return _is_ric(number)
    return bool(import_module(f"stdnum.{module}").is_valid(number.replace(" ", "")))


def _is_ric(number: str) -> bool:
    """By check digit and birth date, without the register of counties: it lags behind, and
    python-stdnum (2.2) raises KeyError for a county that it does not have."""
    try:
        ric.get_birth_date(number)
    except ValidationError:
        return False
    return bool(ric.calc_check_digit(number) == number[-1])
