"""The audit: samples of calls as JSON lines, in a file that rotates or on standard output.

Rules of this module:

- The request id alone decides whether a call is a sample, so every process decides the same.
  A failure is any outcome but `completed`; a client that left is one, too.
- Words are in `ConsentedRecord` alone, which is made where operator and request both agree: the
  prompt as it was sent, redacted, and the answer before anything was put back into it. `Record`
  has no field that could hold them.
- The event loop does not wait for a disk: a thread writes. What it does not keep up with is
  dropped, and counted in the log.
- Standard output has one writer, the log's: lines of two would be written into one another.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from queue import Full, Queue
from typing import Any, Final

import orjson

from config import AuditConfig
from errors import ConfigError
from json_tree import leaves
from telemetry.call_result import AttemptFacts, CallResult, to_ms
from telemetry.logging.setup import write

log: Final = logging.getLogger("sluice.audit")

MAX_CONTENT: Final = 65_536
"""Characters of a prompt, and of an answer, that are kept."""
_MAX_WAITING: Final = 256
_FLUSH_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt; instants in milliseconds since the call's first header."""

    provider: str
    model: str
    began_ms: float
    ended_ms: float | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is kept of a call: facts, and no words."""

    event: str = "audit"
    time: str
    request_id: str
    trace_id: str | None
    caller: str
    route: str
    model: str
    stream: bool
    status: int
    code: str
    reason: str | None
    latency_ms: float
    first_token_ms: float | None
    attempts: list[AttemptRecord]
    passed_over: list[AttemptRecord]
    """Those that were not made, for the circuit was open."""
    prompt_tokens: int
    """Charged, as `answer_tokens`."""
    answer_tokens: int
    counted_by: str | None
    cost_usd: float | None
    """None where nobody knows the price, or nothing was charged."""
    redactions: dict[str, int]
    finish_reason: str | None
    cut: bool
    replayed: bool
    provider_request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentedRecord(Record):
    """The same, and the words, as far as the provider has seen and said them."""

    prompt: list[dict[str, Any]]
    answer: str
    content_cut: bool
    """Whether there was more than is kept."""


class Audit:
    """A sink of the settlement. `close` it when no call is left.

    Args:
        wall_clock: seconds since the epoch.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(
        self,
        config: AuditConfig,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._wall_clock = wall_clock
        self._handler = _handler(config)
        self._waiting: Queue[bytes | None] = Queue(_MAX_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    def __call__(self, result: CallResult) -> None:
        completed = result.facts.code == "completed"
        rate = self._config.success_rate if completed else self._config.failure_rate
        if not is_sample(result.facts.request_id, rate):
            return
        try:
            record = record_of(result, datetime.fromtimestamp(self._wall_clock(), UTC))
            self._waiting.put_nowait(orjson.dumps(record))
        except Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is waiting, in a second or not at all."""
        try:
            self._waiting.put(None, timeout=_FLUSH_S)
            self._thread.join(_FLUSH_S)
        except Full:
            pass
        if self._thread.is_alive():
            log.warning("audit_dropped", extra={"samples": self._waiting.qsize() + self._dropped})

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._handler.emit(logging.makeLogRecord({"msg": line.decode()}))
            if self._dropped and self._waiting.empty():
                log.warning("audit_dropped", extra={"samples": self._dropped})
                self._dropped = 0
        self._handler.close()


def is_sample(request_id: str, rate: float) -> bool:
    """Whether a call with this id is kept: the same answer each time, and a call that is kept at
    one rate is kept at every higher one."""
    return int.from_bytes(sha256(request_id.encode()).digest()[:8]) < rate * 2**64


def record_of(result: CallResult, now: datetime) -> Record:
    """What is kept of this call."""
    call, facts = result.call, result.facts
    record = Record(
        time=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        request_id=facts.request_id,
        trace_id=facts.trace_id,
        caller=facts.caller,
        route=facts.route,
        model=facts.model,
        stream=facts.stream,
        status=facts.status,
        code=facts.code,
        reason=facts.reason,
        latency_ms=facts.latency_ms,
        first_token_ms=facts.first_token_ms,
        attempts=[_attempt(attempt) for attempt in facts.timeline],
        passed_over=[_attempt(attempt) for attempt in facts.skipped],
        prompt_tokens=facts.charged_prompt_tokens,
        answer_tokens=facts.charged_answer_tokens,
        counted_by=facts.counted_by,
        cost_usd=facts.cost_usd,
        redactions=facts.redactions,
        finish_reason=facts.finish_reason,
        cut=facts.cut,
        replayed=facts.replayed,
        provider_request_id=facts.provider_request_id,
    )
    # Before an attempt was made, the prompt may not be redacted yet.
    if call.audit_buffer is None or not call.timeline:
        return record
    answer = call.audit_buffer.getvalue()
    prompt, cut = _clipped(call.messages)
    return ConsentedRecord(
        **{name: getattr(record, name) for name in Record.__slots__},
        prompt=prompt,
        answer=answer[:MAX_CONTENT],
        content_cut=cut or len(answer) > MAX_CONTENT,
    )


def _attempt(attempt: AttemptFacts) -> AttemptRecord:
    return AttemptRecord(
        attempt.provider,
        attempt.model,
        began_ms=to_ms(attempt.began_s),
        ended_ms=to_ms(attempt.ended_s),
        reason=attempt.reason,
    )


def _clipped(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """The messages, and whether their texts had to be cut; the last ones are the dearest."""
    if sum(len(holder[key]) for holder, key in leaves(messages)) <= MAX_CONTENT:
        return messages, False
    copy: list[dict[str, Any]] = orjson.loads(orjson.dumps(messages))
    left = MAX_CONTENT
    for message in reversed(copy):
        for holder, key in leaves(message, ("role",)):
            holder[key] = holder[key][:left]
            left -= len(holder[key])
    return copy, True


class _Stdout(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        write(record.getMessage())


class _File(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        log.error("audit_failed", exc_info=True)  # logging's own would print the line

    def _open(self) -> TextIOWrapper:
        opener = partial(os.open, mode=0o600)  # it may hold what people wrote
        return open(self.baseFilename, "a", encoding="utf-8", opener=opener)


def _handler(config: AuditConfig) -> logging.Handler:
    if config.destination == "stdout":
        return _Stdout()
    try:
        return _File(
            config.destination,
            maxBytes=config.max_bytes,
            backupCount=config.files,
            encoding="utf-8",
        )
    except OSError as fault:
        where = f"[audit] destination = {config.destination}"
        raise ConfigError(f"{where}: cannot be written: {fault.strerror}") from None
