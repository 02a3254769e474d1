"""Whether calls are traced: OpenTelemetry's own variables say so, and its packages are an extra."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from errors import ConfigError

if TYPE_CHECKING:
    from telemetry.tracing.spans import Traces

# Of each pair the first wins; what is blank is not set.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")


def tracing(environment: Mapping[str, str]) -> "type[Traces] | None":
    """What makes traces, or None where they are not asked for: then nothing is imported.

    Raises:
        ConfigError: they are asked for, and cannot be made.
    """
    name, endpoint = _first(_ENDPOINTS, environment)
    if (
        not endpoint
        or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    ):
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"{name}: must be an address like http://localhost:4318")
    protocol_name, protocol = _first(_PROTOCOLS, environment)
    if protocol not in ("", "http/protobuf"):
        raise ConfigError(f"{protocol_name}: must be http/protobuf, or not set")
    timeout_name, timeout = _first(_TIMEOUTS, environment)
    try:
        float(timeout or "1")  # the SDK would take another, and say so where nobody reads it
    except ValueError:
        raise ConfigError(f"{timeout_name}: must be a number of seconds") from None
    try:
        from telemetry.tracing.spans import Traces
    except ModuleNotFoundError:
        told = "wants packages that are not installed: pip install -r requirements-otel.txt"
        raise ConfigError(f"{name} {told}") from None
    except ValueError as fault:  # the SDK reads some of its numbers when it is loaded
        raise ConfigError(f"OTEL_… variables: {fault}") from None
    return Traces


def _first(names: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, str]:
    """The first of them that is set, and its value; the last, and nothing."""
    for name in names:
        if value := environment.get(name, "").strip():
            return name, value
    return names[-1], ""
