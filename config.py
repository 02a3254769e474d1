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

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from config_reader import SCHEMA, defaults, from_environ, from_file, parse
from errors import ConfigError

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
    trusted_hops: int
    platform_timeout_s: float


@dataclass(frozen=True, slots=True)
class AuthConfig:
    mode: str
    keys_file: Path
    jwt_algorithm: str
    jwt_secret: str = field(repr=False)
    jwt_jwks: str
    jwt_issuer: str
    jwt_audience: str
    jwt_leeway_s: float
    jwt_single_use: bool


@dataclass(frozen=True, slots=True)
class BrowserConfig:
    xsrf: bool
    allowed_origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChatConfig:
    model: str
    models: tuple[str, ...]
    system_prompt: str
    max_tokens: int
    max_tokens_limit: int
    max_prompt_tokens: int
    input_usd_per_million: float
    output_usd_per_million: float


@dataclass(frozen=True, slots=True)
class LimitConfig:
    """The same five limits for one caller, for one address and for all; 0 is no limit."""

    requests_per_minute: int
    tokens_per_minute: int
    tokens_per_day: int
    usd_per_day: float
    in_flight: int


@dataclass(frozen=True, slots=True)
class RedactionConfig:
    """A mode for each kind of value: redact, restore, block or off."""

    email: str
    phone: str
    card: str
    iban: str
    national_id: str
    ip: str
    api_key: str
    private_key: str
    phone_region: str


@dataclass(frozen=True, slots=True)
class IdempotencyConfig:
    max_entries: int
    max_reply_bytes: int
    keep_s: float


@dataclass(frozen=True, slots=True)
class StoreConfig:
    redis_url: str = field(repr=False)
    timeout_s: float
    on_failure: str
    prefix: str


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
    browser: BrowserConfig
    chat: ChatConfig
    limit_caller: LimitConfig
    limit_ip: LimitConfig
    limit_total: LimitConfig
    redaction: RedactionConfig
    idempotency: IdempotencyConfig
    store: StoreConfig
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
    values = {section: defaults(section) for section in SCHEMA["properties"]}
    for section, key, raw, source in (*from_file(path), *from_environ(environ)):
        values[section][key] = parse(section, key, raw, source)
    _check_chains(values)
    for section, key in (("replay", "cassettes"), ("auth", "keys_file")):
        values[section][key] = path.parent / values[section][key]
    config = Config(**{f.name: f.type(**values[f.name]) for f in fields(Config)})  # type: ignore[operator]
    _check_exposure(config, on_platform="DYNO" in environ)
    if "DYNO" in environ:
        _check_routers(config)
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
            elif isinstance(value, bool):
                value = str(value).lower()
            yield section, key, str(value)


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
            "set SLUICE_AUTH_MODE=keys or jwt, or SLUICE_AUTH_MODE=public to let everyone in"
        )


def _check_routers(config: Config) -> None:
    """Behind a router that is not named, everybody has its address, and one limit."""
    if not config.server.trusted_hops and any(asdict(config.limit_ip).values()):
        raise ConfigError(
            "[server] trusted_hops = 0: on this platform all clients come through a router; "
            "set SLUICE_SERVER_TRUSTED_HOPS=1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
