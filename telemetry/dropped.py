"""What becomes known of a kept-alive connection to a provider that is not used again."""

import logging
from typing import Final

from telemetry.metrics import Metrics

log: Final = logging.getLogger("sluice.provider")

# A connection that is closed at rest is how keeping alive ends; whoever writes on one is faulty.
_LEVELS: Final = {
    "closed": logging.DEBUG,
    "stale": logging.INFO,
    "unsolicited_bytes": logging.WARNING,
}


def report_dropped(metrics: Metrics, provider: str, reason: str) -> None:
    """Count and log it; for the reasons see `provider.connections.OnDropped`."""
    metrics.connection_dropped(provider, reason)
    log.log(_LEVELS[reason], "connection_dropped", extra={"provider": provider, "reason": reason})
