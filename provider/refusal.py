"""What a provider's error means: its status, types and codes in, one `Kind` out.

    OpenAI      {"error": {"message", "type", "param", "code"}}
    Gemini      [{"error": {"code", "status", "message", "details": [{"reason"}]}}]
    Azure       {"error": {"code", "innererror": {"code"}}}
    OpenRouter  {"error": {"code", "message", "metadata": {"reasons", "flagged_input"}}}
    xAI         {"code": text, "error": text}
    Mistral     {"object": "error", "message", "type", "param", "code"}
    FastAPI     {"detail": text} or {"detail": [{"type", "loc", "msg"}]}
    MiniMax     {"base_resp": {"status_code", "status_msg"}}

Rules of this module:

- A code decides before the status does: the same fault comes with a 400, a 401, a 403 or a 429.
- Words decide only where a provider has no code for the fault. They are compared from their
  beginning on, because further back they may quote a prompt, and only for a 4xx.
- Nothing of the provider's text leaves this module; a field's name does if it is one of ours.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from provider.refusal_codes import CODES, PHRASES, Kind

# "Not now" rather than "not you": timeouts, conflicts, a generation that failed, too early, too
# many, Groq's flex tier without capacity, a proxy whose client left.
TRANSIENT_4XX: Final = frozenset((408, 409, 424, 425, 429, 498, 499))

_NAMES_A_FIELD: Final = re.compile(
    r"(?:unknown name|unknown parameter:|unsupported parameter:|unrecognized request argument\w* "
    r"supplied:|invalid json payload received\. unknown name) [\"'`]?([a-z_]+)",
    re.IGNORECASE,
)
_FIELDS: Final = frozenset(
    json.loads((Path(__file__).parent.parent / "schemas/openai.chat.request.json").read_bytes())[
        "properties"
    ]
)
# The conversation itself: a fault in it is the prompt's.
_PROMPT_FIELDS: Final = frozenset(("messages",))

_CODE_KEYS: Final = frozenset(
    ("code", "type", "status", "reason", "error_code", "errorcode", "status_code")
)
_TEXT_KEYS: Final = frozenset(("message", "error", "detail", "msg", "status_msg"))
_MAX_NODES: Final = 200
_TEXT_CHARS: Final = 400


@dataclass(frozen=True, slots=True)
class ProviderError:
    """An error, whatever its shape."""

    codes: frozenset[str]
    """Its types and codes in lower case; compared, never shown."""
    texts: tuple[str, ...]
    """How its messages begin; compared, never shown."""
    param: str | None = None
    """The field at fault, if chat completions have one of that name."""
    flagged: bool = False
    """Whether it says what a moderation flagged."""


def from_body(body: bytes) -> object:
    """The JSON of an error's body; None for anything else, such as a proxy's HTML."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def error_in(document: object) -> object:
    """The error object in a body with status 200; None if it is no error."""
    if isinstance(document, list):
        document = document[0] if document else None
    if not isinstance(document, dict):
        return None
    base = document.get("base_resp")
    if isinstance(base, dict) and base.get("status_code"):
        return base
    error = document.get("error")
    if isinstance(error, str) and error:
        return document  # xAI's code stands beside it
    if error or "choices" in document:
        return error or None
    return document if document.get("object") == "error" or document.get("detail") else None


def read_error(document: object) -> ProviderError:
    """What can be compared of an error in any of the shapes above."""
    codes: set[str] = set()
    texts: list[str] = [document[:_TEXT_CHARS]] if isinstance(document, str) else []
    param: str | None = None
    flagged = False
    for key, value in _fields(document):
        if key in _CODE_KEYS and isinstance(value, str | int):
            codes.add(str(value).lower())
        if key in _TEXT_KEYS and isinstance(value, str):
            texts.append(value[:_TEXT_CHARS])
        if key == "param" and isinstance(value, str):
            param = param or _known_field(value)
        elif key == "loc" and isinstance(value, list):
            param = param or _known_field(next((each for each in value if each != "body"), ""))
        elif key in ("flagged_input", "reasons"):
            flagged = flagged or bool(value)
    for text in texts:
        if param is None and (match := _NAMES_A_FIELD.match(text)):
            param = _known_field(match[1])
    return ProviderError(frozenset(codes), tuple(texts), param, flagged)


def kind_of(status: int, error: ProviderError) -> Kind | None:
    """What an error with this status means; None where the status alone decides."""
    for kind, codes in CODES.items():
        if not error.codes.isdisjoint(codes):
            return kind
    if error.flagged or status == 451:
        return "moderation"
    if not 400 <= status < 500:
        return None
    for kind, pattern in PHRASES.items():
        if status in TRANSIENT_4XX and kind != "no_credit":
            continue  # "too many tokens" is a rate limit's word, too
        if any(pattern.match(text) for text in error.texts):
            return kind
    return _by_status(status, error)


def _by_status(status: int, error: ProviderError) -> Kind | None:
    match status:
        case 401:
            return "wrong_key"
        case 402:
            return "no_credit"
        case 403:
            return "no_permission"
        case 405:
            return "wrong_url"
        case 404 if error.param == "model" or any("model" in text for text in error.texts):
            return "unknown_model"
        case 404 if not error.texts:
            return "wrong_url"  # a web server's page, or nothing
        case 400 | 422 if error.param == "model":
            return "unknown_model"
        case 400 | 422 if error.param and error.param not in _PROMPT_FIELDS:
            return "refused_parameter"
        case 400 | 413 | 422:
            return "refused"
    return None


def _fields(document: object) -> Iterator[tuple[str, Any]]:
    """The fields of a document, outer ones first; of a huge one the first."""
    left = [document]
    for _ in range(_MAX_NODES):
        if not left:
            return
        node = left.pop(0)
        if isinstance(node, list):
            left.extend(node[:_MAX_NODES])
        elif isinstance(node, dict):
            for key, value in list(node.items())[:_MAX_NODES]:
                yield key.lower(), value
                if isinstance(value, dict | list):
                    left.append(value)


def _known_field(path: object) -> str | None:
    """The field in which a path begins, such as `tools[0].name` or `body.tools`."""
    head = re.match(r"(?:body\.)?([a-z_]+)", path) if isinstance(path, str) else None
    return head[1] if head and head[1] in _FIELDS else None
