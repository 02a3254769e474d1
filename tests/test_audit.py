"""The audit: which calls are kept, what of them, where, and how they are shown."""

import fcntl
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from conftest import HELLO, JSON, ROOT, Sluice, StartSluice, chat, encoded
from processes import Start, finished, start  # noqa: F401
from upstream import (
    DONE,
    Upstream,
    after_content,
    answer_stream,
    chunks,
    delta,
    either,
    error,
    finish,
    ok,
    role,
    silence,
    stream,
)

from call import Attempt, Call, Usage
from cli import audit as audit_view
from cli import parser as commands
from config import AuditConfig, Target
from errors import CallError, ConfigError
from prices import Prices
from telemetry import audit
from telemetry.audit import Audit, ConsentedRecord, Record, is_sample
from telemetry.call_result import CallResult
from telemetry.logging.format import JsonFormatter
from telemetry.logging.writer import LogWriter
from telemetry.settlement import Settlement

CONSENT = ("X-Audit-Consent", "true")
PROMPT, ANSWER = "canary-prompt-83ab", "canary-answer-d07e"
STEP = either(ok(f"{ANSWER} [EMAIL_1]"), answer_stream(ANSWER, " [EM", "AIL_1]"))
BODY = {"userMessage": f"{PROMPT} ada@example.com"}


def text_of(server: Sluice) -> str:
    return Path(server.config.audit.destination).read_text()


def samples(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def audited(sluice: StartSluice, tmp_path: Path) -> Callable[..., Any]:
    """`await audited(audit_content="consent")`: a server that keeps every call."""

    async def run(**overrides: Any) -> Sluice:
        every = {"audit_destination": tmp_path / "audit.jsonl", "audit_success_rate": 1}
        return await sluice(**{**every, **overrides})

    return run


async def kept(server: Sluice) -> list[Any]:
    """The samples of a server that is not asked any more."""
    assert server.audit is not None
    await server.at_rest()
    server.audit.close()
    return samples(Path(server.config.audit.destination))


# Which calls


def test_an_id_alone_decides() -> None:
    ids = [f"id-{number}" for number in range(4000)]
    for rate in (0.0, 0.1, 0.5, 1.0):
        share = sum(is_sample(each, rate) for each in ids) / len(ids)
        assert share == pytest.approx(rate, abs=0.03)
        assert all(is_sample(each, rate) == is_sample(each, rate) for each in ids)
    assert all(is_sample(each, 0.5) for each in ids if is_sample(each, 0.1))
    # As any other process, in any language, would find.
    fraction = int(sha256(b"id-1").hexdigest()[:16], 16) / 2**64
    assert [is_sample("id-1", fraction + step) for step in (-1e-9, 1e-9)] == [False, True]


@pytest.mark.parametrize(
    ("rates", "codes"),
    [
        ({"success": 0, "failure": 1}, ["provider_unavailable", "client_gone", "invalid_request"]),
        ({"success": 1, "failure": 0}, ["completed"]),
        ({"success": 0, "failure": 0}, []),
    ],
)
async def test_failures_have_a_rate_of_their_own(
    audited: Any, upstream: Upstream, rates: dict[str, int], codes: list[str]
) -> None:
    upstream.will(ok(), error(500), silence)
    server = await audited(
        audit_success_rate=rates["success"],
        audit_failure_rate=rates["failure"],
        retry_max_attempts=1,
    )
    await server.chat()
    await server.chat()
    client = await server.send(chat())
    await upstream.request(3)
    client.rst()
    await server.calls.wait(3)
    await server.chat({})

    assert [sample["code"] for sample in await kept(server)] == codes


async def test_nothing_is_kept_by_default(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice()
    await server.chat(HELLO, CONSENT)
    assert server.audit is None


# What of them


async def test_a_sample_has_the_facts_and_the_timeline(audited: Any, upstream: Upstream) -> None:
    upstream.will(error(503), STEP)
    server = await audited()

    reply = await server.chat({**BODY, "stream": True})

    [sample] = await kept(server)
    line = server.calls.records[0]
    assert sample["event"] == "audit"
    assert sample["request_id"] == reply.headers["x-request-id"]
    for name in ("caller", "route", "model", "stream", "status", "code", "cost_usd", "counted_by"):
        assert sample[name] == getattr(line, name)
    assert sample["prompt_tokens"] + sample["answer_tokens"] == line.charged_tokens
    assert sample["redactions"] == {"email": 1}
    assert sample["finish_reason"] == "stop"
    first, second = sample["attempts"]
    assert (first["provider"], first["model"]) == ("default", "gpt-4o-mini")
    assert (first["reason"], second["reason"]) == ("status_503", None)
    assert 0 <= first["began_ms"] <= first["ended_ms"] <= second["began_ms"] <= second["ended_ms"]
    assert second["ended_ms"] <= sample["latency_ms"]
    assert sample["passed_over"] == []


async def test_a_circuit_that_was_open_is_in_the_sample(audited: Any, upstream: Upstream) -> None:
    upstream.will(error(500))
    server = await audited(circuit_min_calls=1, retry_max_attempts=1)
    await server.chat()
    await server.chat()

    _, sample = await kept(server)
    assert sample["code"] == "circuit_open"
    assert sample["attempts"] == []
    assert [each["reason"] for each in sample["passed_over"]] == ["circuit_open"]


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize(
    ("content", "headers"),
    [
        ("never", (CONSENT,)),
        ("consent", ()),
        ("consent", (("X-Audit-Consent", "false"),)),
        ("consent", (("X-Audit-Consent", "True"),)),
        ("consent", (CONSENT, CONSENT)),
    ],
)
async def test_words_are_kept_by_nobodys_leave_but_both(
    audited: Any, upstream: Upstream, content: str, headers: tuple[Any, ...], streamed: bool
) -> None:
    upstream.will(STEP)
    server = await audited(audit_content=content)

    await server.chat({**BODY, "stream": streamed}, *headers)

    [sample] = await kept(server)
    assert set(sample) == {field.name for field in fields(Record)}
    written = text_of(server)
    assert PROMPT not in written
    assert ANSWER not in written


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
async def test_with_both_leaves_what_the_provider_saw_and_said_is_kept(
    audited: Any, upstream: Upstream, streamed: bool
) -> None:
    upstream.will(STEP)
    server = await audited(audit_content="consent")

    reply = await server.chat({**BODY, "stream": streamed}, CONSENT)

    assert b"ada@example.com" in reply.body
    [sample] = await kept(server)
    assert set(sample) == {field.name for field in fields(ConsentedRecord)}
    assert sample["prompt"] == upstream.requests[0].json["messages"]
    assert sample["prompt"][-1]["content"] == f"{PROMPT} [EMAIL_1]"
    assert sample["answer"] == f"{ANSWER} [EMAIL_1]"
    assert sample["content_cut"] is False
    assert "ada@example.com" not in json.dumps(sample)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}),
        ("/v1/responses", {"input": PROMPT}),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
async def test_openais_routes_ask_for_leave_the_same_way(
    audited: Any, upstream: Upstream, route: str, body: dict[str, Any], streamed: bool
) -> None:
    upstream.will(either(ok(ANSWER), answer_stream(ANSWER)))
    server = await audited(audit_content="consent")
    data = json.dumps({"model": "gpt-4o-mini", "stream": streamed, **body}).encode()

    for headers in ((JSON, CONSENT), (JSON,)):
        reply = await (await server.send(encoded("POST", route, headers, data))).reply()
        assert reply.status == 200

    agreed, silent = await kept(server)
    assert agreed["route"] == route
    assert agreed["prompt"][-1]["content"] == PROMPT
    assert agreed["answer"] == ANSWER
    assert "prompt" not in silent


async def test_of_a_broken_stream_is_kept_what_was_said(audited: Any, upstream: Upstream) -> None:
    upstream.will(after_content(chunks()))
    server = await audited(audit_content="consent")
    await server.chat({**BODY, "stream": True}, CONSENT)
    [sample] = await kept(server)
    assert (sample["code"], sample["answer"]) == ("provider_unavailable", "One two three")


@pytest.mark.parametrize(
    "overrides",
    [
        {"chat_max_prompt_tokens": 5},
        {"redaction_email": "block"},
        {"limit_total_tokens_per_day": 1},
    ],
)
async def test_a_prompt_that_was_not_sent_is_not_kept(
    audited: Any, upstream: Upstream, overrides: dict[str, Any]
) -> None:
    server = await audited(audit_content="consent", **overrides)
    assert (await server.chat(BODY, CONSENT)).status >= 400
    [sample] = await kept(server)
    assert "prompt" not in sample
    assert PROMPT not in json.dumps(sample)


async def test_another_requests_answer_is_not_kept(audited: Any, upstream: Upstream) -> None:
    upstream.will(STEP)
    server = await audited(audit_content="consent")
    key = ("Idempotency-Key", "a")
    await server.chat(BODY, key)
    assert (await server.chat(BODY, key, CONSENT)).status == 200
    assert [sample["replayed"] for sample in await kept(server)] == [False, True]
    assert PROMPT not in text_of(server)


async def test_long_words_are_clipped(audited: Any, upstream: Upstream) -> None:
    word = "x" * 50_000
    upstream.will(stream(role(), delta(word), delta(word), delta(word), finish(), DONE))
    server = await audited(audit_content="consent", chat_max_prompt_tokens=100_000)
    before = [{"role": "user", "content": "a" * 40_000}, {"role": "assistant", "content": "ok"}]
    body = {"userMessage": "b" * 40_000, "messages": before, "stream": True, "maxTokens": 1024}

    await server.chat(body, CONSENT)

    [sample] = await kept(server)
    system, first, second, last = sample["prompt"]
    assert (last["content"], second["content"]) == ("b" * 40_000, "ok")
    assert first == {"role": "user", "content": "a" * (65_536 - 40_002)}
    assert system == {"role": "system", "content": ""}
    assert len(sample["answer"]) == 65_536
    assert sample["content_cut"] is True


async def test_a_long_answer_is_not_collected_beyond_what_is_kept(
    audited: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected: list[str] = []
    seen = audit.record_of

    def spy(result: CallResult, now: Any) -> Record:
        assert result.call.audit_buffer is not None
        collected.append(result.call.audit_buffer.getvalue())
        return seen(result, now)

    monkeypatch.setattr(audit, "record_of", spy)
    words = [delta("x " * 15_000)] * 20
    upstream.will(stream(role(), *words, finish(), DONE))
    server = await audited(
        audit_content="consent", chat_max_tokens=10**9, chat_max_tokens_limit=10**9
    )
    await server.chat({**HELLO, "stream": True}, CONSENT)
    await server.at_rest()
    assert 65_536 <= len(collected[0]) <= 65_536 + 20 * 30_000 / 2


# Where


def config_of(destination: object, **changes: Any) -> AuditConfig:
    fields_of = {"success_rate": 1, "failure_rate": 1, "max_bytes": 1 << 20, "files": 2}
    return AuditConfig(str(destination), **{**fields_of, "content": "never", **changes})


def settled(request_id: str = "id-1", error: CallError | None = None, **changes: Any) -> CallResult:
    call = Call(request_id, "/api/chat", started=100.0, deadline=128.0, model="gpt-4o-mini")
    for name, value in changes.items():
        setattr(call, name, value)
    told: list[CallResult] = []
    Settlement(lambda: 101.5, Prices({}), [told.append]).settle(call, error)
    return told[0]


def test_the_file_rotates_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = Audit(config_of(path, max_bytes=2000))
    for number in range(40):
        sink(settled(f"id-{number}"))
    sink.close()
    names = sorted(each.name for each in tmp_path.iterdir())
    assert names == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    for name in names:
        assert 0 < (tmp_path / name).stat().st_size <= 2000
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert samples(tmp_path / name)
    assert samples(path)[-1]["request_id"] == "id-39"


def test_standard_output_has_whole_lines_of_samples_and_of_the_log() -> None:
    reader, descriptor = os.pipe()
    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 4096)
    writer = LogWriter(descriptor)
    writer.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(writer)
    try:
        sink = Audit(config_of("stdout"), wall_clock=lambda: 1.5)
        for number in range(50):
            sink(settled(f"id-{number}", model="m" * 6000))
            logging.getLogger("sluice.test").warning("between")
        written = b""
        while written.count(b"\n") < 100:
            written += os.read(reader, 65_536)
        sink.close()
    finally:
        logging.getLogger().removeHandler(writer)
        writer.close()
        os.close(reader)
        os.close(descriptor)
    lines = [json.loads(line) for line in written.splitlines()]
    kept = [line for line in lines if line["event"] == "audit"]
    assert [line["request_id"] for line in kept] == [f"id-{number}" for number in range(50)]
    assert {line["time"] for line in kept} == {"1970-01-01T00:00:01.500Z"}
    assert sum(line["event"] == "between" for line in lines) == 50


async def test_a_server_writes_samples_to_its_standard_output(
    start: Start,  # noqa: F811
) -> None:
    server = await start(SLUICE_AUDIT_DESTINATION="stdout", SLUICE_AUDIT_SUCCESS_RATE="1")
    assert (await server.ask(chat(HELLO))).status == 200
    sample = await server.line("audit")
    assert (sample["code"], sample["route"]) == ("completed", "/api/chat")
    server.signal(signal.SIGTERM)
    assert await server.ended() == 0


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^\[audit\] destination = .*: cannot be written: "):
        Audit(config_of(tmp_path / "no" / "audit.jsonl"))


def test_a_disk_that_hangs_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "_FLUSH_S", 0.01)
    sink = Audit(config_of(tmp_path / "audit.jsonl"))
    going_on = threading.Event()
    write = sink._handler.emit

    def hang(record: logging.LogRecord) -> None:
        going_on.wait()
        write(record)

    monkeypatch.setattr(sink._handler, "emit", hang)
    for number in range(1000):
        sink(settled(f"id-{number}"))
    sink.close()  # gives up
    going_on.set()
    sink._waiting.put(None)
    sink._thread.join()
    assert 256 <= len(samples(tmp_path / "audit.jsonl")) <= 257
    assert {record.msg for record in caplog.records} == {"audit_dropped"}
    assert caplog.records[0].samples >= 1000 - 1  # type: ignore[attr-defined]


def test_a_disk_that_fails_is_said_without_the_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sink = Audit(config_of(tmp_path / "audit.jsonl", max_bytes=1))
    monkeypatch.setattr(sink._handler, "doRollover", lambda: 1 / 0)
    sink(settled(PROMPT))
    sink.close()
    assert [record.msg for record in caplog.records] == ["audit_failed"]
    assert capsys.readouterr() == ("", "")


# How they are shown


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four samples, the oldest in a file that was put aside, with other lines between them."""
    path = tmp_path / "audit.jsonl"
    attempts = [
        Attempt(Target("default", "gpt-4o-mini"), 100.0, 100.3, "status_503", state="refused"),
        Attempt(Target("groq", "gpt-4o"), 100.6, 100.9, state="ended", usage=Usage.of(5, 6)),
    ]
    own = Attempt(Target("default", "own"), 100.0, 101.0, state="ended", usage=Usage.of(5, 6))
    unknown = {"model": "own", "timeline": [own]}
    words = {
        "audit_buffer": io.StringIO("Hi\x1b[2J\nthere"),
        "messages": [{"role": "user", "content": "Hello"}],
    }
    written = [
        settled("id-0"),
        settled("id-1", CallError("rate_limited", "ip-requests-per-minute", retry_after_s=1)),
        settled("id-2", **unknown),
        settled("id-3", timeline=attempts, first_token_at=100.9, **words),
    ]
    lines = []
    for second, each in enumerate(written):
        sink = Audit(config_of(tmp_path / "one"), wall_clock=lambda second=second: second)
        sink(each)
        sink.close()
        lines.append((tmp_path / "one").read_text())
        (tmp_path / "one").unlink()
    (tmp_path / "audit.jsonl.10").write_text(lines[0])
    (tmp_path / "audit.jsonl.9").write_text(lines[1])
    path.write_text('{"event": "call"}\nplain\n' + lines[2] + lines[3] + lines[0][:50])
    return path


def view(*arguments: object, config: AuditConfig | None = None) -> int:
    asked = commands.options(
        ["audit", *map(str, arguments)], description="", version="0", here=Path()
    )
    return audit_view.show(config or config_of(""), asked)


def ids(text: str) -> list[str]:
    return [line.split()[-1] for line in text.splitlines()[1:]]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], ["id-0", "id-1", "id-2", "id-3"]),
        (["--failed"], ["id-1"]),
        (["--code", "completed"], ["id-0", "id-2", "id-3"]),
        (["--model", "own"], ["id-2"]),
        (["--since", "1970-01-01T00:00:02"], ["id-2", "id-3"]),
        (["--since", "1970-01-01T02:00:01+02:00", "--failed"], ["id-1"]),
    ],
)
def test_a_list_of_samples(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], shown: list[str]
) -> None:
    assert view(file, *arguments) == 0
    assert ids(capsys.readouterr().out) == shown


def test_the_configured_file_is_the_default(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view(config=config_of(file))
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["time", "outcome"]
    assert rows[2].split() == [
        *("1970-01-01T00:00:02.000Z", "200", "completed", "own", "1500.0", "-"),
        *("1", "11", "unknown", "id-2"),
    ]
    assert rows[3].split()[-4:] == ["2", "11", "0.000073", "id-3"]


def test_json_is_the_lines_as_they_are(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view(file, "--json", "--code", "rate_limited")
    assert capsys.readouterr().out == (file.parent / "audit.jsonl.9").read_text()


def test_one_call_is_drawn(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view(file, "--request-id", "id-3")
    out = capsys.readouterr().out
    assert (
        out
        == """\
request id    id-3
time          1970-01-01T00:00:03.000Z
outcome       200 completed
caller        anonymous
route         /api/chat
model         gpt-4o-mini
tokens        5 + 6, provider
US$           0.000073

                              0                                1500 ms
default/gpt-4o-mini           ████████                                  0 to 300 ms  status_503
groq/gpt-4o                                   ████████                  600 to 900 ms  answered
first token                                           ▲░░░░░░░░░░░░░░░  900 ms

user:
    Hello

answer:
    Hi\ufffd[2J
    there
"""
    )


def test_standard_input(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(file.read_text()))
    view("-")
    assert ids(capsys.readouterr().out) == ["id-2", "id-3"]


def test_where_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert view(empty) == 0
    assert capsys.readouterr() == ("", "no samples\n")
    for config, told in (
        (config_of(tmp_path / "none"), "none: there is no such file; it is made when"),
        (config_of(""), r"^\[audit\] destination =: name the FILE to read"),
        (config_of("stdout"), r"^\[audit\] destination = stdout: name the FILE to read"),
    ):
        with pytest.raises(ConfigError, match=told):
            view(config=config)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        view(tmp_path)


async def test_as_processes(
    start: Start,  # noqa: F811
    tmp_path: Path,
) -> None:
    written = tmp_path / "own.jsonl"
    server = await start(SLUICE_AUDIT_DESTINATION=str(written), SLUICE_AUDIT_SUCCESS_RATE="1")
    asked = await server.ask(chat(HELLO))
    server.signal(signal.SIGTERM)
    assert await server.ended() == 0
    code, out, errors = await finished("audit", SLUICE_AUDIT_DESTINATION=str(written))
    assert (code, ids(out), errors) == (0, [asked.headers["x-request-id"]], "")


def test_whoever_has_read_enough_hears_no_complaint(file: Path) -> None:
    file.write_text(file.read_text() * 2000)
    told = subprocess.run(
        f"{sys.executable} {ROOT}/server.py audit {file} | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert (told.stdout, told.stderr) == (f"{audit_view._HEAD}\n", "")
