"""Settings: read from config.ini and the environment, checked once, then frozen.

Rules of this module:

- `schemas/config.schema.json` is the only list of settings, with their types, defaults,
  bounds and meaning. The dataclasses below give them names a type checker knows; a test
  holds schema, dataclasses and config.ini together.
- Later wins: default, config.ini, `SLUICE_<SECTION>_<KEY>`, then the platform's own names
  (`PORT`, `OPENAI_API_KEY`, `OPENAI_BASE_URL`). An empty variable is no variable.
- Every fault is one line that names the setting, where it was set, and what is allowed.
- The environment comes in as an argument; only server.py reads the real one.
"""

import configparser
import difflib
import ipaddress
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import jsonschema

from errors import ConfigError

ROOT: Final = Path(__file__).parent
SCHEMA: Final[dict[str, Any]] = json.loads((ROOT / "schemas/config.schema.json").read_bytes())

_PLATFORM_NAMES: Final = {
    "PORT": ("server", "port"),
    "OPENAI_API_KEY": ("provider", "api_key"),
    "OPENAI_BASE_URL": ("provider", "base_url"),
}

# Each setting may not exceed the next one in its chain.
_CHAINS: Final = (
    (("provider", "connect_s"), ("provider", "first_token_s"), ("provider", "attempt_s")),
    (("provider", "attempt_s"), ("provider", "deadline_s"), ("server", "platform_timeout_s")),
    (("provider", "deadline_s"), ("provider", "stream_s")),
    (("provider", "max_line_bytes"), ("provider", "max_stream_bytes")),
    (("retry", "backoff_s"), ("retry", "backoff_max_s")),
    (("circuit", "open_s"), ("circuit", "open_max_s")),
    (("chat", "max_tokens"), ("chat", "max_tokens_limit")),
)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    host: str
    port: int
    max_body_bytes: int
    body_timeout_s: float
    idle_connection_s: float
    flush_timeout_s: float
    heartbeat_s: float
    max_in_flight: int
    drain_s: float
    platform_timeout_s: float


@dataclass(frozen=True, slots=True)
class AuthConfig:
    mode: str


@dataclass(frozen=True, slots=True)
class ChatConfig:
    model: str
    models: tuple[str, ...]
    system_prompt: str
    max_tokens: int
    max_tokens_limit: int


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    api_key: str = field(repr=False)
    base_url: str
    max_tokens_field: str
    connect_s: float
    first_token_s: float
    idle_s: float
    attempt_s: float
    deadline_s: float
    stream_s: float
    max_response_bytes: int
    max_line_bytes: int
    max_stream_bytes: int


@dataclass(frozen=True, slots=True)
class RetryConfig:
    max_attempts: int
    backoff_s: float
    backoff_max_s: float
    min_attempt_s: float
    budget_ratio: float
    budget_min: int


@dataclass(frozen=True, slots=True)
class CircuitConfig:
    window_s: int
    min_calls: int
    failure_rate: float
    open_s: float
    open_max_s: float


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: str


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    cassettes: Path
    chunk_interval_s: float


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting, by section. Immutable; made by `load`."""

    server: ServerConfig
    auth: AuthConfig
    chat: ChatConfig
    provider: ProviderConfig
    retry: RetryConfig
    circuit: CircuitConfig
    log: LogConfig
    replay: ReplayConfig

    @property
    def host(self) -> str:
        """The address to listen on, after the rule of [server] host."""
        return self.server.host or ("127.0.0.1" if self.auth.mode == "none" else "")


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read `path`, lay the environment over it, and check the whole.

    Raises:
        ConfigError: with one line for the operator.
    """
    values = {section: _defaults(section) for section in SCHEMA["properties"]}
    for section, key, raw, source in (*_from_file(path), *_from_environ(environ)):
        values[section][key] = _parse(section, key, raw, source)
    _check_chains(values)
    replay = values["replay"]
    replay["cassettes"] = path.parent / replay["cassettes"]
    config = Config(**{f.name: f.type(**values[f.name]) for f in fields(Config)})  # type: ignore[operator]
    _check_exposure(config, on_platform="DYNO" in environ)
    default_url = SCHEMA["properties"]["provider"]["properties"]["base_url"]["default"]
    if config.provider.base_url != default_url and not config.provider.api_key:
        # Replaying recorded answers here would be a surprise, and so would a 401.
        raise ConfigError(
            "[provider] base_url is set but OPENAI_API_KEY is not: set it "
            "(any word does for an engine which wants none)"
        )
    return config


def effective(config: Config) -> Iterator[tuple[str, str, str]]:
    """`(section, key, value)` of every setting, secrets masked."""
    for section, rules in SCHEMA["properties"].items():
        for key, rule in rules["properties"].items():
            value = getattr(getattr(config, section), key)
            if rule.get("writeOnly"):
                value = "(set)" if value else "(not set)"
            elif isinstance(value, tuple):
                value = ", ".join(value)
            yield section, key, str(value)


def _defaults(section: str) -> dict[str, Any]:
    rules = SCHEMA["properties"][section]["properties"]
    return {
        key: tuple(rule["default"]) if rule["type"] == "array" else rule["default"]
        for key, rule in rules.items()
    }


def _from_file(path: Path) -> Iterator[tuple[str, str, str, str]]:
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
    for section in parser.sections():
        if section not in SCHEMA["properties"]:
            raise ConfigError(
                f"{path.name}: unknown section [{section}]"
                + _suggest(section, list(SCHEMA["properties"]))
            )
        rules = SCHEMA["properties"][section]["properties"]
        for key, raw in parser.items(section):
            if key not in rules:
                raise ConfigError(
                    f"{path.name}: unknown key {key} in [{section}]" + _suggest(key, list(rules))
                )
            if rules[key].get("writeOnly"):
                raise ConfigError(
                    f"{path.name}: [{section}] {key} is a secret: remove it from the file "
                    "and set OPENAI_API_KEY in the environment"
                )
            yield section, key, raw, f"{path.name}: [{section}] {key}"


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


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    names = {
        f"SLUICE_{section}_{key}".upper(): (section, key)
        for section, rules in SCHEMA["properties"].items()
        for key, rule in rules["properties"].items()
        if not rule.get("writeOnly")
    }
    for name in environ:
        if name.startswith("SLUICE_") and name not in names:
            raise ConfigError(f"{name}: unknown variable" + _suggest(name, list(names)))
    # Platform names come last, so that they win.
    for name, (section, key) in (*names.items(), *_PLATFORM_NAMES.items()):
        if environ.get(name, "").strip():
            yield section, key, environ[name], name


def _suggest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def _parse(section: str, key: str, raw: str, source: str) -> Any:
    rule = SCHEMA["properties"][section]["properties"][key]
    value: Any = raw.strip()
    if rule["type"] == "array":
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
    if "pattern" in rule:
        return "an http or https address without user, query or fragment"
    if rule["type"] == "array":
        return "names of 1 to 200 characters, separated by commas"
    if rule["type"] == "string":
        return f"text of {rule.get('minLength', 0)} to {rule.get('maxLength', 'any')} characters"
    kind = "a whole number" if rule["type"] == "integer" else "a number"
    least = f"over {rule['exclusiveMinimum']}" if "exclusiveMinimum" in rule else None
    return f"{kind} {least or 'from ' + str(rule['minimum'])} to {rule['maximum']}"


def _check_chains(values: Mapping[str, Mapping[str, Any]]) -> None:
    for chain in _CHAINS:
        for (section, key), (next_section, next_key) in pairwise(chain):
            value, limit = values[section][key], values[next_section][next_key]
            if value > limit:
                raise ConfigError(
                    f"[{section}] {key} = {value:g}: must be at most "
                    f"[{next_section}] {next_key} = {limit:g}"
                )


def _check_exposure(config: Config, *, on_platform: bool) -> None:
    if config.auth.mode != "none":
        return
    if on_platform or not _is_loopback(config.host):
        where = "on this platform" if on_platform else f"on {config.host}"
        raise ConfigError(
            f"[auth] mode = none: listens on loopback only, not {where}; "
            "set SLUICE_AUTH_MODE=public to let everyone in"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
