"""Which settings are in force, and where does each come from?

schemas/config.schema.json ──generate──► config.ini, sections.py
config.ini, environment ──reader──► loader ──► Config
"""

from config.sections import (
    AuditConfig,
    AuthConfig,
    BrowserConfig,
    ChatConfig,
    CircuitConfig,
    IdempotencyConfig,
    LimitConfig,
    OpenAIConfig,
    ProviderConfig,
    RedactionConfig,
    ReplayConfig,
    RetryConfig,
    StoreConfig,
)
from config.settings import Config, ModelConfig
from config.target import Target

__all__ = [
    "AuditConfig",
    "AuthConfig",
    "BrowserConfig",
    "ChatConfig",
    "CircuitConfig",
    "Config",
    "IdempotencyConfig",
    "LimitConfig",
    "ModelConfig",
    "OpenAIConfig",
    "ProviderConfig",
    "RedactionConfig",
    "ReplayConfig",
    "RetryConfig",
    "StoreConfig",
    "Target",
]
