"""Metrics: what is counted and timed of the calls, in Prometheus's text.

    settlement ──► Metrics.record ──► counters and histograms ─┐
    event loop ──► watch_loop ──► a histogram of its lag ──────┼──► GET /metrics
    the rest of the server, read when it is asked for ─────────┘    (handlers/metrics.py)

Rules of this module:

- Labels have few values: routes of the route table, models and providers of the configuration,
  our own codes and reasons. Never a caller's name, address, id or words.
- A server has a registry of its own; the library's global one stays unused.
- Buckets are those of OpenTelemetry's GenAI conventions (1.44), and go on to the longest that a
  first token and a stream may take here.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import cache
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from telemetry.call_result import CallFacts, CallResult

_DURATION_S: Final = tuple(0.01 * 2**n for n in range(16))
_FIRST_TOKEN_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20),
)
_OUTPUT_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_LAG_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LOOK_S: Final = 0.1

# When each series began, as a series of its own, would double the page.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counters and histograms of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._calls = self._counter("calls", "Calls ended.", "route", "model", "code", "status")
        self._duration = self._histogram(
            "call_duration_seconds",
            "From the first header to the end, of calls that got an answer or failed.",
            _DURATION_S,
            *("route", "model", "stream"),
        )
        self._first_token = self._histogram(
            "time_to_first_token_seconds",
            "From the first header to a stream's first content, of the same calls.",
            _FIRST_TOKEN_S,
            "model",
        )
        self._output_token = self._histogram(
            "time_per_output_token_seconds",
            "Between the tokens of completed streams.",
            _OUTPUT_TOKEN_S,
            "model",
        )
        self._tokens = self._counter("tokens", "Tokens charged.", "model", "kind", "counted_by")
        self._cost = self._counter("cost_usd", "US dollars, as estimated.", "model")
        self._unpriced = self._counter(
            "unpriced_calls", "Calls charged whose price nobody knows.", "model"
        )
        self._attempts = self._counter(
            "attempts", "Attempts: answered, or why not.", "provider", "outcome"
        )
        self._retries = self._counter("retries", "Attempts after a call's first.", "provider")
        self._dropped = self._counter(
            "connections_dropped",
            "Kept-alive connections to a provider that could not be used again.",
            *("provider", "reason"),
        )
        self._limited = self._counter("limit_refusals", "Calls that a limit refused.", "rule")
        self._redactions = self._counter("redactions", "Values replaced in prompts.", "kind")
        self._lag = self._histogram(
            "event_loop_lag_seconds", "How late the event loop was, ten times a second.", _LAG_S
        )()

    def record(self, result: CallResult) -> None:
        """Count a call that has ended: a sink of the settlement."""
        facts = result.facts
        model = facts.model
        self._calls(facts.route, model, facts.code, str(facts.status)).inc()
        if facts.is_timed:
            self._record_times(facts)
        if facts.counted_by is not None:
            self._tokens(model, "prompt", facts.counted_by).inc(facts.charged_prompt_tokens)
            self._tokens(model, "answer", facts.counted_by).inc(facts.charged_answer_tokens)
            if facts.cost_usd is None:
                self._unpriced(model).inc()
            else:
                self._cost(model).inc(facts.cost_usd)
        for number, attempt in enumerate(facts.timeline):
            self._attempts(attempt.provider, attempt.reason or "answered").inc()
            if number:
                self._retries(attempt.provider).inc()
        if facts.limit is not None:
            self._limited(facts.limit).inc()
        for kind, count in facts.redactions.items():
            self._redactions(kind).inc(count)

    def _record_times(self, facts: CallFacts) -> None:
        stream = "true" if facts.stream else "false"
        self._duration(facts.route, facts.model, stream).observe(facts.latency_s)
        if facts.first_token_s is not None:
            self._first_token(facts.model).observe(facts.first_token_s)
            if facts.code == "completed" and facts.output_tokens > 1:
                pause_s = (facts.latency_s - facts.first_token_s) / (facts.output_tokens - 1)
                self._output_token(facts.model).observe(pause_s)

    def connection_dropped(self, provider: str, reason: str) -> None:
        """Count a kept-alive connection that is not used again, and why."""
        self._dropped(provider, reason).inc()

    async def watch_loop(
        self, *, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        """Measure for ever how much later than asked the event loop wakes us.

        Args:
            clock: seconds on the event loop's clock.
            sleep: coroutine function that waits so many seconds.
        """
        while True:
            due = clock() + _LOOK_S
            await sleep(_LOOK_S)
            self._lag.observe(max(0.0, clock() - due))

    def page(self, accept: str, further: Iterable[Metric]) -> tuple[bytes, str]:
        """All metrics as text, and its content type. May be called in any thread.

        Args:
            accept: the header of the request; OpenMetrics if it asks for that.
            further: what is known elsewhere.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # it asks for a version that is no number
            encode, content_type = choose_encoder("")
        return encode(_Page(self._registry, further)), content_type

    # Finding the series of some labels takes longer than counting in it: each is found once.

    def _counter(self, name: str, meaning: str, *labels: str) -> Callable[..., Counter]:
        return cache(Counter(f"sluice_{name}", meaning, labels, registry=self._registry).labels)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Callable[..., Histogram]:
        made = Histogram(
            f"sluice_{name}", meaning, labels, buckets=buckets, registry=self._registry
        )
        return cache(made.labels) if labels else lambda: made


class _Page(Collector):
    def __init__(self, registry: CollectorRegistry, further: Iterable[Metric]) -> None:
        self._registry = registry
        self._further = further

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()
        yield from self._further
