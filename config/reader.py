"""Raw settings: what config.ini and the environment say, and whether each may say it.

Rules of this module:

- Only what schemas/settings.py lists is a setting.
- Every fault is one line that names the setting, where it was set, and what is allowed. A
  secret's value, and an address that may hold one, is never shown.
"""

import configparser
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema

from errors import ConfigError
from schemas.settings import SECTIONS, rules_of, settings

# Environment variables that are not SLUICE_<SECTION>_<KEY>.
ALIASES: Final = {
    rule["variable"]: (section, key) for section, key, rule in settings() if "variable" in rule
}


def from_file(path: Path) -> dict[str, list[tuple[str, str, str]]]:
    """What the file says: by section `(key, value, where it stands)`."""
    # Values are taken literally: no interpolation, no default section.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(path.read_text("utf-8-sig"), source=path.name)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except configparser.Error as error:
        raise ConfigError(f"{path}: {_syntax_fault(error)}") from None
    settings: dict[str, list[tuple[str, str, str]]] = {}
    for section in parser.sections():
        rules = rules_of(section)
        if rules is None:
            known = [*SECTIONS, "provider:NAME", "model:NAME"]
            raise ConfigError(
                f"{path.name}: unknown section [{section}]" + _suggest(section, known)
            )
        settings[section] = []
        for key, raw in parser.items(section):
            if key not in rules:
                raise ConfigError(
                    f"{path.name}: unknown key {key} in [{section}]" + _suggest(key, list(rules))
                )
            if rules[key].get("writeOnly"):
                raise ConfigError(
                    f"{path.name}: [{section}] {key} is a secret: remove it from the file "
                    f"and set {rules[key]['variable']} in the environment"
                )
            settings[section].append((key, raw, f"{path.name}: [{section}] {key}"))
    return settings


def _syntax_fault(error: configparser.Error) -> str:
    """What is wrong and on which line, without the line's content."""
    lineno = getattr(error, "lineno", None)
    if isinstance(error, configparser.DuplicateOptionError):
        return f"line {lineno}: key {error.option} appears twice in [{error.section}]"
    if isinstance(error, configparser.DuplicateSectionError):
        return f"line {lineno}: section [{error.section}] appears twice"
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {lineno}: a key stands before the first [section]"
    if isinstance(error, configparser.ParsingError) and error.errors:
        return f"line {error.errors[0][0]}: is neither a [section] nor key = value"
    return "is not a valid ini file"


def from_environ(
    environ: Mapping[str, str], sections: Iterable[str]
) -> Iterator[tuple[str, str, str, str]]:
    """What the environment says of these sections."""
    names = {
        re.sub(r"\W", "_", f"SLUICE_{section}_{key}", flags=re.ASCII).upper(): (section, key)
        for section in sections
        for key, rule in (rules_of(section) or {}).items()
        if not rule.get("writeOnly")
    }
    for name in environ:
        if name.startswith("SLUICE_") and name not in names and name not in ALIASES:
            raise ConfigError(f"{name}: unknown variable" + _suggest(name, list(names)))
    # The platform's names come last, so that they win.
    for name, (section, key) in (*names.items(), *ALIASES.items()):
        if environ.get(name, "").strip():
            yield section, key, environ[name], name


def _suggest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def parse(section: str, key: str, raw: str, source: str) -> Any:
    rule = (rules_of(section) or {})[key]
    value: Any = raw.strip()
    if rule["type"] == "boolean":
        value = configparser.ConfigParser.BOOLEAN_STATES.get(value.lower())
    elif rule["type"] == "array":
        value = [word.strip() for word in value.split(",") if word.strip()]
    elif rule["type"] in ("integer", "number"):
        try:
            value = int(value) if rule["type"] == "integer" else float(value)
        except ValueError:
            value = None
        if value is not None and not math.isfinite(value):
            value = None
    if not jsonschema.Draft202012Validator(rule).is_valid(value):
        # A key is secret, and an address may hold a password.
        shown = "" if rule.get("writeOnly") or "pattern" in rule else f" = {raw.strip()!r}"
        raise ConfigError(f"{source}{shown}: must be {_allowed(rule)}")
    return tuple(value) if isinstance(value, list) else value


def _allowed(rule: Mapping[str, Any]) -> str:
    """The rule in words."""
    if "enum" in rule:
        return "one of " + ", ".join(rule["enum"])
    if rule["type"] == "boolean":
        return "true or false"
    if "expected" in rule:
        return str(rule["expected"])
    if rule["type"] == "string":
        return f"text of {rule.get('minLength', 0)} to {rule.get('maxLength', 'any')} characters"
    kind = "a whole number" if rule["type"] == "integer" else "a number"
    least = f"over {rule['exclusiveMinimum']}" if "exclusiveMinimum" in rule else None
    return f"{kind} {least or 'from ' + str(rule['minimum'])} to {rule['maximum']}"
