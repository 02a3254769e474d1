"""The list of settings: config.schema.json, the one place where a setting is written.

JSON Schema's own keywords say type, bounds, default and meaning. Ours say the rest:

    expected     what is allowed, in words, where the pattern is no help to a person
    variable     the environment variable, where it is not SLUICE_<SECTION>_<KEY>
    common       one of the settings that most people change; listed first
    restart      a change takes effect with a restart only, not with a reload
    inherited    may be set in a section [KIND:NAME], too, which else has its parent's value
    inherits     (of a section [KIND:NAME]) its parent
    class        (of a section) the name of its dataclass in config/sections.py
    format       path: a file or folder beside config.ini. target: PROVIDER/MODEL

`writeOnly` marks a secret, which comes from the environment alone and is never shown.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from schemas import load

SCHEMA: Final = load("config.schema.json")
SECTIONS: Final[Mapping[str, Any]] = SCHEMA["properties"]

Rule = Mapping[str, Any]


@cache
def rules_of(section: str) -> Mapping[str, Rule] | None:
    """The rules of a section's keys, or None for a section that cannot be."""
    if section in SECTIONS:
        rules: Mapping[str, Rule] = SECTIONS[section]["properties"]
        return rules
    for pattern, named in SCHEMA["patternProperties"].items():
        if re.fullmatch(pattern, section):
            return {**named["properties"], **_inherited(named["inherits"])}
    return None


def settings() -> Iterator[tuple[str, str, Rule]]:
    """`(section, key, rule)` of every setting, sections [KIND:NAME] apart."""
    for section, body in SECTIONS.items():
        for key, rule in body["properties"].items():
            yield section, key, rule


def parents() -> dict[str, str]:
    """By the kind of a section [KIND:NAME] the section whose values it has where it sets none."""
    kinds = ((pattern, named["inherits"]) for pattern, named in SCHEMA["patternProperties"].items())
    return {pattern.removeprefix("^").partition(":")[0]: parent for pattern, parent in kinds}


def defaults(section: str) -> dict[str, Any]:
    """The keys of a section that have a default."""
    return {
        key: tuple(rule["default"]) if rule["type"] == "array" else rule["default"]
        for key, rule in (rules_of(section) or {}).items()
        if "default" in rule
    }


def _inherited(parent: str) -> dict[str, Rule]:
    return {
        key: {word: value for word, value in rule.items() if word not in ("default", "variable")}
        for key, rule in SECTIONS[parent]["properties"].items()
        if rule.get("inherited")
    }
