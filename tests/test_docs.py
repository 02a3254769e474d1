"""The documentation: its examples run, its tables are the code's, and its links lead somewhere.

A block of a page that follows `<!-- run -->` is run against a server that replays the recordings,
and what it prints is compared with the block after it, where that is marked `json` or `text`;
`…` there stands for anything. `<!-- run: SLUICE_X_Y=1 -->` is run against a server with this
setting.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple

import processes
import pytest
from conftest import ROOT

from schemas.settings import SECTIONS, rules_of
from version import VERSION

start = processes.start

PAGES: Final = [
    *(ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))),
    *(ROOT / name / "README.md" for name in ("bench", "cassettes", "ops")),
]
_RUN: Final = re.compile(
    r"^<!-- run(?:: (?P<settings>[^\n]*))? -->\n```(?P<language>\w+)\n(?P<code>.*?)^```\n"
    r"(?:\n?```(?:json|text)\n(?P<printed>.*?)^```\n)?",
    re.M | re.S,
)
_INTERPRETERS: Final = {"sh": ("sh", "-eu"), "python": (sys.executable, "-")}


class Block(NamedTuple):
    """An example that is run."""

    language: str
    code: str
    printed: str | None
    """What it prints; `…` is anything. None: that is not shown."""


def blocks(page: Path) -> dict[str, list[Block]]:
    """The examples of a page that are run, by the settings that they want."""
    found = defaultdict(list)
    for match in _RUN.finditer(page.read_text()):
        found[match["settings"] or ""].append(
            Block(match["language"], match["code"], match["printed"])
        )
    return found


EXAMPLES: Final = [
    pytest.param(settings, examples, id=f"{page.relative_to(ROOT)} {settings}".strip())
    for page in PAGES
    for settings, examples in blocks(page).items()
]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing: examples are NOT run")
@pytest.mark.parametrize(("settings", "examples"), EXAMPLES)
async def test_examples_print_what_they_show(
    start: processes.Start, tmp_path: Path, settings: str, examples: list[Block]
) -> None:
    files = {
        "SLUICE_AUTH_KEYS_FILE": str(tmp_path / "keys.ini"),
        "SLUICE_AUDIT_DESTINATION": str(tmp_path / "audit.jsonl"),
        "SLUICE_AUDIT_SUCCESS_RATE": "1",
    }
    given = files | dict(pair.split("=", 1) for pair in settings.split())
    server = await start("replay", ROOT / "cassettes", **given)
    port = (await server.line("listening"))["address"].rpartition(":")[2]
    for example in examples:
        printed = await asyncio.to_thread(run, example, port, given)
        if example.printed is not None:
            assert re.fullmatch(pattern(example.printed), printed.strip(), re.S), printed


def run(example: Block, port: str, settings: dict[str, str]) -> str:
    """What the example prints, with the server on this port and `python` ours."""
    folder = Path(sys.executable).parent
    variables = processes.environment(**settings)
    done = subprocess.run(
        _INTERPRETERS[example.language],
        input=example.code.replace("localhost:8000", f"127.0.0.1:{port}"),
        env=variables | {"PATH": f"{folder}{os.pathsep}{variables['PATH']}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pattern(printed: str) -> str:
    return ".*".join(map(re.escape, printed.strip().split("…")))


def test_the_readme_is_short_and_runs() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_bytes()) <= 9 * 1024
    assert len(blocks(readme)[""]) >= 2


def test_tables_are_those_of_the_code() -> None:
    """Every outcome, setting and metric is documented, and nothing else is."""
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"run `make docs`:\n{done.stdout}{done.stderr}"
    text = "".join(page.read_text() for page in PAGES)
    for table in ("outcomes", "first-settings", "settings", "metrics"):
        assert text.count(f"<!-- generated: {table} -->") == 1, table


def settings_like(section: str) -> set[str]:
    """The keys of a section, of a named one such as [model:NAME], or of several: [limit_*]."""
    form = section.lower().replace("*", r"\w+")
    found = set(rules_of(form) or ()).union(
        *(rules["properties"] for name, rules in SECTIONS.items() if re.fullmatch(form, name))
    )
    assert found, f"there is no section [{section}]"
    return found


VARIABLES: Final = {
    f"SLUICE_{section}_{key}".upper()
    for section, rules in SECTIONS.items()
    for key in rules["properties"]
} | {f"SLUICE_MODEL_FAST_{key}".upper() for key in settings_like("model:fast")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_in_the_text_exist(page: Path) -> None:
    text = page.read_text()
    for section, key in re.findall(r"`\[([a-z_*]+(?::[\w-]+)?)\](?: ([a-z_]+))?", text):
        keys = settings_like(section)
        assert not key or key in keys, f"[{section}] {key}"
    for variable in re.findall(r"\bSLUICE_[A-Z0-9_]*[A-Z0-9]\b", text):
        assert variable in VARIABLES, variable


def test_metrics_and_outcomes_in_the_text_exist() -> None:
    generated = (ROOT / "docs/operations.md").read_text().split("<!-- generated: metrics -->")[1]
    known = set(re.findall(r"^\| `(sluice_\w+)`", generated, re.M))
    for page in PAGES:
        for name in re.findall(
            r"\bsluice_[a-z_]+_(?:total|seconds|usd|up|state)\b", page.read_text()
        ):
            assert name in known, f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_is_one_version_and_it_is_the_newest_of_the_changelog() -> None:
    released = re.search(
        r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert released
    assert released[1] == VERSION
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
