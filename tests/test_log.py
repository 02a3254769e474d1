"""Log lines: an allow-list, whoever logs, and one line for each call."""

import fcntl
import io
import json
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from opentelemetry.semconv._incubating.attributes import (
    error_attributes,
    gen_ai_attributes,
    http_attributes,
    service_attributes,
)

from app.wiring import build_services
from call import Attempt, Call, Usage
from config import Target
from errors import OUTCOMES, CallError
from prices import Prices
from telemetry.logging import setup as logs
from telemetry.logging.call_line import log_call
from telemetry.logging.format import FIELDS, JsonFormatter, TextFormatter
from telemetry.logging.writer import LogWriter
from telemetry.settlement import Settlement

CANARY = "canary-9d20"


@pytest.fixture
def lines():
    """Log into a list of documents; the process's own logging is put back afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("sluice")
    before = (root.handlers[:], root.level, ours.level)
    stream = io.StringIO()
    for handler in before[0]:
        root.removeHandler(handler)  # pytest's own, which `configure` would close
    logs.configure("DEBUG", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().split("\n") if line]
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


def settled(error=None, **changes):
    call = Call("id-1", "/api/chat", started=100.0, deadline=128.0)
    for name, value in changes.items():
        setattr(call, name, value)
    Settlement(lambda: 101.5, Prices({}), [log_call]).settle(call, error)
    return call


def test_a_line_holds_what_is_allowed_and_nothing_else(lines):
    logging.getLogger("sluice.server").info(
        "listening", extra={"version": "1", "prompt": CANARY, "api_key": CANARY, "code": None}
    )
    [line] = lines()
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {"level": "INFO", "event": "listening", "service.version": "1"}


def test_names_are_opentelemetrys_or_our_own():
    constants = [
        vars(module).values()
        for module in (error_attributes, gen_ai_attributes, http_attributes, service_attributes)
    ]
    known = {value for values in constants for value in values if isinstance(value, str)}
    known |= {"trace_id", "span_id"}  # as the data model of logs has them, outside of OTLP
    for name in FIELDS.values():
        assert name in known or name.startswith("sluice."), name


@pytest.mark.parametrize("name", ["openai", "aiohttp.client", "tornado.general", "asyncio", "vcr"])
def test_of_others_records_only_the_place_is_kept(lines, name):
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger(name).exception("%s went wrong", CANARY, extra={"code": CANARY})
    [line] = lines()
    del line["time"]
    assert line.pop("exception.stacktrace")[0].startswith("test_log.py:")
    assert line == {
        "level": "ERROR",
        "event": "library",
        "logger": name,
        "exception.type": "ValueError",
    }


def test_others_chatter_is_not_heard(lines):
    logging.getLogger("openai").debug("Request: %s", CANARY)
    logging.getLogger("httpx2").info("HTTP Request: %s", CANARY)
    assert lines() == []


def test_the_level_may_change_at_any_time(lines):
    log = logging.getLogger("sluice.http")
    logs.set_level("WARNING")
    log.info("request")
    logs.set_level("DEBUG")
    log.debug("request")
    assert [line["level"] for line in lines()] == ["DEBUG"]


def test_a_hostile_value_stays_on_one_line(lines):
    logging.getLogger("sluice").info("call", extra={"model": 'a\n{"level": "x"}\u2028\x00'})
    [line] = lines()
    assert line["gen_ai.request.model"] == 'a\n{"level": "x"}\u2028\x00'


COMPLETED = {
    "model": "gpt-4o-mini",
    "stream": True,
    "timeline": [
        Attempt(Target("default", "gpt-4o-mini"), 100.0, state="refused"),
        Attempt(Target("default", "gpt-4o-mini"), 100.5, state="ended", usage=Usage.of(9, 3)),
    ],
    "first_token_at": 100.25,
    "finish_reason": "stop",
    "provider_request_id": "req_1",
    "messages": [{"role": "user", "content": CANARY}],
}


def test_a_completed_call(lines):
    settled(**COMPLETED)
    [line] = lines()
    del line["time"]
    assert line == {
        "level": "INFO",
        "event": "call",
        "sluice.request_id": "id-1",
        "sluice.caller": "anonymous",
        "http.route": "/api/chat",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.stream": True,
        "http.response.status_code": 200,
        "sluice.code": "completed",
        "sluice.attempts": 2,
        "sluice.latency_ms": 1500.0,
        "sluice.first_token_ms": 250.0,
        "sluice.charged_tokens": 12,
        "sluice.cost_usd": 3.15e-06,
        "sluice.counted_by": "provider",
        "gen_ai.provider.name": "default",
        "sluice.upstream_model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["stop"],
        "sluice.provider_request_id": "req_1",
    }


@pytest.mark.parametrize("code", [code for code in OUTCOMES if code != "completed"])
def test_a_failed_call(lines, code):
    settled(CallError(code, "why"))
    [line] = lines()
    status = OUTCOMES[code].status
    assert (line["sluice.code"], line["error.type"], line["sluice.reason"]) == (code, code, "why")
    assert line["http.response.status_code"] == status
    level = {5: "WARNING", 4: "INFO"}[status // 100]
    assert line["level"] == ("ERROR" if status == 500 else level)


def test_a_call_is_settled_once(lines):
    call = settled(CallError("client_gone"))
    settlement = Settlement(lambda: 102.0, Prices({}), [log_call])
    settlement.settle(call, None)
    settlement.settle(call, CallError("internal"))
    assert [line["sluice.code"] for line in lines()] == ["client_gone"]
    assert call.code == "client_gone"


def test_a_prompt_is_in_no_representation_of_a_call():
    call = Call("id", "/api/chat", 0.0, 1.0, messages=[{"role": "user", "content": CANARY}])
    assert CANARY not in repr(call)


# For people


@pytest.fixture
def text(lines):
    """Log as text, with colours; what was written."""
    written = io.StringIO()
    [handler] = logging.getLogger().handlers
    handler.setStream(written)
    handler.setFormatter(TextFormatter(colour=True))
    return written.getvalue


def plain(text):
    return re.sub(r"\x1b\[\d+m", "", text)


def test_a_call_is_one_line_to_read(text):
    settled(**COMPLETED)
    settled(CallError("provider_unavailable", "status_503"), model="gpt-4o-mini")
    done, failed = text().splitlines()
    assert "\x1b[32m200\x1b[0m" in done
    assert "\x1b[31m502\x1b[0m" in failed
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d 200 completed {15}/api/chat  gpt-4o-mini   1\.5 s  ttft 250 ms  2 attempts"
        r"  12 tokens  \$0\.000003  id-1",
        plain(done),
    ), plain(done)
    assert plain(failed)[9:].startswith("502 provider_unavailable    /api/chat  gpt-4o-mini")
    assert plain(failed).endswith("  0 attempts  0 tokens  status_503  id-1")


def test_text_holds_what_is_allowed_and_nothing_else(text):
    log = logging.getLogger("sluice.server")
    log.warning("signal", extra={"signal": "SIGTERM", "prompt": CANARY})
    log.info("call", extra={"status": 200, "model": "a\n\x1b[2J", "prompt": CANARY})
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("asyncio").exception(CANARY)
    said = plain(text())
    assert CANARY not in said
    signal, call, library, place = said.splitlines()
    assert signal.endswith("WARNING signal  signal=SIGTERM")
    assert r"a\n\x1b[2J" in call
    assert library.endswith("ERROR   library  logger=asyncio  error=ValueError")
    assert place.strip().startswith("test_log.py:")


# To a pipe


@pytest.fixture
def pipe():
    """A pipe that takes what one page takes: its two ends."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def record(event):
    return logging.makeLogRecord({"name": "sluice.test", "levelname": "INFO", "msg": event})


def written_to(reader, count):
    """This many events, read from the pipe."""
    data = b""
    while data.count(b"\n") < count:
        data += os.read(reader, 65_536)
    return [json.loads(line) for line in data.splitlines()]


def log_writer(descriptor, lines):
    handler = LogWriter(descriptor, lines)
    handler.setFormatter(JsonFormatter())
    return handler


def test_a_pipe_that_nobody_reads_holds_up_nobody(pipe):
    reader, descriptor = pipe
    handler = log_writer(descriptor, lines=500)
    for number in range(2000):
        handler.handle(record(f"event-{number}"))
    dropped = handler.dropped
    assert 0 < dropped < 1600

    kept = 2000 - dropped
    lines = written_to(reader, kept)
    assert [line["event"] for line in lines] == [f"event-{number}" for number in range(kept)]
    handler.handle(record("late"))
    told, late = written_to(reader, 2)
    assert (told["event"], told["level"], told["sluice.dropped"]) == (
        *("lines_dropped", "WARNING"),
        dropped,
    )
    assert late["event"] == "late"
    handler.close()


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_stay_in_order_and_whole_whatever_their_length(pipe, blocking):
    reader, descriptor = pipe
    os.set_blocking(descriptor, blocking)
    handler = log_writer(descriptor, lines=500)
    for number in range(200):
        handler.handle(record(f"{number} {'x' * (number % 7) * 1000}"))
    lines = written_to(reader, 200)
    assert [int(line["event"].split()[0]) for line in lines] == list(range(200))
    handler.close()
    assert handler.dropped == 0


def test_what_does_not_go_at_once_is_left_to_the_thread(pipe, monkeypatch):
    reader, descriptor = pipe
    write, turns = os.write, iter([0, 7])

    def full_at_first(number, data):
        """Takes nothing, then a part, then all, as a descriptor that others write to as well."""
        taken = next(turns, len(data))
        if not taken:
            raise BlockingIOError
        return write(number, data[:taken])

    monkeypatch.setattr(os, "write", full_at_first)
    handler = log_writer(descriptor, lines=5)
    handler.handle(record("first"))
    handler.handle(record("second"))
    assert [line["event"] for line in written_to(reader, 2)] == ["first", "second"]
    handler.close()
    assert handler.dropped == 0


def test_few_long_lines_wait_for_a_reader(pipe):
    reader, descriptor = pipe
    handler = log_writer(descriptor, lines=5000)
    for _ in range(2000):
        handler.write("x" * 5000)
    kept = 2000 - handler.dropped
    assert kept == 256  # however soon the thread takes its first
    written = b""
    while written.count(b"\n") < kept:
        written += os.read(reader, 65_536)
    handler.close()
    assert written == (b"x" * 5000 + b"\n") * kept


def test_the_end_waits_for_a_reader_that_reads(pipe):
    reader, descriptor = pipe
    handler = log_writer(descriptor, lines=500)
    for number in range(400):
        handler.handle(record(f"event-{number}"))
    with ThreadPoolExecutor(1) as pool:
        lines = pool.submit(written_to, reader, 400)
        handler.close()
        assert len(lines.result()) == 400


def test_a_reader_that_is_gone_is_counted():
    reader, descriptor = os.pipe()
    os.close(reader)
    handler = log_writer(descriptor, lines=5)
    for _ in range(5):
        handler.handle(record("lost"))
    handler.handle(record("x" * 5000))  # by the thread
    handler.close()
    os.close(descriptor)
    assert handler.dropped == 6


async def test_latencies_are_measured_finer_than_they_are_written(settings):
    """A tenth of a millisecond is written; uvloop's own clock stands still while this runs."""
    async with build_services(settings(), None) as services:
        began, tick = services.clock(), time.perf_counter()
        while time.perf_counter() - tick < 0.0001:
            pass
        assert 0.0001 <= services.clock() - began < 1
