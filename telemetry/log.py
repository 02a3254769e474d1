"""One JSON object a line on standard output, made from an allow-list.

Rules of this module:

- A field that is not in `FIELDS` is not written, whoever logs it.
- Our own loggers (`sluice` and below) log fixed words as their message, without arguments.
- Of anybody else's record only the logger's name, level, exception type and the places of
  its stack are kept: messages and exception texts of libraries quote prompts and keys.
"""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from pythonjsonlogger.orjson import OrjsonFormatter

FIELDS: Final = (
    "request_id",
    "caller",
    "method",
    "route",
    "model",
    "upstream_model",
    "stream",
    "status",
    "code",
    "reason",
    "attempts",
    "latency_ms",
    "first_token_ms",
    "prompt_tokens",
    "completion_tokens",
    "charged_tokens",
    "cost_usd",
    "cost_unknown",
    "counted_by",
    "redactions",
    "cut",
    "replayed",
    "finish_reason",
    "provider_request_id",
    "trace_id",
    "span_id",
    # Of the server itself:
    "version",
    "address",
    "provider",
    "auth",
    "signal",
    "in_flight",
    "exchanges",
    "samples",
    "check",
    "fault",
    "changed",
    "needs_restart",
)


class AllowListFormatter(OrjsonFormatter):
    """Formats a record as `{"time", "level", "event", …FIELDS, "error", "stack"}`."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        created = datetime.fromtimestamp(record.created, UTC)
        log_data["time"] = created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = record.levelname
        if record.name.partition(".")[0] == "sluice":
            log_data["event"] = record.msg
            for name in FIELDS:
                value = getattr(record, name, None)
                if value is not None:
                    log_data[name] = value
        else:
            log_data["event"] = "library"
            log_data["logger"] = record.name
        if record.exc_info and record.exc_info[0]:
            log_data["error"] = record.exc_info[0].__qualname__
            log_data["stack"] = [
                f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(record.exc_info[2])
            ]


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send every record of the process through the allow-list, to `stream` (stdout).

    Handlers that libraries have put on the root logger are removed: the SDK's own debug
    switch, for one, would print whole requests.
    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(AllowListFormatter())
    # Libraries are heard from WARNING on: their chatter says less than our own lines.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("sluice").setLevel(level)
