"""Traces: the spans of a call, made when it is settled and sent by OpenTelemetry's SDK.

    POST /api/chat                       server span
    ├── chat gpt-4o-mini                 client span of the first attempt: what it failed of
    └── chat gpt-4o-mini                 of the second: first token, tokens, finish reasons

Rules of this module:

- It is imported only where OTEL_EXPORTER_OTLP_ENDPOINT is set; the SDK's own variables hold.
- While a call runs there are ids alone (`trace_context`). Spans are built from its facts,
  whose instants are put on the wall clock; batching and sending are the SDK's thread's.
- Attributes are from the same facts as the log line: no words, no keys.

Names: https://opentelemetry.io/docs/specs/semconv/gen-ai/ , and `sluice.` for what is ours. Tokens
are on the attempt that answered, as there, so that nobody adds them up twice; what the call was
charged is on the server span.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from errors import ConfigError
from telemetry.call_result import AttemptFacts, CallFacts, CallResult
from trace_context import Parent, TraceContext, new_span_id, new_trace_id, parent_of

log: Final = logging.getLogger("sluice.traces")

Attributes = dict[str, str | int | float | bool | tuple[str, ...] | None]

_FLUSH_S: Final = 1.0
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_FAILED: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)


class Traces:
    """A sink of the settlement. `close` it when no call is left.

    Args:
        version: of this server.
        wall_clock_ns: nanoseconds since the epoch.

    Raises:
        ConfigError: one of OpenTelemetry's variables cannot be.
    """

    def __init__(self, version: str, *, wall_clock_ns: Callable[[], int] = time.time_ns) -> None:
        own = Resource({"service.name": "sluice", "service.version": version})
        self._resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("sluice", version)
        try:
            # Made for its sampler, which OTEL_TRACES_SAMPLER names.
            self._sampler = TracerProvider(resource=self._resource, shutdown_on_exit=False).sampler
            self._exporter = OTLPSpanExporter()
            self._processor = BatchSpanProcessor(self._exporter)
        except ValueError as fault:
            raise ConfigError(f"OTEL_… variables: {fault}") from None
        self._wall_clock_ns = wall_clock_ns

    def begin(self, traceparent: str, tracestate: str) -> TraceContext:
        """The server's span of a call that arrives with these headers."""
        parent = parent_of(traceparent, tracestate)
        trace_id = parent.trace_id if parent else new_trace_id()
        return TraceContext(trace_id, new_span_id(), parent, self._samples(trace_id, parent))

    def _samples(self, trace_id: str, parent: Parent | None) -> bool:
        context = Context()
        if parent:
            context = set_span_in_context(NonRecordingSpan(_context_of_parent(parent)), context)
        result = self._sampler.should_sample(context, int(trace_id, 16), "call", SpanKind.SERVER)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def __call__(self, result: CallResult) -> None:
        trace = result.call.trace
        if trace is None or not trace.sampled:
            return
        started_ns = self._wall_clock_ns() - int(result.facts.latency_s * 1e9)
        spans = _SpansOfCall(result.facts, trace, started_ns, self._resource, self._scope)
        for span in spans.all():
            self._processor.on_end(span)

    def close(self) -> None:
        """Send what is waiting, in a second or not at all: the SDK would wait for thirty."""
        flush = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
        flush.start()
        flush.join(_FLUSH_S)
        if flush.is_alive():
            log.warning("traces_dropped")


class _SpansOfCall:
    """
    Args:
        started_ns: nanoseconds from the epoch to the call's start.
    """

    def __init__(
        self,
        facts: CallFacts,
        trace: TraceContext,
        started_ns: int,
        resource: Resource,
        scope: InstrumentationScope,
    ) -> None:
        self._facts = facts
        self._trace = trace
        self._started_ns = started_ns
        self._resource = resource
        self._scope = scope
        self._state = _state_of(trace.parent)
        self._own = self._context(trace.span_id)

    def all(self) -> Iterator[ReadableSpan]:
        yield self._server()
        for number, attempt in enumerate(self._facts.timeline):
            yield self._client(number, attempt)

    def _server(self) -> ReadableSpan:
        facts, parent = self._facts, self._trace.parent
        failed = facts.status >= 500
        return self._span(
            f"POST {facts.route}",
            SpanKind.SERVER,
            self._own,
            _context_of_parent(parent) if parent else None,
            (0.0, facts.latency_s),
            {
                "http.request.method": "POST",
                "http.route": facts.route,
                "http.response.status_code": facts.status,
                "url.path": facts.route,
                "url.scheme": "http",
                "error.type": facts.code if failed else None,
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": facts.model or None,
                "sluice.request_id": facts.request_id,
                "sluice.code": facts.code,
                "sluice.reason": facts.reason,
                "sluice.attempts": facts.attempts,
                "sluice.replayed": facts.replayed or None,
                "sluice.charged.input_tokens": facts.charged_prompt_tokens,
                "sluice.charged.output_tokens": facts.charged_answer_tokens,
                "sluice.charged.counted_by": facts.counted_by,
                "sluice.charged.usd": facts.cost_usd,
            },
            [
                self._event("circuit_open", each.began_s, {"sluice.provider": each.provider})
                for each in facts.skipped
            ],
            failed=failed,
        )

    def _client(self, number: int, attempt: AttemptFacts) -> ReadableSpan:
        """An attempt. The one that answers by a stream goes on until the stream is over."""
        facts, first_token_s = self._facts, self._facts.first_token_s
        last = number == facts.attempts - 1
        answered = last and attempt.reason is None
        streamed = answered and first_token_s is not None
        reason = attempt.reason
        if facts.error_type is not None and (streamed or reason == "cancelled"):
            reason = facts.reason or facts.error_type
        attributes: Attributes = {
            "http.request.method": "POST",
            "http.request.resend_count": number or None,
            "error.type": reason,
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": (
                "openai" if attempt.provider == "default" else attempt.provider
            ),
            "gen_ai.request.model": attempt.model,
            "gen_ai.request.max_tokens": facts.max_tokens,
            "gen_ai.request.stream": facts.stream,
            "sluice.provider": attempt.provider,
            "sluice.provider_request_id": facts.provider_request_id if last else None,
        }
        events = []
        if answered:
            attributes |= self._answer()
        if streamed and first_token_s is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = first_token_s - attempt.began_s
            events = [self._event("first_token", first_token_s, {})]
        ended_s = facts.latency_s if streamed or attempt.ended_s is None else attempt.ended_s
        return self._span(
            f"chat {attempt.model}",
            SpanKind.CLIENT,
            self._context(attempt.span_id),
            self._own,
            (attempt.began_s, ended_s),
            attributes,
            events,
            failed=reason is not None and not (last and facts.code == "client_gone"),
        )

    def _answer(self) -> Attributes:
        facts = self._facts
        return {
            "gen_ai.response.model": facts.response_model,
            "gen_ai.response.finish_reasons": (
                (facts.finish_reason,) if facts.finish_reason else None
            ),
            "gen_ai.usage.input_tokens": facts.prompt_tokens,
            "gen_ai.usage.output_tokens": facts.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": facts.cached_tokens or None,
        }

    def _span(
        self,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        began_and_ended_s: tuple[float, float],
        attributes: Attributes,
        events: list[Event],
        *,
        failed: bool,
    ) -> ReadableSpan:
        began_s, ended_s = began_and_ended_s
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes={key: value for key, value in attributes.items() if value is not None},
            events=events,
            kind=kind,
            status=_FAILED if failed else _UNSET,
            start_time=self._ns(began_s),
            end_time=self._ns(ended_s),
            instrumentation_scope=self._scope,
        )

    def _event(self, name: str, at_s: float, attributes: dict[str, str]) -> Event:
        return Event(name, attributes, self._ns(at_s))

    def _context(self, span_id: str) -> SpanContext:
        trace_id = int(self._trace.trace_id, 16)
        return SpanContext(trace_id, int(span_id, 16), False, _SAMPLED, self._state)

    def _ns(self, at_s: float) -> int:
        return self._started_ns + int(at_s * 1e9)


def _context_of_parent(parent: Parent) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    ids = int(parent.trace_id, 16), int(parent.span_id, 16)
    return SpanContext(*ids, True, flags, _state_of(parent))


def _state_of(parent: Parent | None) -> TraceState | None:
    return TraceState.from_header([parent.state]) if parent and parent.state else None
