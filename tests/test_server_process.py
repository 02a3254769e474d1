"""`python server.py` as a process: commands, exit codes, replay, record, and its end."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
from pathlib import Path

import processes
import pytest
from conftest import HELLO, KEY, ROOT, Client, Reply, assert_valid, chat, encoded
from processes import Process, Start, environment, finished
from redis.asyncio import Redis
from redis_server import RedisServer
from upstream import (
    DONE,
    Upstream,
    after_content,
    answer_stream,
    chunks,
    completion,
    delta,
    either,
    error,
    finish,
    held,
    ok,
    silence,
    usage,
)

from provider.replay.cassette import Provenance, Recording, save

start = processes.start
pytestmark = pytest.mark.slow  # each starts a process

STREAM = {**HELLO, "stream": True}


@pytest.fixture
def cassettes(tmp_path: Path) -> Path:
    """A folder with one recording of "Hello", buffered and streamed."""
    asked = {"messages": [{"role": "user", "content": "Hello"}]}
    kinds = {
        "application/json": (asked, json.dumps(completion("Hi!")).encode()),
        "text/event-stream": (
            {**asked, "stream": True},
            delta("Hi") + delta("!") + finish() + usage() + DONE,
        ),
    }
    recordings = [
        Recording(
            url="http://127.0.0.1/v1/chat/completions",
            request_body=json.dumps(question).encode(),
            status=200,
            reason="OK",
            headers=(("content-type", kind),),
            body=body,
        )
        for kind, (question, body) in kinds.items()
    ]
    folder = tmp_path / "cassettes"
    folder.mkdir()
    save(folder / "hello.yaml", recordings, Provenance("nobody", "2026-01-01", "a test"))
    return folder


def texts(reply: Reply) -> str:
    return "".join(event.get("delta", "") for event in reply.events if event != "[DONE]")


# Starting


async def test_without_a_key_it_replays_and_says_so(start: Start, cassettes: Path) -> None:
    server = await start(SLUICE_REPLAY_CASSETTES=str(cassettes))

    line = await server.line("listening")
    assert (line["mode"], line["auth"]) == ("replay", "none")
    assert line["address"].startswith("http://127.0.0.1:")
    health = await server.ask(encoded("GET", "/healthz"))
    assert health.json["provider"] == "replay"
    assert_valid(health.json, "health.json")
    whole = await server.ask(chat(HELLO))
    assert whole.json["text"] == "Hi!"
    assert_valid(whole.json, "chat.response.json")
    streamed = await server.ask(chat(STREAM))
    assert texts(streamed) == "Hi!"
    assert streamed.events[-1] == "[DONE]"

    server.signal(signal.SIGTERM)
    assert await server.ended() == 0
    assert [line["event"] for line in server.lines if line["event"] != "request"] == [
        "listening",
        "call",
        "call",
        "signal",
        "draining",
        "stopped",
    ]


async def test_it_starts_on_the_recordings_that_it_brings(start: Start, cassettes: Path) -> None:
    brought = ROOT / "cassettes"
    there = any(brought.glob("*.yaml"))
    server = await start(SLUICE_REPLAY_CASSETTES=str(brought if there else cassettes))

    assert (await server.ask(chat(HELLO))).json["text"]
    assert texts(await server.ask(chat(STREAM)))


@pytest.mark.parametrize("scenario", ["truncated", "disconnect", "garbage"])
async def test_replay_plays_failures_on_request(
    start: Start, cassettes: Path, scenario: str
) -> None:
    server = await start("replay", cassettes / "hello.yaml", SLUICE_RETRY_BACKOFF_S="0.001")

    reply = await server.ask(chat(HELLO, ("X-Replay-Scenario", scenario)))
    reply.assert_error(502, "provider_unavailable")
    once = await server.ask(chat(HELLO, ("X-Replay-Scenario", "disconnect_once")))
    assert once.json["text"] == "Hi!"
    assert (await server.line("call", 2))["attempts"] == 2
    unknown = await server.ask(chat(HELLO, ("X-Replay-Scenario", "nothing")))
    unknown.assert_error(400, "invalid_request")


async def test_a_replayed_answer_says_whether_it_is_that_of_this_prompt(
    start: Start, cassettes: Path
) -> None:
    server = await start("replay", cassettes)
    other = {"userMessage": "What is the weather like?"}

    for number, (body, fits) in enumerate([(HELLO, "exact"), (other, "substitute")], 1):
        whole = await server.ask(chat(body))
        streamed = await server.ask(chat({**body, "stream": True}))
        assert [each.headers["x-sluice-recording"] for each in (whole, streamed)] == [fits, fits]
        assert_valid(streamed.events[0], "chat.event.json")
        assert streamed.events[0]["messageMetadata"]["recording"] == fits
        assert (await server.line("call", 2 * number))["recording"] == fits


@pytest.mark.parametrize("body", [HELLO, STREAM], ids=["whole", "stream"])
async def test_failures_that_are_played_leave_the_circuit_closed(
    start: Start, cassettes: Path, body: dict[str, object]
) -> None:
    quick = {"SLUICE_RETRY_BACKOFF_S": "0.001", "SLUICE_CIRCUIT_MIN_CALLS": "2"}
    server = await start("replay", cassettes, **quick)
    for scenario in ("garbage", "disconnect", "truncated") * 2:
        await server.ask(chat(body, ("X-Replay-Scenario", scenario)))

    assert (await server.ask(chat(HELLO))).json["text"] == "Hi!"
    assert (await server.ask(encoded("GET", "/readyz"))).status == 200
    again = await server.ask(chat(HELLO, ("X-Replay-Scenario", "garbage")))
    again.assert_error(502, "provider_unavailable")


async def test_a_replay_does_not_count_with_real_calls(
    start: Start, cassettes: Path, redis: RedisServer
) -> None:
    server = await start("replay", cassettes, REDIS_URL=redis.url)
    await server.ask(chat(HELLO))
    client = Redis.from_url(redis.url)
    try:
        names = [name async for name in client.scan_iter("*")]
    finally:
        await client.aclose()
    assert names
    assert all(name.startswith(b"{sluice:replay}:") for name in names)


async def test_what_was_recorded_replays(start: Start, upstream: Upstream, tmp_path: Path) -> None:
    upstream.will(either(ok("From far away"), answer_stream("From", " far", " away")))
    cassette = tmp_path / "new.yaml"
    recorder = await start("record", cassette, OPENAI_API_KEY=KEY, OPENAI_BASE_URL=upstream.url)
    assert (await recorder.ask(encoded("GET", "/healthz"))).json["provider"] == "record"
    assert (await recorder.ask(chat(HELLO))).json["text"] == "From far away"
    assert texts(await recorder.ask(chat(STREAM))) == "From far away"
    await recorder.line("recorded", 2)
    recorder.signal(signal.SIGTERM)
    assert await recorder.ended() == 0
    assert KEY not in cassette.read_text()

    server = await start("replay", cassette, OPENAI_API_KEY=KEY, OPENAI_BASE_URL=upstream.url)
    assert (await server.ask(chat(HELLO))).json["text"] == "From far away"
    assert texts(await server.ask(chat(STREAM))) == "From far away"
    assert len(upstream.requests) == 2


# Ending


@pytest.mark.parametrize("body", [HELLO, STREAM], ids=["buffered", "streamed"])
async def test_sigterm_twice_lets_a_call_finish(
    start: Start, upstream: Upstream, body: dict[str, object]
) -> None:
    go = asyncio.Event()
    whole = after_content(held(go, chunks(finish(), usage(), DONE)))
    upstream.will(either(held(go, ok("late")), whole))
    server = await start(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=upstream.url)
    client = await server.send(chat(body))
    await upstream.request()

    server.signal(signal.SIGTERM)
    assert (await server.line("draining"))["in_flight"] == 1
    server.signal(signal.SIGTERM)
    await server.line("signal", 2)
    with pytest.raises(ConnectionError):
        await server.send(chat())
    go.set()

    reply = await client.reply()
    assert reply.status == 200
    if body is STREAM:
        assert reply.events[-1] == "[DONE]"
    assert await server.ended() == 0
    assert (await server.line("call"))["code"] == "completed"
    assert server.lines[-1]["event"] == "stopped"
    client.fin()


@pytest.mark.parametrize("body", [HELLO, STREAM], ids=["buffered", "streamed"])
async def test_a_call_that_outlasts_the_drain_ends_honestly(
    start: Start, upstream: Upstream, body: dict[str, object]
) -> None:
    upstream.will(either(silence, after_content(silence)))
    server = await start(
        OPENAI_API_KEY=KEY, OPENAI_BASE_URL=upstream.url, SLUICE_SERVER_DRAIN_S="0.1"
    )
    client = await server.send(chat(body))
    recording = await upstream.request()
    begun = b""
    if body is STREAM:
        head = await client.head()
        begun = await client.until(b" three")

    server.signal(signal.SIGTERM)
    server.signal(signal.SIGTERM)

    if body is STREAM:
        events = Reply(200, head.headers, begun + await client.body()).events
        assert (events[-1]["type"], events[-1]["code"]) == ("error", "draining")
    else:
        reply = await client.reply()
        reply.assert_error(503, "draining")
        assert reply.headers["connection"] == "close"
    assert await server.ended() == 0
    assert (await server.line("call"))["code"] == "draining"
    await recording.closed.wait()
    client.fin()


async def test_sigint_ends_it_and_a_second_one_at_once(start: Start, upstream: Upstream) -> None:
    upstream.will(silence)
    server = await start(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=upstream.url)
    client = await server.send(chat())
    await upstream.request()

    server.signal(signal.SIGINT)
    await server.line("draining")
    server.signal(signal.SIGINT)

    assert await server.ended() == 130
    client.fin()


async def test_an_idle_kept_connection_does_not_hold_up_the_end(
    start: Start, cassettes: Path
) -> None:
    server = await start(SLUICE_REPLAY_CASSETTES=str(cassettes))
    client = await server.send(chat())
    assert (await client.reply()).status == 200

    server.signal(signal.SIGTERM)

    assert await client.closed() == b""
    assert await server.ended() == 0
    client.fin()


async def test_metrics_have_a_port_of_their_own_until_the_end(
    start: Start, upstream: Upstream
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    go = asyncio.Event()
    upstream.will(held(go, ok()))
    server = await start(
        OPENAI_API_KEY=KEY, OPENAI_BASE_URL=upstream.url, SLUICE_METRICS_PORT=str(port)
    )

    async def scrape() -> bytes:
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        await client.send(encoded("GET", "/metrics"))
        body = (await client.reply()).body
        client.fin()
        return body

    assert b"\nsluice_calls_in_flight 0.0\n" in await scrape()
    (await server.ask(encoded("GET", "/metrics"))).assert_error(404, "not_found")
    client = await server.send(chat())
    await upstream.request()
    server.signal(signal.SIGTERM)
    await server.line("draining")
    assert b"\nsluice_calls_in_flight 1.0\n" in await scrape()
    go.set()
    assert (await client.reply()).status == 200
    assert await server.ended() == 0
    client.fin()


async def test_a_log_that_nobody_reads_holds_up_no_call_and_not_the_end(cassettes: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "server.py"),
        env=environment(
            PYTHONWARNINGS="error",
            SLUICE_REPLAY_CASSETTES=str(cassettes),
            SLUICE_LIMIT_IP_REQUESTS_PER_MINUTE="0",
        ),
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writer)
    first = await asyncio.to_thread(os.read, reader, 4096)
    port = int(json.loads(first)["sluice.address"].rpartition(":")[2])
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    for _ in range(50):
        await client.send(chat(HELLO))
        assert (await client.reply()).status == 200

    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert (await process.communicate())[1] == b""
    assert process.returncode == 0
    assert len(os.read(reader, 65_536)) <= 4096
    os.close(reader)
    client.fin()


# Commands


async def test_config_prints_every_setting_with_secrets_masked() -> None:
    code, output, errors = await finished(
        "config", OPENAI_API_KEY="sk-canary", SLUICE_RETRY_MAX_ATTEMPTS="2"
    )

    assert (code, errors) == (0, "")
    assert "sk-canary" not in output
    lines = output.splitlines()
    assert "api_key = (set)" in lines
    assert "max_attempts = 2" in lines
    assert "[server]" in lines


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SLUICE_RETRY_MAX_ATTEMPTS", "0", "SLUICE_RETRY_MAX_ATTEMPTS"),
        ("SLUICE_RETRY_MAX_ATTEMPS", "1", "did you mean SLUICE_RETRY_MAX_ATTEMPTS?"),
        ("SLUICE_PROVIDER_DEADLINE_S", "31", "platform_timeout_s"),
        ("PORT", "99999", "0 to 65535"),
        ("OPENAI_BASE_URL", "http://user:canary@host", "OPENAI_BASE_URL"),
        ("SLUICE_SERVER_HOST", "0.0.0.0", "SLUICE_AUTH_MODE=public"),
        ("SLUICE_REPLAY_CASSETTES", "/nowhere", "/nowhere"),
    ],
)
async def test_a_bad_setting_is_one_line_and_exit_code_1(name: str, value: str, told: str) -> None:
    code, output, errors = await finished(**{name: value})

    assert (code, output) == (1, "")
    assert errors.startswith("sluice: ")
    assert len(errors.splitlines()) == 1
    assert told in errors
    assert "canary" not in errors


async def test_a_taken_port_is_one_line_and_exit_code_1(cassettes: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        code, _, errors = await finished(PORT=str(port), SLUICE_REPLAY_CASSETTES=str(cassettes))

    assert code == 1
    assert len(errors.splitlines()) == 1
    assert str(port) in errors


async def test_record_wants_a_key_and_a_new_file(tmp_path: Path) -> None:
    code, _, errors = await finished("record", tmp_path / "new.yaml")
    assert (code, len(errors.splitlines())) == (1, 1)
    assert "OPENAI_API_KEY" in errors

    there = tmp_path / "there.yaml"
    there.write_text("precious")
    code, _, errors = await finished("record", there, OPENAI_API_KEY=KEY)
    assert (code, len(errors.splitlines())) == (1, 1)
    assert there.read_text() == "precious"


@pytest.mark.parametrize("content", ["", "interactions: []", "a: b: c"])
async def test_what_is_no_cassette_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)

    code, output, errors = await finished("replay", path)

    assert (code, output, len(errors.splitlines())) == (1, "", 1)
    assert str(path) in errors


async def test_help_names_every_command() -> None:
    code, output, _ = await finished("--help")

    assert code == 0
    for word in ("serve", "check", "config", "record", "replay", "--config", "curl", "SLUICE_"):
        assert word in output


async def test_an_unknown_command_is_exit_code_2() -> None:
    code, _, errors = await finished("fly")

    assert code == 2
    assert "usage:" in errors


def keyed(key: str) -> bytes:
    return chat(HELLO, ("Authorization", f"Bearer {key}"))


async def test_two_processes_share_limits_and_go_on_without_redis(
    start: Start, cassettes: Path, redis: RedisServer, tmp_path: Path
) -> None:
    shared = {
        "REDIS_URL": redis.url,
        "SLUICE_LIMIT_IP_TOKENS_PER_DAY": "1000",
        "SLUICE_LIMIT_TOTAL_USD_PER_DAY": "0",
        "SLUICE_REPLAY_CASSETTES": str(cassettes),
    }
    one, other = await start(**shared), await start(**shared)
    body = chat({**HELLO, "maxTokens": 970})

    async def held_tokens(process: Process) -> int:
        """Tokens of the day that are taken; a call gives back what it did not use."""
        reply = await process.ask(chat({**HELLO, "maxTokens": 1}))
        assert reply.status == 200, reply
        return 1000 - int(reply.headers["ratelimit"].partition("r=")[2].partition(";")[0])

    before = await held_tokens(one)
    assert await held_tokens(other) > before
    assert {(await process.ask(body)).status for process in (one, other) * 2} == {429}

    redis.kill()
    assert (await one.ask(body)).status == 200
    assert (await one.line("store_down"))["reason"] == "connection"
    ready = await one.ask(encoded("GET", "/readyz"))
    assert (ready.status, ready.json["store"]) == (200, "down")


async def test_without_redis_and_closed_nobody_gets_in(
    start: Start, cassettes: Path, redis: RedisServer
) -> None:
    server = await start(
        REDIS_URL=redis.url,
        SLUICE_STORE_ON_FAILURE="closed",
        SLUICE_REPLAY_CASSETTES=str(cassettes),
    )
    assert (await server.ask(chat())).status == 200
    redis.kill()
    (await server.ask(chat())).assert_error(503, "overloaded")
    ready = await server.ask(encoded("GET", "/readyz"))
    assert (ready.status, ready.json["status"]) == (503, "store_down")
    assert_valid(ready.json, "health.json")


async def test_keys_are_added_listed_used_and_revoked(
    start: Start, cassettes: Path, tmp_path: Path
) -> None:
    file = tmp_path / "keys.ini"
    variables = {"SLUICE_AUTH_KEYS_FILE": str(file), "SLUICE_REPLAY_CASSETTES": str(cassettes)}
    variables |= {
        f"SLUICE_LIMIT_{scope}_{name}_PER_MINUTE": "0"
        for scope in ("IP", "CALLER")
        for name in ("REQUESTS", "TOKENS")
    }
    code, told, _ = await finished("keys", "add", "web", **variables)
    key = told.partition("\n")[0]
    assert (code, key[:7], key in file.read_text()) == (0, "sluice_", False)
    await finished("keys", "add", "app", **variables)
    assert (await finished("keys", "list", **variables))[:2] == (0, "web\napp\n")

    server = await start(SLUICE_AUTH_MODE="keys", **variables)
    assert (await server.ask(keyed(key))).status == 200
    assert (await server.line("call"))["caller"] == "web"
    assert (await finished("keys", "revoke", "web", **variables))[0] == 0
    while (await server.ask(keyed(key))).status == 200:
        pass  # for a second at most
    (await server.ask(keyed(key))).assert_error(401, "unauthenticated")


async def test_a_mode_without_its_keys_does_not_start(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.ini")
    variables = {"SLUICE_AUTH_MODE": "keys", "SLUICE_AUTH_KEYS_FILE": missing}
    code, _, told = await finished(**variables)
    assert (code, told.count("\n")) == (1, 1)
    assert "keys add NAME makes it" in told
    code, _, told = await finished(SLUICE_AUTH_MODE="jwt")
    assert (code, "SLUICE_AUTH_JWT_SECRET" in told) == (1, True)


async def test_the_log_switch_of_the_sdk_logs_no_request(start: Start, upstream: Upstream) -> None:
    upstream.will(ok())
    variables = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": upstream.url, "OPENAI_LOG": "debug"}
    server = await start(**variables)

    assert (await server.ask(chat({"userMessage": "canary"}))).status == 200

    server.signal(signal.SIGTERM)
    assert await server.ended() == 0  # with nothing on standard error
    assert "canary" not in repr(server.lines)
    assert "library" not in {line["event"] for line in server.lines}
    _, output, errors = await finished("check", "--live", **variables)
    assert ("default/gpt-4o-mini" in output, errors) == (True, "")


async def test_a_provider_that_no_model_uses_needs_no_key(
    start: Start, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.will(ok("from groq"), error(503))
    file = tmp_path / "config.ini"
    file.write_text(
        f"[provider:groq]\nbase_url = {upstream.url}\n"
        "[chat]\nmodel = fast\n[model:fast]\nupstream = groq/llama\n"
        "[retry]\nmax_attempts = 1\n[circuit]\nmin_calls = 2\n"
    )
    server = await start("--config", file, GROQ_API_KEY=KEY)

    assert (await server.ask(chat())).json["text"] == "from groq"
    assert (await server.ask(chat())).status == 502

    # Nor does its circuit, which nothing can open, make the server look ready.
    ready = await server.ask(encoded("GET", "/readyz"))
    assert (ready.status, ready.json["circuits"]) == (503, {"groq": "open"})
