"""A dataclass for each section of the settings. Generated: run `make config`.

Meaning, default and bounds of each are in `schemas/config.schema.json`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from config.target import Target


@dataclass(frozen=True, slots=True)
class ChatConfig:
    model: str
    system_prompt: str
    max_tokens: int
    models: tuple[str, ...]
    system_messages: Literal["drop", "refuse"]
    max_tokens_limit: int
    max_prompt_tokens: int
    input_usd_per_million: float
    output_usd_per_million: float


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    api_key_variable: str
    organization: str
    project: str
    base_url: str
    max_tokens_field: Literal["auto", "max_tokens", "max_completion_tokens"]
    stream_usage: bool
    connect_s: float
    first_token_s: float
    idle_s: float
    attempt_s: float
    api_key: str = field(repr=False)
    deadline_s: float
    stream_s: float
    max_response_bytes: int
    max_line_bytes: int
    max_stream_bytes: int


@dataclass(frozen=True, slots=True)
class AuthConfig:
    mode: Literal["none", "public", "keys", "jwt"]
    keys_file: Path
    jwt_algorithm: Literal["HS256", "RS256", "ES256"]
    jwt_secret: str = field(repr=False)
    jwt_jwks: str
    jwt_issuer: str
    jwt_audience: str
    jwt_leeway_s: float
    jwt_single_use: bool


@dataclass(frozen=True, slots=True)
class BrowserConfig:
    allowed_origins: tuple[str, ...]
    xsrf: bool


@dataclass(frozen=True, slots=True)
class LimitConfig:
    requests_per_minute: int
    tokens_per_minute: int
    tokens_per_day: int
    usd_per_day: float
    in_flight: int


@dataclass(frozen=True, slots=True)
class ServerConfig:
    trusted_hops: int
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
class OpenAIConfig:
    routes: Literal["auto", "on", "off"]
    system_messages: Literal["allow", "drop", "refuse"]
    system_prompt: bool
    max_tokens_reserved: int
    max_tokens_policy: Literal["clamp", "refuse"]
    extra_fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RedactionConfig:
    email: Literal["redact", "restore", "block", "off"]
    phone: Literal["redact", "restore", "block", "off"]
    card: Literal["redact", "restore", "block", "off"]
    iban: Literal["redact", "restore", "block", "off"]
    national_id: Literal["redact", "restore", "block", "off"]
    ip: Literal["redact", "restore", "block", "off"]
    api_key: Literal["redact", "restore", "block", "off"]
    private_key: Literal["redact", "restore", "block", "off"]
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
    on_failure: Literal["open", "closed"]
    prefix: str


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
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    format: Literal["auto", "json", "text"]


@dataclass(frozen=True, slots=True)
class AuditConfig:
    destination: str
    success_rate: float
    failure_rate: float
    max_bytes: int
    files: int
    content: Literal["never", "consent"]


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


@dataclass(frozen=True, slots=True)
class ModelSection:
    upstream: tuple[Target, ...]
    callers: tuple[str, ...]
    max_tokens: int
    max_tokens_limit: int
    max_prompt_tokens: int
    input_usd_per_million: float
    output_usd_per_million: float


@dataclass(frozen=True, slots=True)
class Sections:
    """All of them."""

    chat: ChatConfig
    provider: ProviderConfig
    auth: AuthConfig
    browser: BrowserConfig
    limit_total: LimitConfig
    limit_caller: LimitConfig
    limit_ip: LimitConfig
    server: ServerConfig
    openai: OpenAIConfig
    redaction: RedactionConfig
    idempotency: IdempotencyConfig
    store: StoreConfig
    retry: RetryConfig
    circuit: CircuitConfig
    log: LogConfig
    audit: AuditConfig
    ops: OpsConfig
    metrics: MetricsConfig
    replay: ReplayConfig
