"""Keys and tokens in a text, by the shapes that their issuers have published.

Each shape has a literal part that is looked for first, at the speed of C; only where that is
found is the pattern tried. No pattern can begin inside a run that it could have begun earlier
in, so that a long run is read once.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Final

from guards.redaction.checks import Span

_RUN: Final = r"(?<![A-Za-z0-9_-])"
_SHAPES: Final = tuple(
    (literal, re.compile(_RUN + pattern + r"(?![A-Za-z0-9])"))
    for literal, pattern in (
        ("sk-", r"sk-(?:(?:proj|svcacct|admin|ant|or)-[A-Za-z0-9_-]{20,250}|[A-Za-z0-9]{32,64})"),
        ("AKIA", r"AKIA[A-Z0-9]{16}"),
        ("ASIA", r"ASIA[A-Z0-9]{16}"),
        ("gh", r"gh[pousr]_[A-Za-z0-9]{36,255}"),
        ("github_pat_", r"github_pat_[A-Za-z0-9_]{22,255}"),
        ("glpat-", r"glpat-[A-Za-z0-9_-]{20,64}"),
        ("xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,250}"),
        ("xapp-", r"xapp-[A-Za-z0-9-]{10,250}"),
        ("hooks.slack.com", r"https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,100}"),
        ("AIza", r"AIza[A-Za-z0-9_-]{35}"),
        ("GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{28}"),
        ("_live_", r"[sr]k_live_[A-Za-z0-9]{16,250}"),
        ("_test_", r"[sr]k_test_[A-Za-z0-9]{16,250}"),
        ("whsec_", r"whsec_[A-Za-z0-9]{24,64}"),
        ("npm_", r"npm_[A-Za-z0-9]{36}"),
        ("hf_", r"hf_[A-Za-z0-9]{30,40}"),
        ("SG.", r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}"),
        ("sluice_", r"sluice_[A-Za-z0-9_-]{43}"),
    )
)
_JWT: Final = re.compile(_RUN + r"(eyJ[A-Za-z0-9_-]{8,})\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]*")
# It has no shape of its own, so its name must stand before it.
_AWS_SECRET: Final = re.compile(
    r"(?:aws_?secret_?|secret_?access_?)(?:access_?)?key[^A-Za-z0-9/+]{1,8}"
    r"([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    re.I,
)
_PEM: Final = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END: Final = "-----END"


def api_keys(text: str) -> Iterator[Span]:
    """Keys of the great providers, and signed tokens."""
    for literal, pattern in _SHAPES:
        if literal in text:
            for match in pattern.finditer(text):
                yield match.span()
    if "eyJ" in text:
        for match in _JWT.finditer(text):
            if _is_jwt_header(match[1]):
                yield match.span()
    if "ecret" in text or "ECRET" in text:
        for match in _AWS_SECRET.finditer(text):
            yield match.span(1)


def private_keys(text: str) -> Iterator[Span]:
    """PEM blocks. One without an end goes on to the end of the text."""
    at = 0
    while (at := text.find("-----BEGIN", at)) >= 0:
        match = _PEM.match(text, at)
        if match is None:
            at += 1
            continue
        end = text.find(_PEM_END, match.end())
        end = len(text) if end < 0 else text.find("-----", end + len(_PEM_END)) + 5
        end = len(text) if end < match.end() else end
        yield at, end
        at = end


def _is_jwt_header(part: str) -> bool:
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header
