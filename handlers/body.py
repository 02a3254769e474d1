"""A JSON body, read strictly and held against its schema.

Rules of this module:

- What one parser would read differently from another is refused: duplicate keys, NaN,
  infinities, numbers out of range, lone surrogates, a byte order mark, anything but UTF-8.
- A fault is a place and a rule, both known beforehand. The caller's values never come back:
  they may be someone's prompt. Only the name of an unknown field does, cut and printable.
- Reading takes time by the byte and by the value, never more: how many values a body has is
  counted before it is parsed, and only its first fault is described.
- Schemas are compiled once, at import; jsonschema-rs holds a body against them in microseconds.
"""

import json
import math
from typing import Any, Final

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind as Kind

from errors import CallError
from json_tree import exceeds_depth
from schemas import load

MAX_VALUES: Final = 16_384
"""Objects, lists, strings, numbers and literals that a body may have. A thousand messages with
a tool call each have 9,000."""
_MAX_LEVELS: Final = 32
_MAX_DIGITS: Final = 20
_MAX_NAME: Final = 64


class Schema:
    """The rules of `schemas/<name>`.

    Args:
        unknown: what the caller of an unknown field is advised.
    """

    def __init__(self, name: str, unknown: str = "") -> None:
        rules = load(name)
        self.keys: frozenset[str] = frozenset(rules["properties"])
        self._unknown = unknown or f"known are {', '.join(rules['properties'])}"
        self._validate = jsonschema_rs.Draft202012Validator(rules).validate

    def check(self, document: object) -> None:
        """
        Raises:
            CallError: `invalid_request`, with the place and the rule of the first fault.
        """
        try:
            self._validate(document)
        except jsonschema_rs.ValidationError as fault:
            refusal = _described(fault, self._unknown)
        else:
            return
        raise refusal  # outside of the handler: the library's error quotes the document


def parse(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        CallError: `invalid_request`.
    """
    document = _strict_json(body)
    if not isinstance(document, dict):
        raise invalid("The body must be a JSON object")
    return document


def invalid(text: str, param: str | None = None) -> CallError:
    """The refusal of a request, which may name the field at fault."""
    return CallError("invalid_request", text=text, param=param)


def _strict_json(body: bytes) -> object:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid("The body must be UTF-8") from None
    if not text.strip():
        raise invalid("The body must not be empty")
    if _has_too_many_values(text):
        raise invalid(f"The body must have at most {MAX_VALUES} values")
    try:
        document = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_bounded,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
        if "\\u" in text:  # only an escape can smuggle in half a surrogate pair
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise invalid(f"The body is not valid JSON: {place}") from None
    except UnicodeEncodeError:
        raise invalid("The body must not contain lone surrogates") from None
    except RecursionError:
        raise invalid("The body is nested too deeply") from None
    if text.count("[") + text.count("{") > _MAX_LEVELS and exceeds_depth(document, _MAX_LEVELS):
        raise invalid("The body is nested too deeply")
    return document


def _has_too_many_values(text: str) -> bool:
    """Whether this JSON has more than `MAX_VALUES` values. Each but the first follows one of
    three characters, which are counted outside of strings only where they are too many: without
    its escapes a text splits at the quotes into what stands outside and inside by turns."""
    if _most_values(text) <= MAX_VALUES:
        return False
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    if unescaped.count('"') > 4 * MAX_VALUES:  # a value is at most a string, and has a name
        return True
    return _most_values("".join(unescaped.split('"')[::2])) > MAX_VALUES


def _most_values(text: str) -> int:
    return 1 + text.count(",") + text.count("[") + text.count("{")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise invalid("The body must not repeat a key")
    return document


def _bounded(digits: str) -> int:
    # Longer ones are not read: that takes time by the square of their length.
    if len(digits) <= _MAX_DIGITS and -(2**63) <= (value := int(digits)) < 2**64:
        return value
    raise invalid("The body has a number that is out of range")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise invalid("The body has a number that is out of range")
    return value


def _refuse_constant(name: str) -> float:
    raise invalid("The body must not contain NaN or Infinity")


def _described(fault: jsonschema_rs.ValidationError, unknown: str) -> CallError:
    """The schema's objection in words of our own."""
    place = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault.instance_path
    ).removeprefix(".")
    match fault.kind:
        case Kind.Required(missing):
            where = f"{place}.{missing}".removeprefix(".")
            return invalid(
                _USER_MESSAGE if where == "userMessage" else f"{where} is required", where
            )
        case Kind.Type() | Kind.Pattern() if place == "userMessage":
            return invalid(_USER_MESSAGE, place)
        case Kind.AdditionalProperties([first, *_]):
            name = _printable(first)
            known = "" if place else f"; {unknown}"
            where = f"{place}.{name}".removeprefix(".")
            return invalid(f'{place or "The body"} has an unknown field "{name}"{known}', where)
        case kind:
            return invalid(f"{place} must {_rule_in_words(kind)}", place)


def _printable(name: str) -> str:
    """A field's name as the caller wrote it, as far as it can be shown."""
    shown = "".join(each if each.isprintable() else "?" for each in name[: _MAX_NAME + 1])
    return shown if len(shown) <= _MAX_NAME else f"{shown[: _MAX_NAME - 1]}…"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


_USER_MESSAGE: Final = "userMessage must be a non-empty string"


def _rule_in_words(kind: Any) -> str:
    match kind:
        case Kind.Type(types):
            return "be " + " or ".join(f"{'an' if t[0] in 'aio' else 'a'} {t}" for t in types)
        case Kind.Enum(options):
            return "be one of " + ", ".join(map(_json, options))
        case Kind.Minimum(limit):
            return f"be at least {_json(limit)}"
        case Kind.Maximum(limit):
            return f"be at most {_json(limit)}"
        case Kind.MinItems(limit):
            return f"have at least {limit} item{'s' if limit > 1 else ''}"
        case Kind.MaxItems(limit):
            return f"have at most {limit} items"
        case Kind.MaxProperties(limit):
            return f"have at most {limit} fields"
        case Kind.Pattern():
            return "not be blank"
        case Kind.Not():
            return "not contain NUL characters"
        case _:
            return f"satisfy the rule {kind.name}"
