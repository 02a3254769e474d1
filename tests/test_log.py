"""Log lines: an allow-list, whoever logs, and one line for each call."""

import io
import json
import logging
from datetime import datetime

import pytest

from call import Attempt, Call, Usage
from config import Target
from errors import OUTCOMES, CallError
from prices import Prices
from telemetry import log as logs
from telemetry.call_log import log_call
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
    logs.configure("DEBUG", stream)
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
    assert line == {"level": "INFO", "event": "listening", "version": "1"}


@pytest.mark.parametrize("name", ["openai", "aiohttp.client", "tornado.general", "asyncio", "vcr"])
def test_of_others_records_only_the_place_is_kept(lines, name):
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger(name).exception("%s went wrong", CANARY, extra={"code": CANARY})
    [line] = lines()
    del line["time"]
    assert line.pop("stack")[0].startswith("test_log.py:")
    assert line == {"level": "ERROR", "event": "library", "logger": name, "error": "ValueError"}


def test_others_chatter_is_not_heard(lines):
    logging.getLogger("openai").debug("Request: %s", CANARY)
    logging.getLogger("httpx2").info("HTTP Request: %s", CANARY)
    assert lines() == []


def test_a_hostile_value_stays_on_one_line(lines):
    logging.getLogger("sluice").info("call", extra={"model": 'a\n{"level": "x"}\u2028\x00'})
    [line] = lines()
    assert line["model"] == 'a\n{"level": "x"}\u2028\x00'


def test_a_completed_call(lines):
    settled(
        model="gpt-4o-mini",
        stream=True,
        timeline=[Attempt(Target("default", "gpt-4o-mini"), 100.0)] * 2,
        first_token_at=100.25,
        usage=Usage(9, 3, 12),
        finish_reason="stop",
        provider_request_id="req_1",
        messages=[{"role": "user", "content": CANARY}],
    )
    [line] = lines()
    del line["time"]
    assert line == {
        "level": "INFO",
        "event": "call",
        "request_id": "id-1",
        "caller": "anonymous",
        "route": "/api/chat",
        "model": "gpt-4o-mini",
        "stream": True,
        "status": 200,
        "code": "completed",
        "attempts": 2,
        "latency_ms": 1500.0,
        "first_token_ms": 250.0,
        "charged_tokens": 12,
        "cost_usd": 3.15e-06,
        "counted_by": "provider",
        "provider": "default",
        "upstream_model": "gpt-4o-mini",
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "finish_reason": "stop",
        "provider_request_id": "req_1",
    }


@pytest.mark.parametrize("code", [code for code in OUTCOMES if code != "completed"])
def test_a_failed_call(lines, code):
    settled(CallError(code, "why"))
    [line] = lines()
    assert (line["code"], line["reason"], line["status"]) == (code, "why", OUTCOMES[code].status)
    level = {5: "WARNING", 4: "INFO"}[line["status"] // 100]
    assert line["level"] == ("ERROR" if line["status"] == 500 else level)


def test_a_call_is_settled_once(lines):
    call = settled(CallError("client_gone"))
    settlement = Settlement(lambda: 102.0, Prices({}), [log_call])
    settlement.settle(call, None)
    settlement.settle(call, CallError("internal"))
    assert [line["code"] for line in lines()] == ["client_gone"]
    assert call.code == "client_gone"


def test_a_prompt_is_in_no_representation_of_a_call():
    call = Call("id", "/api/chat", 0.0, 1.0, messages=[{"role": "user", "content": CANARY}])
    assert CANARY not in repr(call)
