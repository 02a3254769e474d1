"""Generated files: config.ini and config/sections.py from the list of settings, error.code.json
from the list of outcomes.

    python -m schemas.generate        writes all (make config)

A test compares them with what this module would write.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from errors import OUTCOMES
from schemas import SCHEMAS
from schemas.settings import SECTIONS, Rule, rules_of, settings

_ROOT: Final = SCHEMAS.parent
_WIDTH: Final = 99
_TYPES: Final = {"boolean": "bool", "integer": "int", "number": "float", "string": "str"}

_INI_HEAD: Final = """\
# Sluice's settings. A line that is commented out shows the default: remove its # to change it.
#
# Most people change no more than these, which come first in their sections:
{common}
#
# In the environment SLUICE_<SECTION>_<KEY> overrides any line, like SLUICE_CHAT_MODEL=gpt-4o.
# Secrets belong there (or in .env), never in this file.
# `python server.py config` prints the settings in force, `check` what would go wrong with them.
# SIGHUP reads this file again; the log names what needs a restart.
"""
_SECTIONS_HEAD: Final = '''\
"""A dataclass for each section of the settings. Generated: run `make config`.

Meaning, default and bounds of each are in `schemas/config.schema.json`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from config.target import Target
'''


def generated() -> dict[Path, str]:
    """The text of each generated file."""
    return {
        _ROOT / "config.ini": "\n".join(_ini()),
        _ROOT / "config/sections.py": "\n".join(_sections()),
        SCHEMAS / "error.code.json": _error_codes(),
    }


# config.ini


def _ini() -> Iterator[str]:
    common = [f"[{section}] {key}" for section, key, rule in settings() if rule.get("common")]
    yield _INI_HEAD.format(common="\n".join(_comment(", ".join(common))))
    for section, body in SECTIONS.items():
        yield f"[{section}]"
        yield from _comment(body.get("description", ""))
        for key, rule in body["properties"].items():
            yield from _ini_setting(section, key, rule)
        yield ""
    yield from _comment(
        "Further providers and models have sections of their own. A key that such a section does "
        "not set has the value of [provider] or [chat]. An example:"
    )
    yield "#"
    for section, values in _EXAMPLES.items():
        yield from _ini_example(section, values)


def _ini_setting(section: str, key: str, rule: Rule) -> Iterator[str]:
    yield from _comment(rule["description"])
    if "enum" in rule and "description" not in SECTIONS[section]:
        yield from _comment("One of: " + ", ".join(rule["enum"]))
    if not rule.get("writeOnly"):
        yield f"#{key} = {_ini_value(rule['default'])}".rstrip()


def _ini_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, list) else str(value)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False)]


_EXAMPLES: Final[Mapping[str, Mapping[str, str]]] = {
    "provider:groq": {
        "base_url": "https://api.groq.com/openai/v1",
        "api_key_variable": "GROQ_API_KEY",
    },
    "model:fast": {
        "upstream": "groq/llama-3.1-8b-instant, default/gpt-4o-mini",
        "callers": "mobile-app",
    },
}


def _ini_example(section: str, values: Mapping[str, str]) -> Iterator[str]:
    rules = rules_of(section) or {}
    yield f"#[{section}]"
    for key, value in values.items():
        yield from _comment(rules[key]["description"])
        yield f"#{key} = {value}"
    yield from _comment("Also: " + ", ".join(key for key in rules if key not in values))
    yield "#"


# config/sections.py


def _sections() -> Iterator[str]:
    yield _SECTIONS_HEAD
    classes = {_class_name(name, body): body["properties"] for name, body in SECTIONS.items()}
    classes["ProviderConfig"] = {**(rules_of("provider:any") or {}), **classes["ProviderConfig"]}
    classes["ModelSection"] = rules_of("model:any") or {}
    for name, rules in classes.items():
        yield f"\n@dataclass(frozen=True, slots=True)\nclass {name}:"
        yield from (f"    {key}: {_annotation(rule)}" for key, rule in rules.items())
        yield ""
    yield '\n@dataclass(frozen=True, slots=True)\nclass Sections:\n    """All of them."""\n'
    yield from (f"    {name}: {_class_name(name, body)}" for name, body in SECTIONS.items())
    yield ""


def _class_name(section: str, body: Mapping[str, Any]) -> str:
    name: str = body.get("class", section.title().replace("_", "") + "Config")
    return name


def _annotation(rule: Rule) -> str:
    if "enum" in rule:
        kind = f"Literal[{', '.join(map(json.dumps, rule['enum']))}]"
    elif rule["type"] == "array":
        kind = f"tuple[{'Target' if rule.get('format') == 'target' else 'str'}, ...]"
    else:
        kind = "Path" if rule.get("format") == "path" else _TYPES[rule["type"]]
    return f"{kind} = field(repr=False)" if rule.get("writeOnly") else kind


# schemas/error.code.json


def _error_codes() -> str:
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "error.code.json",
        "title": "What an error of /api may be, see docs/api.md",
        # A client that has gone receives nothing.
        "enum": [code for code in OUTCOMES if code not in ("completed", "client_gone")],
    }
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
