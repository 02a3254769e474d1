"""`GET /metrics`: the server's numbers for Prometheus.

Rules of this module:

- What the other rooms know of themselves is read here, at the moment it is asked for; they
  keep no metrics.
- Who may ask is the rule of [metrics] in config.ini. A token is compared in constant time.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from prometheus_client import Metric
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)

from calls.services import Services
from errors import CallError
from guards.auth.operator_token import is_operator
from guards.redaction.checks import failures
from handlers.base import BaseHandler
from store.redis import Store
from telemetry.logging import setup as logs

_CIRCUIT_STATES: Final = ("closed", "half_open", "open")


class MetricsHandler(BaseHandler):
    """Prometheus's text, or OpenMetrics where the request asks for that."""

    route = "/metrics"

    async def get(self) -> None:
        self._check_token()
        accept = self.request.headers.get("Accept", "")
        # Every label there may be, of twenty models, takes 50 ms: not of the event loop's time.
        page, content_type = await asyncio.to_thread(
            self.services.metrics.page, accept, list(readings(self.services))
        )
        self.set_header("Content-Type", content_type)
        self.write(page)
        with suppress(CallError):  # it has left; there is nobody to tell
            await self.finish_or_abort()

    def _check_token(self) -> None:
        token = self.config.metrics.token
        if token and not is_operator(self.request.headers.get("Authorization"), token):
            raise CallError("unauthenticated")

    def on_finish(self) -> None:
        self.log_reply(logging.DEBUG if self.get_status() == 200 else logging.INFO)


def readings(services: Services) -> Iterator[Metric]:
    """How the server stands now."""
    admission, retry = services.admission, services.router.retry
    build = {"version": services.version, "provider": services.mode}
    yield InfoMetricFamily("sluice_build", "What is running.", build)
    for name, meaning, value in (
        ("calls_in_flight", "Calls accepted and not yet ended.", admission.in_flight),
        ("calls_in_flight_limit", "[server] max_in_flight.", services.config.server.max_in_flight),
        ("retry_budget_left", "Calls more that may go into retries.", retry.budget_left),
    ):
        yield GaugeMetricFamily(f"sluice_{name}", meaning, value)
    yield CounterMetricFamily(
        "sluice_retries_denied", "Retries that the budget did not allow.", retry.denied
    )
    circuits = GaugeMetricFamily(
        "sluice_circuit_state", "1 for the state it is in.", labels=["provider", "state"]
    )
    for provider, circuit in services.router.circuits.items():
        for state in _CIRCUIT_STATES:
            circuits.add_metric([provider, state], circuit.state == state)
    yield circuits
    yield CounterMetricFamily(
        "sluice_log_lines_dropped", "Log lines for which there was no room.", logs.dropped()
    )
    detectors = CounterMetricFamily(
        "sluice_detector_failures",
        "Checks of personal data that raised; the value was taken by its shape.",
        labels=["kind", "error"],
    )
    for labels, count in failures.copy().items():  # threads may add
        detectors.add_metric(labels, count)
    yield detectors
    if services.gate.store is not None:
        yield from _store(services.gate.store)


def _store(store: Store) -> Iterator[Metric]:
    yield GaugeMetricFamily("sluice_store_up", "Whether Redis answered when last asked.", store.up)
    failures = CounterMetricFamily(
        "sluice_store_failures", "Commands that Redis failed, by reason.", labels=["reason"]
    )
    for reason, count in store.failures.items():
        failures.add_metric([reason], count)
    yield failures
