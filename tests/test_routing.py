"""Models by name, over real sockets: who is asked, who is passed over, and who may ask."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import HELLO, KEY, Sluice, StartSluice, chat, parse_events
from tornado.ioloop import IOLoop
from upstream import (
    ERROR_IN_DATA,
    Upstream,
    after_content,
    answer_stream,
    chunks,
    error,
    fin,
    good,
    ok,
    silence,
    stream,
)

from config import loader
from guards.auth import key_file

STREAM = {**HELLO, "stream": True}


@pytest.fixture
def other(io_loop: IOLoop) -> Iterator[Upstream]:
    """A second provider."""
    scripted = Upstream()
    io_loop.run_sync(scripted.start)
    yield scripted
    io_loop.run_sync(scripted.stop, timeout=10)
    assert scripted.faults == []


@pytest.fixture
def routed(sluice: StartSluice, upstream: Upstream, other: Upstream, tmp_path: Path):
    """`await routed(models="[model:fast]…")`: two providers, and `both` that asks one, then
    the other."""

    async def start(models: str = "", **overrides: object) -> Sluice:
        file = tmp_path / "config.ini"
        file.write_text(
            f"[provider]\nbase_url = {upstream.url}\n"
            f"[provider:other]\nbase_url = {other.url}\napi_key_variable = OTHER_KEY\n"
            "max_tokens_field = max_completion_tokens\n"
            "[model:both]\nupstream = default/gpt-4o-mini, other/their-own/name\n"
            f"{models}"
        )
        environ = {"OPENAI_API_KEY": KEY, "OTHER_KEY": "sk-other-key", "SLUICE_CHAT_MODEL": "both"}
        environ |= {f"SLUICE_{name.upper()}": str(value) for name, value in overrides.items()}
        return await sluice(config=loader.load(file, environ))

    return start


async def test_a_model_goes_to_its_provider_by_the_name_it_has_there(routed, upstream, other):
    other.will(ok("from the other"))
    server = await routed("[model:theirs]\nupstream = other/their/7b\nmax_tokens = 9\n")

    reply = await server.chat({**HELLO, "model": "theirs"})

    assert (reply.status, reply.json["text"]) == (200, "from the other")
    assert reply.headers["x-sluice-provider"] == "other"
    [request] = other.requests
    assert request.json["model"] == "their/7b"
    assert request.json["max_completion_tokens"] == 9
    assert request.header("Authorization") == "Bearer sk-other-key"
    record = await server.record()
    assert (record.model, record.provider, record.upstream_model) == ("theirs", "other", "their/7b")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "failing",
    [error(503), error(429, ("Retry-After", "9")), error(401), error(404), fin],
    ids=["503", "429", "bad key", "no such model there", "hangs up"],
)
@pytest.mark.parametrize("body", [HELLO, STREAM], ids=["whole", "stream"])
async def test_one_that_fails_is_passed_over(routed, upstream, other, failing, body):
    upstream.will(failing)
    other.will(good())
    server = await routed()

    reply = await server.chat(body)

    assert (reply.status, reply.headers["x-sluice-provider"]) == (200, "other")
    assert (len(upstream.requests), len(other.requests)) == (1, 1)
    assert other.requests[0].json["model"] == "their-own/name"
    assert server.backoff.waits == []
    record = await server.record()
    assert (record.code, record.provider, record.attempts) == ("completed", "other", 2)


async def test_a_silent_one_leaves_time_for_the_other(routed, upstream, other):
    upstream.will(silence)
    other.will(answer_stream("Hi"))
    server = await routed(
        provider_deadline_s=0.6,
        provider_attempt_s=0.5,
        provider_first_token_s=0.5,
        provider_connect_s=0.5,
        retry_min_attempt_s=0,
    )

    reply = await server.chat(STREAM)

    assert (reply.status, reply.headers["x-sluice-provider"]) == (200, "other")
    assert (await server.record()).first_token_ms < 550


SDK_ENVIRONMENT = {
    "OPENAI_ORG_ID": "org-of-the-environment",
    "OPENAI_PROJECT_ID": "proj-of-the-environment",
    "OPENAI_ADMIN_KEY": "sk-admin-of-the-environment",
    "OPENAI_WEBHOOK_SECRET": "whsec-of-the-environment",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer sk-of-the-environment\n"
    "User-Agent: of-the-environment\nOpenAI-Project: of-the-environment\n"
    "X-Own: of-the-environment",
}


@pytest.fixture
def sdk_environment(monkeypatch):
    for name, value in SDK_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("sdk_environment")
async def test_the_environment_of_the_sdk_reaches_no_provider(routed, upstream, other):
    upstream.will(error(503))
    other.will(ok())
    server = await routed()

    assert (await server.chat()).status == 200

    for [request], key in ((upstream.requests, KEY), (other.requests, "sk-other-key")):
        assert request.header("Authorization") == f"Bearer {key}"
        assert "of-the-environment" not in repr(request.headers)
        assert {name.lower() for name, _ in request.headers} == {
            "accept", "accept-encoding", "authorization", "content-length", "content-type", "host",
            "user-agent", "x-client-request-id", "x-stainless-retry-count",
        }  # fmt: skip


@pytest.mark.usefixtures("sdk_environment")
@pytest.mark.parametrize("named", [False, True], ids=["default", "named"])
async def test_organization_and_project_go_to_their_provider_alone(routed, upstream, other, named):
    upstream.will(error(503))
    other.will(ok())
    section = "provider_other" if named else "provider"
    server = await routed(**{f"{section}_organization": "org-1", f"{section}_project": "proj-1"})

    assert (await server.chat()).status == 200

    sent = [
        (request.header("OpenAI-Organization"), request.header("OpenAI-Project"))
        for request in (*upstream.requests, *other.requests)
    ]
    both = [("org-1", "proj-1"), (None, None)]
    assert sent == (both[::-1] if named else both)


async def test_an_open_circuit_costs_no_attempt(routed, upstream, other):
    upstream.will(error(503))
    other.will(good())
    server = await routed(circuit_min_calls=1)
    assert (await server.chat()).status == 200
    assert (await server.chat()).status == 200
    assert (len(upstream.requests), len(other.requests)) == (1, 2)
    health = (await server.fetch("GET", "/readyz")).json
    assert health["circuits"] == {"default": "open", "other": "closed"}
    assert server.calls.records[-1].attempts == 1


@pytest.mark.parametrize(
    ("change", "state"),
    [({"first_token_s": 1}, "open"), ({"base_url": "http://127.0.0.1:9/v1"}, "closed")],
    ids=["timer", "address"],
)
async def test_a_circuit_is_forgotten_with_its_provider_alone(
    routed, upstream, other, change, state
):
    upstream.will(error(503))
    other.will(good())
    server = await routed(circuit_min_calls=1)
    assert (await server.chat()).status == 200
    router, providers = server.services.router, server.config.providers
    default = replace(providers["default"], **change)
    config = replace(server.config, providers={**providers, "default": default})

    changed = router.reconfigured(config)
    for provider in changed.commit(config, router):
        await provider.aclose()

    assert changed.circuits["default"].state == state
    await changed.aclose()


async def test_when_all_circuits_are_open_the_server_is_not_ready(routed, upstream, other):
    upstream.will(error(503))
    other.will(error(503))
    server = await routed(circuit_min_calls=1, retry_max_attempts=1)
    (await server.chat()).assert_error(502, "provider_unavailable")
    (await server.chat()).assert_error(503, "circuit_open")
    assert (await server.fetch("GET", "/readyz")).status == 503


@pytest.mark.parametrize("breaks", [None, chunks(ERROR_IN_DATA)], ids=["stall", "error event"])
async def test_after_the_first_content_there_is_no_other(routed, upstream, other, breaks):
    upstream.will(after_content(breaks))
    other.will(good())
    server = await routed(provider_idle_s=0.05)

    reply = await server.chat(STREAM)

    assert parse_events(reply.body)[-1]["type"] == "error"
    assert reply.headers["x-sluice-provider"] == "default"
    assert other.requests == []


async def test_a_refused_prompt_is_not_shown_to_the_other(routed, upstream, other):
    upstream.will(error(400))
    server = await routed()
    (await server.chat()).assert_error(422, "prompt_rejected")
    assert other.requests == []


async def test_a_stream_that_ends_before_its_first_content_is_passed_over(routed, upstream, other):
    upstream.will(stream())
    other.will(answer_stream("Hi"))
    server = await routed()
    reply = await server.chat(STREAM)
    assert (reply.status, reply.headers["x-sluice-provider"]) == (200, "other")


async def test_a_client_that_leaves_leaves_the_other_too(routed, upstream, other):
    upstream.will(error(503))
    other.will(silence)
    server = await routed()
    client = await server.send(chat(STREAM))
    exchange = await other.request()
    client.fin()
    await exchange.closed.wait()
    record = await server.record()
    assert (record.code, record.provider, record.attempts) == ("client_gone", "other", 2)


async def test_a_model_may_be_for_some_callers_alone(routed, upstream, tmp_path):
    ada, _ = key_file.add(tmp_path / "keys.ini", "ada", "2026-11-24")
    bob, _ = key_file.add(tmp_path / "keys.ini", "bob", "2026-11-24")
    upstream.will(ok())
    server = await routed("[model:gpt-4o]\ncallers = ada\n", auth_mode="keys")
    body = {**HELLO, "model": "gpt-4o"}
    assert (await server.chat(body, ("Authorization", f"Bearer {ada}"))).status == 200
    refused = await server.chat(body, ("Authorization", f"Bearer {bob}"))
    refused.assert_error(404, "model_not_found")
    assert refused.json["error"] == "There is no such model; there are both"


async def test_dollars_are_those_of_who_answered(routed, upstream, other):
    upstream.will(error(503))
    other.will(ok(usage={"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}))
    models = "[model:x]\nupstream = default/gpt-4o, other/gpt-4o-mini\n"
    own = "[model:y]\nupstream = other/gpt-4o\ninput_usd_per_million = 1e5\n"
    server = await routed(models + own)
    await server.chat({**HELLO, "model": "x"})
    await server.chat({**HELLO, "model": "y"})
    assert [record.cost_usd for record in server.calls.records] == [1.35e-05, 1.0]
