"""A JSON body, read strictly and held against its schema.

Rules of this module:

- What one parser would read differently from another is refused: duplicate keys, NaN,
  infinities, numbers out of range, lone surrogates, a byte order mark, anything but UTF-8.
- A fault is told as a place and a rule, both known beforehand. The caller's words never
  come back: they may be someone's prompt.
- Schemas are compiled once, at import. jsonschema-rs decides, in microseconds; jsonschema is
  asked only what the fault is.
"""

import json
import math
from typing import Any, Final

import jsonschema_rs
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from errors import CallError
from json_tree import is_deeper
from schemas import load

_MAX_LEVELS: Final = 32


class Schema:
    """The rules of `schemas/<name>`."""

    def __init__(self, name: str) -> None:
        rules = load(name)
        self.keys: frozenset[str] = frozenset(rules["properties"])
        self._fits = jsonschema_rs.Draft202012Validator(rules).is_valid
        self._explaining = Draft202012Validator(rules)

    def check(self, document: object) -> None:
        """
        Raises:
            CallError: `invalid_request`, with the place and the rule.
        """
        if not self._fits(document):
            fault = best_match(self._explaining.iter_errors(document))
            raise _told(fault) if fault else invalid("The body does not fit the schema")


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
    except ValueError:  # int() of more digits than Python reads
        raise invalid("The body has a number that is out of range") from None
    if text.count("[") + text.count("{") > _MAX_LEVELS and is_deeper(document, _MAX_LEVELS):
        raise invalid("The body is nested too deeply")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise invalid("The body must not repeat a key")
    return document


def _bounded(digits: str) -> int:
    value = int(digits)
    if not -(2**63) <= value < 2**64:  # nobody could be told of it
        raise invalid("The body has a number that is out of range")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise invalid("The body has a number that is out of range")
    return value


def _refuse_constant(name: str) -> float:
    raise invalid("The body must not contain NaN or Infinity")


def _told(fault: ValidationError) -> CallError:
    """The schema's objection in words of our own."""
    place = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault.absolute_path
    ).removeprefix(".")
    rule: Any = fault.validator
    limit: Any = fault.validator_value
    instance: Any = fault.instance
    schema: Any = fault.schema
    if rule == "required":
        missing = next(key for key in limit if key not in instance)
        where = f"{f'{place}.' if place else ''}{missing}"
        return invalid(_USER_MESSAGE if where == "userMessage" else f"{where} is required", where)
    if place == "userMessage" and rule in ("type", "pattern"):
        return invalid(_USER_MESSAGE, place)
    if rule == "additionalProperties":
        allowed = ", ".join(schema["properties"])
        return invalid(f"{place or 'The body'} has an unknown key; known are {allowed}", place)
    return invalid(f"{place} must {_rule_in_words(rule, limit)}", place)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


_USER_MESSAGE: Final = "userMessage must be a non-empty string"


def _rule_in_words(rule: str, limit: Any) -> str:
    match rule:
        case "type":
            kinds = [limit] if isinstance(limit, str) else limit
            return "be " + " or ".join(
                f"{'an' if kind[0] in 'aio' else 'a'} {kind}" for kind in kinds
            )
        case "enum":
            return "be one of " + ", ".join(map(_json, limit))
        case "minimum":
            return f"be at least {limit}"
        case "maximum":
            return f"be at most {limit}"
        case "minItems":
            return f"have at least {limit} item{'s' if limit > 1 else ''}"
        case "maxItems":
            return f"have at most {limit} items"
        case "pattern":
            return "not be blank"
        case "not":
            return "not contain NUL characters"
        case _:
            return f"satisfy the rule {rule}"
