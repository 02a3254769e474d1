"""Canaries: no key, prompt, answer or provider's word in a log line, a reply or a header."""

import asyncio
import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import upstream as scripted
from conftest import JSON, Sluice, StartSluice, chat, deadline, encoded
from upstream import (
    ERROR_EVENT,
    Exchange,
    Step,
    Upstream,
    after_content,
    answer_stream,
    chunks,
    delta,
    either,
    event,
    fin,
    ok,
    rst,
    silence,
)

from calls.admission import Admission
from telemetry.logging import setup as logs

KEY = "sk-canary-key-4f1c"
PROMPT = "canary-prompt-83ab"
ANSWER = "canary-answer-d07e"
FOREIGN = "canary-provider-55c2"
BODY = {
    "userMessage": f"Say {PROMPT}",
    "messages": [{"role": "user", "content": f"Before: {PROMPT}"}],
}
LIBRARIES = ("openai", "httpx2", "httpcore2", "aiohttp", "tornado", "asyncio", "vcr")


@pytest.fixture
def log_lines(calls: object) -> Iterator[io.StringIO]:
    """Everything that the process logs at DEBUG, as its standard output would show it."""
    root = logging.getLogger()
    loggers = [logging.getLogger(name) for name in ("sluice", *LIBRARIES)]
    before = root.handlers[:], root.level, [logger.level for logger in loggers]
    written = io.StringIO()
    logs.configure("DEBUG", stream=written)
    root.setLevel(logging.DEBUG)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    yield written
    root.handlers[:], root.level, levels = before
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def assert_silent(text: str) -> None:
    for canary in (KEY, PROMPT, ANSWER, FOREIGN):
        assert canary not in text


def assert_lines_silent(written: io.StringIO) -> list[dict[str, Any]]:
    assert_silent(written.getvalue())
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert lines
    return lines


def echo(status: int, *headers: tuple[str, str]) -> Step:
    """An error that quotes the request: prompt, key and all."""

    async def step(exchange: Exchange) -> None:
        key = exchange.request.header("Authorization")
        said = f"{FOREIGN} {key} {exchange.request.body.decode()}"
        fields = {"message": said, "type": said, "param": said, "code": said}
        own = (("Content-Type", "application/json"), ("X-Debug", KEY), ("X-Request-Id", said))
        await exchange.reply(status, (*own, *headers), json.dumps({"error": fields}).encode())

    return step


def echo_raw(data: bytes, kind: str = "application/json") -> Step:
    return scripted.shaped(data, kind=kind)


QUOTE = f"{FOREIGN} {KEY} {PROMPT} {ANSWER}".encode()

STEPS: dict[str, Step] = {
    **{str(status): echo(status) for status in (400, 401, 403, 404, 422, 429, 500, 503)},
    "redirect": echo(307, ("Location", f"http://127.0.0.1:1/{FOREIGN}")),
    "long Retry-After": echo(429, ("Retry-After", "99")),
    "bad Retry-After": echo(429, ("Retry-After", FOREIGN)),
    "FIN": fin,
    "RST": rst,
    "silence": silence,
    "truncated": scripted.truncated_body,
    "garbage": scripted.garbage_status_line,
    "HTML": echo_raw(b"<html>" + QUOTE, "text/html"),
    "invalid JSON": echo_raw(b'{"' + QUOTE),
    "wrong JSON": echo_raw(json.dumps([QUOTE.decode()]).encode()),
    "wrong type": echo_raw(json.dumps({"choices": [{"finish_reason": {FOREIGN: 1}}]}).encode()),
    "error in a 200": echo_raw(json.dumps({"error": {"message": QUOTE.decode()}}).encode()),
    "bad UTF-8": echo_raw(QUOTE + b"\xff"),
    "gzip": scripted.shaped(QUOTE, headers=[("Content-Encoding", FOREIGN)]),
    "bad event": scripted.stream(b"data: " + QUOTE + b"\n\n"),
    "error event": scripted.stream(event({"error": {"message": QUOTE.decode()}})),
    "odd status line": scripted.garbage_status_line,
}


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("fault", STEPS)
async def test_a_failure_tells_nothing(
    sluice: StartSluice, upstream: Upstream, log_lines: io.StringIO, fault: str, streamed: bool
) -> None:
    upstream.will(STEPS[fault])
    server = await keyed(sluice, upstream, **deadline(0.5))

    reply = await server.chat({**BODY, "stream": streamed})

    assert reply.status >= 400
    assert_silent(f"{reply}")
    await server.record()
    lines = assert_lines_silent(log_lines)
    assert sum(line["event"] == "call" for line in lines) == 1
    assert KEY in (upstream.requests[0].header("Authorization") or "")


async def keyed(sluice: StartSluice, upstream: Upstream, **overrides: Any) -> Sluice:
    """A server with the canary key."""
    return await sluice(api_key=KEY, **overrides)


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
async def test_an_answer_is_not_logged(
    sluice: StartSluice, upstream: Upstream, log_lines: io.StringIO, streamed: bool
) -> None:
    upstream.will(either(ok(ANSWER), answer_stream(ANSWER)))
    server = await keyed(sluice, upstream)

    reply = await server.chat({**BODY, "stream": streamed})

    assert ANSWER.encode() in reply.body
    assert KEY.encode() not in reply.body
    await server.record()
    lines = assert_lines_silent(log_lines)
    assert any(line.get("logger", "").startswith("openai") for line in lines)


@pytest.mark.parametrize(
    "step",
    [
        rst,
        chunks(event({"error": {"message": QUOTE.decode(), "code": FOREIGN}})),
        chunks(ERROR_EVENT.replace(b"No.", QUOTE)),
        chunks(b"data: " + QUOTE + b"\n\n"),
        chunks(delta("x").replace(b"x", QUOTE + b"\xff")),
        chunks(event({"choices": [{"delta": {"content": {"x": QUOTE.decode()}}}]})),
    ],
    ids=["RST", "error", "error event", "bad JSON", "bad UTF-8", "bad type"],
)
async def test_a_broken_stream_tells_nothing(
    sluice: StartSluice, upstream: Upstream, log_lines: io.StringIO, step: Step
) -> None:
    upstream.will(after_content(step))
    server = await keyed(sluice, upstream)

    reply = await server.chat({**BODY, "stream": True})

    assert_silent(f"{reply}")
    await server.record()
    assert_lines_silent(log_lines)


async def test_a_bug_tells_where_and_not_what(
    sluice: StartSluice,
    upstream: Upstream,
    log_lines: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def burst(*_: object) -> None:
        raise ValueError(f"{PROMPT} {KEY}") from KeyError(PROMPT)

    monkeypatch.setattr(Admission, "enter", burst)
    server = await keyed(sluice, upstream)

    reply = await server.chat(BODY)

    reply.assert_error(500, "internal")
    assert_silent(f"{reply}")
    lines = assert_lines_silent(log_lines)
    [line] = [line for line in lines if line["event"] == "exception"]
    assert line["exception.type"] == "ValueError"
    assert any("burst" in place for place in line["exception.stacktrace"])


UNKNOWN_FIELDS = [
    {**BODY, PROMPT: KEY},
    {**BODY, "messages": [{"role": "user", "content": "x", PROMPT: KEY}]},
]


@pytest.mark.parametrize("body", UNKNOWN_FIELDS)
async def test_the_name_of_an_unknown_field_comes_back_to_its_caller_alone(
    sluice: StartSluice, upstream: Upstream, log_lines: io.StringIO, body: object
) -> None:
    server = await keyed(sluice, upstream)

    reply = await server.chat(body)

    reply.assert_error(400, "invalid_request")
    assert f'unknown field "{PROMPT}"' in reply.json["error"]
    assert KEY not in f"{reply}"
    assert_lines_silent(log_lines)


BAD_REQUESTS = {
    "model": chat({**BODY, "model": PROMPT}),
    "type": chat({"userMessage": [PROMPT]}),
    "role": chat({**BODY, "messages": [{"role": PROMPT, "content": PROMPT}]}),
    "invalid JSON": chat(f'{{"{PROMPT}'.encode()),
    "bad UTF-8": chat(PROMPT.encode() + b"\xff"),
    "duplicate key": chat(f'{{"{PROMPT}": 1, "{PROMPT}": 1}}'.encode()),
    "number": chat(f'{{"userMessage": "{PROMPT}", "maxTokens": 1e999}}'.encode()),
    "content type": chat(BODY, ("Content-Type", PROMPT)),
    "credentials": chat({"userMessage": 5}, ("Authorization", f"Bearer {KEY}"), ("Cookie", KEY)),
    "too large": chat(PROMPT.encode() * 20_000),
    "query": encoded("POST", f"/api/chat?key={KEY}", (JSON,), json.dumps(BODY).encode()),
    "path": encoded("GET", f"/{PROMPT}"),
    "escaped path": encoded("GET", f"/%ff{PROMPT}%ff"),
    "method": encoded(PROMPT.upper(), f"/api/chat?{PROMPT}"),
    "method in lower case": encoded(PROMPT, "/api/chat"),
    "request id": encoded("GET", "/nowhere", (("X-Request-Id", f"{PROMPT} {KEY}"),)),
}


@pytest.mark.parametrize("fault", BAD_REQUESTS)
async def test_a_refused_request_comes_back_to_nobody(
    sluice: StartSluice, upstream: Upstream, log_lines: io.StringIO, fault: str
) -> None:
    server = await keyed(sluice, upstream)
    client = await server.send(BAD_REQUESTS[fault])

    reply = await client.reply()

    assert 400 <= reply.status < 500
    assert_silent(f"{reply}")
    assert_silent(f"{reply}".lower())
    assert_lines_silent(log_lines)
    assert PROMPT.upper() not in log_lines.getvalue()
    assert upstream.requests == []


@pytest.mark.parametrize(
    "data",
    [
        f"GET /{PROMPT} HTTP/9.9\r\nHost: localhost\r\n\r\n",
        f"{PROMPT}\r\n\r\n",
        f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {PROMPT}\r\n\r\n",
        f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-{PROMPT}: \x00{KEY}\r\n\r\n",
        f"POST /api/chat HTTP/1.1\r\nHost: {PROMPT}/\r\n\r\n",
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + PROMPT
        + "\r\n",
    ],
    ids=["version", "start line", "length", "header", "host", "chunk"],
)
async def test_malformed_http_is_not_quoted(
    sluice: StartSluice, upstream: Upstream, log_lines: io.StringIO, data: str
) -> None:
    server = await keyed(sluice, upstream)
    client = await server.send(data.encode("latin-1"))

    assert_silent((await client.closed()).decode())
    assert_silent(log_lines.getvalue())


async def test_a_client_that_leaves_is_not_quoted(
    sluice: StartSluice, upstream: Upstream, log_lines: io.StringIO
) -> None:
    upstream.will(after_content(silence))
    server = await keyed(sluice, upstream)
    client = await server.send(chat({**BODY, "stream": True}))
    await client.head()
    await client.until(b" three")

    client.rst()

    await server.record()
    assert_lines_silent(log_lines)


async def test_a_cassette_holds_no_secret(
    sluice: StartSluice, upstream: Upstream, tmp_path: Path
) -> None:
    secret = (("Set-Cookie", FOREIGN), ("OpenAI-Organization", FOREIGN), ("X-Request-Id", FOREIGN))
    document = scripted.completion("Hi")
    upstream.will(
        scripted.json_reply(document, 200, *secret, ("X-Api-Key", KEY)),
        scripted.error(429, *secret, ("Retry-After", "1")),
        answer_stream("Hi"),
    )
    cassette = tmp_path / "new.yaml"
    server = await keyed(sluice, upstream, cassette=cassette)

    headers = (("Cookie", KEY), ("Authorization", f"Bearer {KEY}"), ("X-Request-Id", "id-canary"))
    assert (await server.chat(BODY, *headers)).status == 200
    assert (await server.chat({**BODY, "stream": True}, *headers)).status == 200

    written = cassette.read_text()
    assert KEY not in written
    assert FOREIGN not in written
    assert "id-canary" not in written
    for word in ("authorization", "cookie", "organization", "x-stainless", "user-agent"):
        assert word not in written.lower()
    assert "retry-after" in written
    assert PROMPT in written  # it is what was recorded
    assert os.listdir(tmp_path) == ["new.yaml"]


async def test_no_value_of_the_config_shows_the_key(settings: Any) -> None:
    assert "sk-test-key" not in repr(settings())
    assert "sk-test-key" not in str(settings())


async def test_asyncio_debug_mode_tells_nothing(
    sluice: StartSluice, upstream: Upstream, log_lines: io.StringIO
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    upstream.will(echo(500))
    server = await keyed(sluice, upstream)

    assert (await server.chat(BODY)).status == 502

    loop.set_debug(False)
    await server.record()
    assert_lines_silent(log_lines)
