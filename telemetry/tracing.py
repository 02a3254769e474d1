"""Whether calls are traced: OpenTelemetry's own variables say so, and its packages are an extra."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from errors import ConfigError

if TYPE_CHECKING:
    from telemetry.traces import Traces

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def tracing(environment: Mapping[str, str]) -> "type[Traces] | None":
    """What makes traces, or None where they are not asked for: then nothing is imported.

    Raises:
        ConfigError: they are asked for, and cannot be made.
    """
    name = next((name for name in _ENDPOINTS if environment.get(name, "").strip()), None)
    if name is None or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if not environment[name].strip().startswith(("http://", "https://")):
        raise ConfigError(f"{name}: must be an address like http://localhost:4318")
    for protocol in _PROTOCOLS:
        if environment.get(protocol, "http/protobuf") != "http/protobuf":
            raise ConfigError(f"{protocol}: must be http/protobuf, or not set")
    try:
        from telemetry.traces import Traces
    except ModuleNotFoundError:
        told = "wants packages that are not installed: pip install -r requirements-otel.txt"
        raise ConfigError(f"{name} {told}") from None
    return Traces
