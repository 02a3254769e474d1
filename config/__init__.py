"""Which settings are in force, and where does each come from?

schemas/config.schema.json ──generate──► config.ini, sections.py
config.ini, environment ──reader──► loader ──► Config
"""

from config.sections import (
    AuditConfig,
    AuthConfig,
    CircuitConfig,
    IdempotencyConfig,
    LimitConfig,
    ProviderConfig,
    RedactionConfig,
    RetryConfig,
    StoreConfig,
)
from config.settings import Config, ModelConfig
from config.target import Target

__all__ = [
    "AuditConfig",
    "AuthConfig",
    "CircuitConfig",
    "Config",
    "IdempotencyConfig",
    "LimitConfig",
    "ModelConfig",
    "ProviderConfig",
    "RedactionConfig",
    "RetryConfig",
    "StoreConfig",
    "Target",
]
