"""Traces: the spans of a call, made when it is settled and sent by OpenTelemetry's SDK.

    POST /api/chat                       server span
    ├── chat gpt-4o-mini                 client span of the first attempt: what it failed of
    └── chat gpt-4o-mini                 of the second: first token, tokens, finish reasons

Rules of this module:

- It is imported only where OTEL_EXPORTER_OTLP_ENDPOINT is set; the SDK's own variables hold.
- While a call runs there are ids alone (`trace_context`). Spans are built from the settled call,
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

from call import Attempt, Call
from errors import ConfigError
from telemetry.settlement import Settled
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

    def __call__(self, settled: Settled) -> None:
        trace = settled.call.trace
        if trace is None or not trace.sampled:
            return
        epoch_ns = self._wall_clock_ns() - int(settled.at * 1e9)
        for span in _Spans(settled, trace, epoch_ns, self._resource, self._scope).all():
            self._processor.on_end(span)

    def close(self) -> None:
        """Send what is waiting, in a second or not at all: the SDK would wait for thirty."""
        flush = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
        flush.start()
        flush.join(_FLUSH_S)
        if flush.is_alive():
            log.warning("traces_dropped")


class _Spans:
    """The spans of one call.

    Args:
        epoch_ns: the epoch's nanosecond at which the loop's clock was 0.
    """

    def __init__(
        self,
        settled: Settled,
        trace: TraceContext,
        epoch_ns: int,
        resource: Resource,
        scope: InstrumentationScope,
    ) -> None:
        self._settled = settled
        self._call: Call = settled.call
        self._trace = trace
        self._epoch_ns = epoch_ns
        self._resource = resource
        self._scope = scope
        self._state = _state_of(trace.parent)
        self._own = self._context(trace.span_id)

    def all(self) -> Iterator[ReadableSpan]:
        yield self._server()
        for number, attempt in enumerate(self._call.timeline):
            yield self._client(number, attempt)

    def _server(self) -> ReadableSpan:
        call, settled, parent = self._call, self._settled, self._trace.parent
        failed = settled.status >= 500
        return self._span(
            f"POST {call.route}",
            SpanKind.SERVER,
            self._own,
            _context_of_parent(parent) if parent else None,
            (call.started, settled.at),
            {
                "http.request.method": "POST",
                "http.route": call.route,
                "http.response.status_code": settled.status,
                "url.path": call.route,
                "url.scheme": "http",
                "error.type": settled.code if failed else None,
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": call.model or None,
                "sluice.request_id": call.request_id,
                "sluice.code": settled.code,
                "sluice.reason": settled.reason,
                "sluice.attempts": call.attempts,
                "sluice.replayed": call.replayed or None,
                "sluice.charged.input_tokens": settled.prompt_tokens,
                "sluice.charged.output_tokens": settled.answer_tokens,
                "sluice.charged.counted_by": settled.counted_by,
                "sluice.charged.usd": settled.usd,
            },
            [
                self._event(
                    "circuit_open",
                    passed.began,
                    {"sluice.provider": passed.target.provider},
                )
                for passed in call.passed_over
            ],
            failed=failed,
        )

    def _client(self, number: int, attempt: Attempt) -> ReadableSpan:
        """An attempt. The one that answers by a stream goes on until the stream is over."""
        call, settled = self._call, self._settled
        last = number == call.attempts - 1
        answered = last and attempt.reason is None
        streamed = answered and call.first_token_at is not None
        reason = attempt.reason
        if settled.error is not None and (streamed or reason == "cancelled"):
            reason = settled.error.reason
        provider, model = attempt.target
        attributes: Attributes = {
            "http.request.method": "POST",
            "http.request.resend_count": number or None,
            "error.type": reason,
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai" if provider == "default" else provider,
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": call.max_tokens,
            "gen_ai.request.stream": call.stream,
            "sluice.provider": provider,
            "sluice.provider_request_id": call.provider_request_id if last else None,
        }
        events = []
        if answered:
            attributes |= self._answer()
        if streamed and call.first_token_at is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = call.first_token_at - attempt.began
            events = [self._event("first_token", call.first_token_at, {})]
        ended = settled.at if streamed or attempt.ended is None else attempt.ended
        return self._span(
            f"chat {model}",
            SpanKind.CLIENT,
            self._context(attempt.span_id),
            self._own,
            (attempt.began, ended),
            attributes,
            events,
            failed=reason is not None and not (last and settled.code == "client_gone"),
        )

    def _answer(self) -> Attributes:
        call, usage = self._call, self._call.usage
        return {
            "gen_ai.response.model": call.response_model,
            "gen_ai.response.finish_reasons": (call.finish_reason,) if call.finish_reason else None,
            "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
            "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens or None if usage else None,
        }

    def _span(
        self,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        lasted: tuple[float, float],
        attributes: Attributes,
        events: list[Event],
        *,
        failed: bool,
    ) -> ReadableSpan:
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes={key: value for key, value in attributes.items() if value is not None},
            events=events,
            kind=kind,
            status=_FAILED if failed else _UNSET,
            start_time=self._ns(lasted[0]),
            end_time=self._ns(lasted[1]),
            instrumentation_scope=self._scope,
        )

    def _event(self, name: str, at: float, attributes: dict[str, str]) -> Event:
        return Event(name, attributes, self._ns(at))

    def _context(self, span_id: str) -> SpanContext:
        trace_id = int(self._trace.trace_id, 16)
        return SpanContext(trace_id, int(span_id, 16), False, _SAMPLED, self._state)

    def _ns(self, at: float) -> int:
        return self._epoch_ns + int(at * 1e9)


def _context_of_parent(parent: Parent) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    ids = int(parent.trace_id, 16), int(parent.span_id, 16)
    return SpanContext(*ids, True, flags, _state_of(parent))


def _state_of(parent: Parent | None) -> TraceState | None:
    return TraceState.from_header([parent.state]) if parent and parent.state else None
