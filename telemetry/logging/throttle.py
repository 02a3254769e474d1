"""Warnings that requests cause: each at most once a minute, so that nobody can fill the log."""

import logging
from typing import Final

log: Final = logging.getLogger("sluice.http")

_INTERVAL_S: Final = 60.0


class ThrottledLog:
    """Warnings by their event."""

    def __init__(self) -> None:
        self._silent_until: dict[str, float] = {}

    def warn(self, event: str, fault: str, *, now: float, every_s: float = _INTERVAL_S) -> None:
        """Write a warning, unless this event was written less than `every_s` ago.

        Args:
            event: one of our own words, for each is remembered.
            fault: what is wrong, and the setting that changes it.
            now: seconds on a monotonic clock.
            every_s: seconds; infinity for once.
        """
        if now >= self._silent_until.get(event, now):
            self._silent_until[event] = now + every_s
            log.warning(event, extra={"fault": fault})
