"""What a line of the log may say, and how it says it: as JSON, or as text for people.

Rules of this module:

- A field that is not in `FIELDS` is not written, whoever logs it.
- Our own loggers (`sluice` and below) log fixed words as their message, without arguments.
- Of anybody else's record only the logger's name, level, exception type and the places of
  its stack are kept: messages and exception texts of libraries quote prompts and keys.
- In code a field has a short name; in JSON the one of OpenTelemetry's semantic conventions (1.44,
  whose `gen_ai` part is still in development), or one in a namespace of our own.
"""

import logging
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from pythonjsonlogger.orjson import OrjsonFormatter

FIELDS: Final = {
    "request_id": "sluice.request_id",
    "caller": "sluice.caller",
    "method": "http.request.method",
    "route": "http.route",
    "model": "gen_ai.request.model",
    "provider": "gen_ai.provider.name",
    "upstream_model": "sluice.upstream_model",
    "stream": "gen_ai.request.stream",
    "status": "http.response.status_code",
    "code": "sluice.code",
    "error_type": "error.type",
    "reason": "sluice.reason",
    "attempts": "sluice.attempts",
    "latency_ms": "sluice.latency_ms",
    "first_token_ms": "sluice.first_token_ms",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "charged_tokens": "sluice.charged_tokens",
    "cost_usd": "sluice.cost_usd",
    "cost_unknown": "sluice.cost_unknown",
    "counted_by": "sluice.counted_by",
    "redactions": "sluice.redactions",
    "cut": "sluice.cut",
    "replayed": "sluice.replayed",
    "recording": "sluice.recording",
    "finish_reason": "gen_ai.response.finish_reasons",
    "provider_request_id": "sluice.provider_request_id",
    "trace_id": "trace_id",
    "span_id": "span_id",
    # Of the server itself:
    "version": "service.version",
    "address": "sluice.address",
    "mode": "sluice.mode",
    "auth": "sluice.auth",
    "signal": "sluice.signal",
    "in_flight": "sluice.in_flight",
    "exchanges": "sluice.exchanges",
    "samples": "sluice.samples",
    "check": "sluice.check",
    "fault": "sluice.fault",
    "fix": "sluice.fix",
    "changed": "sluice.changed",
    "needs_restart": "sluice.needs_restart",
    "dropped": "sluice.dropped",
}
_IN_JSON: Final = {**FIELDS, "error": "exception.type", "stack": "exception.stacktrace"}


def allowed(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    """What may be written of a record, by short names; `event` comes first."""
    if record.name.partition(".")[0] == "sluice":
        yield "event", record.msg
        given = record.__dict__
        for name in FIELDS:
            if (value := given.get(name)) is not None:
                yield name, value
    else:
        yield "event", "library"
        yield "logger", record.name
    if record.exc_info and record.exc_info[0]:
        yield "error", record.exc_info[0].__qualname__
        yield (
            "stack",
            [
                f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(record.exc_info[2])
            ],
        )


class JsonFormatter(OrjsonFormatter):
    """`{"time", "level", "event", …}`."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        created = datetime.fromtimestamp(record.created, UTC)
        log_data["time"] = created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = record.levelname
        for name, value in allowed(record):
            # The conventions have a list, for there may be several choices.
            log_data[_IN_JSON.get(name, name)] = [value] if name == "finish_reason" else value


class TextFormatter(logging.Formatter):
    """For people: one line for each record, and its stack below it.

    21:04:05 200 completed              /api/chat  gpt-4o-mini  1.2 s  ttft 310 ms  34 tokens  …
    """

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        said = dict(allowed(record))
        time = self._painted(f"{datetime.fromtimestamp(record.created):%H:%M:%S}", _DIM)
        status, stack = said.get("status"), said.pop("stack", ())
        if status is None:
            level, event = record.levelname, said.pop("event")
            head = f"{self._painted(f'{level:<8}', _OF_LEVEL.get(level))}{event}"
            words = [f"{name}={value}" for name, value in said.items()]
        else:
            head = self._painted(str(status), _OF_STATUS.get(status // 100))
            head += f" {said.get('code') or said.get('method') or '':<22}"
            words = [say(said[name]) for name, say in _IN_TEXT.items() if name in said]
        line = "  ".join((f"{time} {head}", *map(_printable, words)))
        return "\n    ".join((line.rstrip(), *stack))

    def _painted(self, text: str, colour: int | None) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour else text


_RED, _GREEN, _YELLOW, _DIM = 31, 32, 33, 2
_OF_LEVEL: Final = {"WARNING": _YELLOW, "ERROR": _RED, "CRITICAL": _RED}
_OF_STATUS: Final = {2: _GREEN, 4: _YELLOW, 5: _RED}


def _printable(word: str) -> str:
    return word if word.isprintable() else word.encode("unicode_escape").decode("ascii")


def _span(ms: float) -> str:
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{ms:.0f} ms"


# What is said of a reply, in this order.
_IN_TEXT: Final[dict[str, Callable[[Any], str]]] = {
    "route": "{:<9}".format,
    "model": str,
    "latency_ms": lambda ms: f"{_span(ms):>6}",
    "first_token_ms": lambda ms: f"ttft {_span(ms)}",
    "attempts": lambda count: "1 attempt" if count == 1 else f"{count} attempts",
    "charged_tokens": "{} tokens".format,
    "cost_usd": "${:.6f}".format,
    "reason": str,
    "request_id": str,
}
