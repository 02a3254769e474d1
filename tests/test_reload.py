"""SIGHUP: the settings are read again, and come into force whole or not at all."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import processes
import pytest
from conftest import HELLO, KEY, Reply, chat, encoded
from processes import Process, Start
from upstream import DONE, Upstream, after_content, chunks, either, finish, held, ok, usage

start = processes.start
STREAM = {**HELLO, "stream": True}
LIMITS = "[limit_ip]\nrequests_per_minute = {}\ntokens_per_minute = 0\ntokens_per_day = 0\n"


class Live:
    """A server whose settings are a file beside it, and what it asks."""

    def __init__(self, process: Process, file: Path) -> None:
        self.process = process
        self._file = file
        self._reloads = {"reloaded": 0, "reload_failed": 0}

    async def reload(self, text: str, event: str = "reloaded") -> dict[str, object]:
        """Change the file and send the signal; the line that says what came of it."""
        self._file.write_text(text)
        self.process.signal(signal.SIGHUP)
        self._reloads[event] += 1
        return await self.process.line(event, self._reloads[event])

    async def ask(self, body: dict[str, object] = HELLO) -> Reply:
        return await self.process.ask(chat(body))


@pytest.fixture
def begin(start: Start, upstream: Upstream, tmp_path: Path) -> Callable[..., Awaitable[Live]]:
    async def run(text: str = "", **variables: str) -> Live:
        file = tmp_path / "config.ini"
        file.write_text(text)
        upstream.will(either(ok("yes"), after_content(chunks(finish(), usage(), DONE))))
        variables = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": upstream.url, **variables}
        given = {name: value for name, value in variables.items() if value}
        return Live(await start("--config", file, **given), file)

    return run


async def test_a_limit_changes_and_what_was_counted_stays(begin):
    live = await begin(LIMITS.format(3))
    assert [(await live.ask()).status for _ in range(2)] == [200, 200]

    told = await live.reload(LIMITS.format(4))

    assert told["changed"] == ["[limit_ip] requests_per_minute"]
    assert [(await live.ask()).status for _ in range(3)] == [200, 200, 429]
    await live.reload(LIMITS.format(0))
    assert (await live.ask()).status == 200


async def test_models_redaction_and_log_level_change(begin, upstream):
    live = await begin("[redaction]\nemail = off\n")
    mail = {"userMessage": "Write to ada@example.com", "model": "other"}
    (await live.ask(mail)).assert_error(404, "model_not_found")

    await live.reload("[chat]\nmodels = other\n[redaction]\nemail = redact\n[log]\nlevel = DEBUG\n")

    assert (await live.ask(mail)).status == 200
    asked = upstream.requests[-1].json
    assert (asked["model"], asked["messages"][-1]["content"]) == ("other", "Write to [EMAIL_1]")
    await live.process.ask(encoded("GET", "/healthz"))
    assert (await live.process.line("request"))["route"] == "/healthz"

    told = await live.reload("[redaction]\nemail = block\n[log]\nlevel = DEBUG\n")
    assert told["changed"] == ["[chat] models", "[redaction] email", "[model:other]"]
    (await live.ask({**mail, "model": "gpt-4o-mini"})).assert_error(422, "prompt_rejected")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[limit_ip]\nrequests_per_minute = many\n", "requests_per_minute = 'many'"),
        ("[server]\ndrain = 1\n", "unknown key drain"),
        ("[auth]\nmode = keys\n", "keys.ini"),
        (
            "[provider:b]\nbase_url = http://127.0.0.1:9/v1\n[model:m]\nupstream = b/m\n",
            "B_API_KEY",
        ),
    ],
)
async def test_a_bad_file_keeps_the_old_settings_and_says_why(begin, text, fault):
    live = await begin(LIMITS.format(2))
    assert (await live.ask()).status == 200

    told = await live.reload(text, "reload_failed")

    assert (told["level"], fault in told["fault"]) == ("ERROR", True)
    assert [(await live.ask()).status for _ in range(2)] == [200, 429]
    await live.reload("")
    assert (await live.ask()).status == 200


async def test_a_stream_goes_on_across_a_reload(begin, upstream):
    live = await begin()
    go = asyncio.Event()
    upstream.will(after_content(held(go, chunks(finish(), usage(), DONE))))
    client = await live.process.send(chat(STREAM))
    await client.head()
    begun = await client.until(b" three")

    told = await live.reload("[provider]\nattempt_s = 20\n[server]\nmax_in_flight = 1\n")
    assert "[provider] attempt_s" in told["changed"]
    (await live.ask()).assert_error(503, "overloaded")
    go.set()

    body = begun + await client.body()
    assert body.endswith(b"data: [DONE]\n\n")
    client.fin()
    upstream.will(ok("again"))
    assert (await live.ask()).json["text"] == "again"
    await live.process.line("call", 3)
    assert [line["code"] for line in live.process.lines if line["event"] == "call"] == [
        "overloaded",
        "completed",
        "completed",
    ]


async def test_what_needs_a_restart_is_named_and_stays(begin):
    live = await begin()

    told = await live.reload(
        "[server]\nport = 9\n[store]\nprefix = other\n[chat]\nmodels = other\n"
    )

    assert told["needs_restart"] == ["[store] prefix"]
    assert told["changed"] == ["[chat] models", "[model:other]"]
    assert (await live.ask()).status == 200


async def test_a_server_for_all_does_not_lose_its_guard(begin):
    live = await begin("[server]\nhost = 0.0.0.0\n[auth]\nmode = public\n")

    told = await live.reload("[auth]\nmode = none\n", "reload_failed")

    assert told["fault"].startswith("[auth] mode = none: listens on loopback only, not on 0.0.0.0")


async def test_a_server_that_asks_a_provider_does_not_begin_to_replay(begin, tmp_path):
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}")
    live = await begin(OPENAI_API_KEY="", OPENAI_BASE_URL="")
    (tmp_path / ".env").write_text("")

    told = await live.reload("", "reload_failed")

    assert "replaying begins with a restart only" in told["fault"]


async def test_a_key_from_env_is_read_again(begin, upstream, tmp_path):
    (tmp_path / ".env").write_text("OPENAI_API_KEY=first")
    live = await begin(OPENAI_API_KEY="")
    await live.ask()
    (tmp_path / ".env").write_text("OPENAI_API_KEY=second")

    told = await live.reload("")
    await live.ask()

    assert told["changed"] == ["[provider] api_key"]
    assert [each.header("authorization") for each in upstream.requests] == [
        "Bearer first",
        "Bearer second",
    ]
