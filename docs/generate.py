"""Write the tables of the documentation from the code: outcomes, settings, metrics.

    python docs/generate.py            write them (`make docs`)
    python docs/generate.py --check    show what would change; exit status 1 if anything would

A page marks where a table belongs:

    <!-- generated: outcomes -->
    …
    <!-- end generated -->

Outcomes come from errors.OUTCOMES, settings from schemas/config.schema.json, and metrics from their
registry and from the /metrics of a server that replays recordings.
"""

import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from errors import OUTCOMES  # noqa: E402
from schemas.settings import SECTIONS, parents, rules_of  # noqa: E402
from schemas.settings import settings as each_setting  # noqa: E402
from telemetry.metrics import Metrics  # noqa: E402

_REGISTRY: Final = Metrics()._registry
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_REGION: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end generated -->)", re.S)


def outcomes() -> str:
    """Every way a call can end."""
    rows = [
        (str(outcome.status), f"`{code}`", "yes" if outcome.retryable else "", outcome.text)
        for code, outcome in sorted(OUTCOMES.items(), key=lambda item: item[1].status)
    ]
    return _table(("status", "code", "retryable", "default text"), rows)


def first_settings() -> str:
    """The settings that most people change, by their variables."""
    rows = [
        (f"`{_variable(section, key, rule)}`", _default(rule), rule["description"])
        for section, key, rule in each_setting()
        if rule.get("common")
    ]
    return _table(("setting", "default", "meaning"), rows)


def _variable(section: str, key: str, rule: Mapping[str, Any]) -> str:
    return str(rule.get("variable") or f"SLUICE_{section}_{key}".upper())


def settings() -> str:
    """Every setting, by section."""
    named = [f"{kind}:name" for kind in parents()]
    return "\n".join(_section(name) for name in (*SECTIONS, *named))


def _section(name: str) -> str:
    rows = [
        (f"`{key}`", _default(rule), _values(rule), rule["description"])
        for key, rule in (rules_of(name) or {}).items()
    ]
    about = SECTIONS.get(name, {}).get("description", "")
    gap = "\n\n" if about else ""
    table = _table(("key", "default", "values", "meaning"), rows)
    return f"### `[{name.replace(':name', ':NAME')}]`\n\n{about}{gap}{table}"


def _default(rule: Mapping[str, Any]) -> str:
    default = rule.get("default")
    if isinstance(default, list):
        default = ", ".join(default)
    if default in (None, ""):
        return ""
    return f"`{json.dumps(default) if isinstance(default, bool) else default}`"


def _values(rule: Mapping[str, Any]) -> str:
    """Which values the setting takes."""
    if rule.get("writeOnly"):
        return "a secret; environment only"
    if "enum" in rule:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    if "expected" in rule:
        return str(rule["expected"])
    if rule["type"] in ("integer", "number"):
        kind = "whole number" if rule["type"] == "integer" else "number"
        least = f"over {rule['exclusiveMinimum']}" if "exclusiveMinimum" in rule else None
        return f"{kind}, {least or rule['minimum']} to {rule['maximum']}"
    return {"boolean": "`true`, `false`", "array": "list, separated by commas"}.get(
        rule["type"], "text"
    )


def metrics() -> str:
    """Every metric of ours that a server with all of its parts serves."""
    page = _scrape()
    kinds = dict(re.findall(r"^# TYPE (sluice_\w+) (\w+)$", page, re.M))
    rows = [
        (f"`{name}`", kinds[name], ", ".join(f"`{each}`" for each in _labels(name, page)), meaning)
        for name, meaning in re.findall(r"^# HELP (sluice_\w+) (.*)$", page, re.M)
    ]
    return _table(("metric", "type", "labels", "meaning"), rows)


def _labels(name: str, page: str) -> Iterable[str]:
    """Those it was declared with; of a reading, those of its first sample."""
    declared = _REGISTRY._names_to_collectors.get(name)
    if declared is not None:
        return getattr(declared, "_labelnames", ())
    sample = re.search(rf"^{name}\{{(.*?)\}} ", page, re.M)
    return re.findall(r'(\w+)="', sample[1]) if sample else ()


def _scrape() -> str:
    """A page on which every reading has a sample."""
    # Nobody is at this address, so that a call finds Redis down.
    with _server(REDIS_URL="redis://127.0.0.1:9/0") as address:
        request = urllib.request.Request(
            f"{address}/api/chat", b'{"userMessage": "Hello"}', {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request).close()
        with urllib.request.urlopen(f"{address}/metrics") as reply:
            page: bytes = reply.read()
            return page.decode()


@contextmanager
def _server(**variables: str) -> Iterator[str]:
    """A server that replays the recordings, with default settings and these; its address."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with tempfile.NamedTemporaryFile(suffix=".ini") as config:
        process = subprocess.Popen(
            [sys.executable, "server.py", "replay", "cassettes", "--config", config.name],
            cwd=ROOT,
            env={**kept, "PORT": "0", "SLUICE_LOG_FORMAT": "json", **variables},
            stdout=subprocess.PIPE,
        )
        assert process.stdout
        try:
            for line in process.stdout:
                if address := json.loads(line).get("sluice.address"):
                    yield address
                    return
            raise SystemExit("docs/generate.py: the server did not start")
        finally:
            process.terminate()
            process.communicate()


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "outcomes": outcomes,
    "first-settings": first_settings,
    "settings": settings,
    "metrics": metrics,
}


def main(arguments: list[str]) -> int:
    """Write the tables, or show what would change; the exit status."""
    changed = False
    for page in PAGES:
        before = page.read_text("utf-8")
        after = _REGION.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], before)
        if after == before:
            continue
        changed = True
        if arguments == ["--check"]:
            lines = (before.splitlines(keepends=True), after.splitlines(keepends=True))
            sys.stdout.writelines(
                difflib.unified_diff(*lines, page.name, f"{page.name}, generated")
            )
        else:
            page.write_text(after, "utf-8")
    return int(changed and arguments == ["--check"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
