"""Settings: every one of them, frozen; `config_loader.load` makes them.

`schemas/config.schema.json` is the list of settings, with their types, defaults, bounds and
meaning. The dataclasses below give them names a type checker knows; a test holds schema,
dataclasses and config.ini together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

AuthMode = Literal["none", "public", "keys", "jwt"]


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
    mode: AuthMode
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
    system_messages: str
    max_tokens: int
    max_tokens_limit: int
    max_prompt_tokens: int
    input_usd_per_million: float
    output_usd_per_million: float


@dataclass(frozen=True, slots=True)
class OpenAIConfig:
    routes: str
    system_messages: str
    system_prompt: bool
    max_tokens_reserved: int
    max_tokens_policy: str
    extra_fields: tuple[str, ...]


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
    stream_usage: bool
    connect_s: float
    first_token_s: float
    idle_s: float
    attempt_s: float
    deadline_s: float
    stream_s: float
    max_response_bytes: int
    max_line_bytes: int
    max_stream_bytes: int
    api_key_variable: str = "OPENAI_API_KEY"
    """Where the key comes from."""


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
    format: str


@dataclass(frozen=True, slots=True)
class AuditConfig:
    destination: str
    """Empty, `stdout`, or a file's path."""
    success_rate: float
    failure_rate: float
    max_bytes: int
    files: int
    content: str

    @property
    def keeps_content(self) -> bool:
        """Whether requests may agree that their words are kept."""
        return bool(self.destination) and self.content == "consent"


@dataclass(frozen=True, slots=True)
class OpsConfig:
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    token: str = field(repr=False)
    port: int


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    cassettes: Path
    chunk_interval_s: float


# What gpt-4o-mini can: a request to it for more would be refused.
_MOST_REQUESTED_TOKENS: Final = 16_384


class Target(NamedTuple):
    """Where a model is asked."""

    provider: str
    model: str
    """Its name there."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model that requests may name; from [model:NAME], and [chat] for the rest."""

    upstream: tuple[Target, ...]
    max_tokens: int
    max_tokens_limit: int
    """No answer is longer; 0: as the model allows."""
    max_prompt_tokens: int
    input_usd_per_million: float
    output_usd_per_million: float
    callers: tuple[str, ...]
    """Who may ask it; empty: all."""

    @property
    def most_requested_tokens(self) -> int:
        """The longest answer, in tokens, that a request may ask for."""
        return self.max_tokens_limit or max(_MOST_REQUESTED_TOKENS, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting, by section. Immutable; made by `load`."""

    server: ServerConfig
    auth: AuthConfig
    browser: BrowserConfig
    chat: ChatConfig
    openai: OpenAIConfig
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
    audit: AuditConfig
    ops: OpsConfig
    metrics: MetricsConfig
    replay: ReplayConfig
    providers: Mapping[str, ProviderConfig]
    """By name; [provider] is `default`."""
    models: Mapping[str, ModelConfig]
    """By the name that requests give; the first is the default."""

    @property
    def replays(self) -> bool:
        """Whether there is no provider to ask, but only recordings."""
        return not any(provider.api_key for provider in self.providers.values())

    @property
    def openai_routes(self) -> bool:
        """Whether /v1 is there, after the rule of [openai] routes."""
        routes = self.openai.routes
        return routes == "on" or (routes == "auto" and self.auth.mode != "public")

    @property
    def ops_open(self) -> bool:
        """Whether /ops asks for no token: none is set, and only this machine gets here."""
        return not self.ops.token and self._of_this_machine

    @property
    def ops_routes(self) -> bool:
        """Whether /ops is there, after the rule of [ops]."""
        return bool(self.ops.token) or self.ops_open

    @property
    def metrics_route(self) -> bool:
        """Whether /metrics is on the main port, after the rule of [metrics] port."""
        return not self.metrics.port and (bool(self.metrics.token) or self._of_this_machine)

    @property
    def _of_this_machine(self) -> bool:
        """Whether only this machine gets here, and through no router."""
        return self.auth.mode == "none" and not self.server.trusted_hops

    @property
    def host(self) -> str:
        """The address to listen on, after the rule of [server] host."""
        return self.server.host or ("127.0.0.1" if self.auth.mode == "none" else "")
