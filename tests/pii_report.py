"""Precision and recall of redaction on tests/pii_corpus.txt.

    python tests/pii_report.py        prints them, and each miss; exit 1 below 0.97

A value counts as found only with its exact ends and its kind.
"""

import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from guards.redaction.detect import find

KINDS = ("email", "phone", "card", "iban", "national_id", "ip", "api_key", "private_key")
LEAST = 0.97
_MARK = re.compile("«([a-z_]+)\\|(.*?)»", re.S)

Labelled = tuple[str, set[tuple[str, int, int]]]


def corpus() -> list[Labelled]:
    """Each text with `(kind, start, end)` of what must be found in it."""
    lines = (Path(__file__).parent / "pii_corpus.txt").read_text("utf-8").splitlines()
    return [_labelled(line) for line in lines if line and not line.startswith("# ")]


def _labelled(line: str) -> Labelled:
    line = line.replace("\\n", "\n")
    text, marks, read = "", set(), 0
    for mark in _MARK.finditer(line):
        text += line[read : mark.start()]
        marks.add((mark[1], len(text), len(text) + len(mark[2])))
        text += mark[2]
        read = mark.end()
    return text + line[read:], marks


def measure(texts: list[Labelled]) -> tuple[Counter[str], Counter[str], Counter[str], list[str]]:
    """Right, wrong and missed by kind, and a line for each of the last two."""
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    faults = []
    for text, expected in texts:
        found = {(each.kind, each.start, each.end) for each in find(text, KINDS, "US")}
        right.update(kind for kind, _, _ in found & expected)
        wrong.update(kind for kind, _, _ in found - expected)
        missed.update(kind for kind, _, _ in expected - found)
        for word, spans in (("wrong", found - expected), ("missed", expected - found)):
            faults += [f"{word} {kind}: {text[a:b]!r} in {text!r}" for kind, a, b in spans]
    return right, wrong, missed, faults


def main() -> int:
    texts = corpus()
    right, wrong, missed, faults = measure(texts)
    print(f"{len(texts)} texts, {sum(bool(marks) for _, marks in texts)} of them with values\n")
    print(f"{'':12} {'values':>6} {'precision':>10} {'recall':>7}")
    for kind in KINDS:
        _row(kind, right[kind], wrong[kind], missed[kind])
    precision, recall = _row("all", right.total(), wrong.total(), missed.total())
    print("", *faults, sep="\n")
    return int(min(precision, recall) < LEAST)


def _row(name: str, right: int, wrong: int, missed: int) -> tuple[float, float]:
    precision, recall = right / max(1, right + wrong), right / max(1, right + missed)
    print(f"{name:12} {right + missed:6} {precision:10.3f} {recall:7.3f}")
    return precision, recall


if __name__ == "__main__":
    sys.exit(main())
