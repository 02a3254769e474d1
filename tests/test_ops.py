"""The operations page as HTTP sees it: who may look, what there is to see, and what never is."""

import json

import pytest
from conftest import HELLO, Sluice, StartSluice, assert_valid
from upstream import Upstream, after_content, answer_stream, error, fin, ok, usage_of

from guards.auth import key_file
from telemetry.recent import KEPT

TOKEN = "operator-token-9c41"
BEARER = ("Authorization", f"Bearer {TOKEN}")
PROMPT, ANSWER = "canary-prompt-83ab", "canary-answer-d07e"


async def look(server: Sluice, target: str = "/api/ops", *headers: tuple[str, str]) -> dict:
    """The document."""
    reply = await server.fetch("GET", target, *headers)
    assert reply.status == 200, reply
    assert_valid(reply.json, "ops.json")
    return reply.json


# Who may look


async def test_on_loopback_it_is_open(sluice: StartSluice) -> None:
    server = await sluice()
    assert (await server.fetch("GET", "/ops")).status == 200
    reply = await server.fetch("GET", "/api/ops")
    assert reply.status == 200
    assert reply.headers["cache-control"] == "no-store"


async def test_a_foreign_name_that_points_here_learns_nothing(sluice: StartSluice) -> None:
    server = await sluice()
    client = await server.send(b"GET /api/ops HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    (await client.reply()).assert_error(403, "forbidden")


async def test_behind_a_proxy_it_is_not_there_without_a_token(sluice: StartSluice) -> None:
    server = await sluice(server_trusted_hops=1)
    (await server.fetch("GET", "/api/ops")).assert_error(404, "not_found")
    (await server.fetch("GET", "/ops")).assert_error(404, "not_found")


async def test_beyond_loopback_it_is_not_there_without_a_token(sluice: StartSluice) -> None:
    server = await sluice(auth_mode="public")
    for target in ("/api/ops", "/ops", "/web/ops/main.js"):
        (await server.fetch("GET", target)).assert_error(404, "not_found")
        (await server.fetch("GET", target, BEARER)).assert_error(404, "not_found")


@pytest.mark.parametrize("mode", ["none", "public", "keys"])
async def test_where_there_is_a_token_it_is_asked_for(
    sluice: StartSluice, mode: str, tmp_path
) -> None:
    key, _ = key_file.add(tmp_path / "keys.ini", "ada", "2026-11-24")
    server = await sluice(
        auth_mode=mode, auth_keys_file=str(tmp_path / "keys.ini"), ops_token=TOKEN
    )
    for headers in ((), (("Authorization", f"Bearer {TOKEN}x"),), (("Authorization", key),)):
        reply = await server.fetch("GET", "/api/ops", *headers)
        reply.assert_error(401, "unauthenticated")
        assert reply.headers["www-authenticate"] == "Bearer"
    caller = await server.fetch("GET", "/api/ops", ("Authorization", f"Bearer {key}"))
    caller.assert_error(401, "unauthenticated")
    (await server.fetch("GET", f"/api/ops?token={TOKEN}")).assert_error(401, "unauthenticated")
    assert (await server.fetch("GET", "/api/ops", BEARER)).status == 200
    shell = await server.fetch("GET", "/ops")
    assert shell.status == 200
    assert "script-src 'self'" in shell.headers["content-security-policy"]


@pytest.mark.parametrize("query", ["before=1", "after=", "after=-1", "after=x", "after=1&after=2"])
async def test_other_queries_are_refused(sluice: StartSluice, query: str) -> None:
    server = await sluice()
    (await server.fetch("GET", f"/api/ops?{query}")).assert_error(400, "invalid_request")


# What there is to see


async def test_a_server_that_has_done_nothing_says_so(sluice: StartSluice) -> None:
    server = await sluice()
    seen = await look(server)
    assert (seen["version"], seen["mode"], seen["store"]) == ("0.0.test", "live", "memory")
    assert (seen["inFlight"], seen["maxInFlight"], seen["draining"]) == (0, 200, False)
    assert seen["circuits"] == [{"provider": "default", "state": "closed", "openForS": 0}]
    assert seen["retries"] == {"inFlight": 0, "left": 3}
    assert (seen["slots"], seen["calls"], seen["lastCall"], seen["callsPerS"]) == ([], [], 0, 0)
    assert seen["chartSlots"] == {"quarter": 60, "hour": 240, "day": 240}
    assert (seen["maxCalls"], seen["statuses"]["deadline_exceeded"]) == (KEPT, 504)


async def test_calls_are_seen_with_their_timeline(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(error(503), ok("Hi", usage=usage_of(9, 3)), answer_stream("Hi", " there"))
    server = await sluice()
    await server.chat(HELLO, ("X-Request-Id", "order-7"))
    await server.stream()
    await server.chat({"userMessage": ""})

    seen = await look(server)

    retried, streamed, refused = seen["calls"]
    assert (retried["requestId"], retried["code"], retried["status"]) == (
        "order-7",
        "completed",
        200,
    )
    first, second = retried["attempts"]
    assert (first["provider"], first["model"]) == ("default", "gpt-4o-mini")
    assert (first["reason"], "reason" in second) == ("status_503", False)
    rounding = 0.2  # each figure is rounded to a tenth
    assert 0 <= first["beganMs"] <= first["beganMs"] + first["tookMs"]
    assert first["beganMs"] + first["tookMs"] <= second["beganMs"] + rounding
    assert second["beganMs"] + second["tookMs"] <= retried["latencyMs"] + rounding
    assert (retried["promptTokens"], retried["answerTokens"]) == (9, 3)
    assert (retried["countedBy"], retried["finishReason"]) == ("provider", "stop")
    assert streamed["stream"] is True
    assert 0 < streamed["firstTokenMs"] <= streamed["latencyMs"]
    assert (refused["code"], refused["attempts"]) == ("invalid_request", [])
    hour = seen["spans"]["hour"]
    assert hour["codes"] == {"completed": 2, "invalid_request": 1}
    assert (hour["completed"], hour["clientErrors"], hour["serverErrors"]) == (2, 1, 0)
    assert (hour["attempts"], hour["retries"]) == (3, 1)
    assert hour["faults"] == [{"provider": "default", "reason": "status_503", "attempts": 1}]
    assert (hour["latencyMs"]["measured"], hour["firstTokenMs"]["measured"]) == (2, 1)
    (spender,) = hour["models"]
    assert (spender["name"], spender["calls"]) == ("gpt-4o-mini", 2)
    assert spender["usd"] > 0
    assert [slot[:4] for slot in seen["slots"]] == [[0, 2, 1, 0]]
    assert seen["lastCall"] == 3
    assert seen["callsPerS"] > 0


async def test_only_the_calls_after_the_last_known_are_sent_again(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok(), ok(), ok())
    server = await sluice()
    for _ in range(3):
        await server.chat()
    assert [call["number"] for call in (await look(server, "/api/ops?after=1"))["calls"]] == [2, 3]
    assert (await look(server, "/api/ops?after=3"))["calls"] == []


async def test_limits_and_who_spends_are_seen(
    sluice: StartSluice, upstream: Upstream, tmp_path
) -> None:
    upstream.will(ok(usage=usage_of(9, 3)))
    key, _ = key_file.add(tmp_path / "keys.ini", "ada", "2026-11-24")
    server = await sluice(
        auth_mode="keys",
        auth_keys_file=str(tmp_path / "keys.ini"),
        ops_token=TOKEN,
        limit_total_usd_per_day=20,
        limit_total_requests_per_minute=4,
        limit_caller_requests_per_minute=1,
    )
    for _ in range(2):
        await server.chat(HELLO, ("Authorization", f"Bearer {key}"))

    seen = await look(server, "/api/ops", BEARER)

    requests, usd = seen["limits"]
    assert requests == {"rule": "total-requests-per-minute", "used": 1, "maximum": 4}
    assert (usd["rule"], usd["maximum"]) == ("total-usd-per-day", 20)
    assert 0 < usd["used"] < 0.01
    hour = seen["spans"]["hour"]
    assert hour["limits"] == {"caller-requests-per-minute": 1}
    (ada,) = hour["callers"]
    assert (ada["name"], ada["calls"]) == ("ada", 2)
    assert (ada["promptTokens"], ada["answerTokens"]) == (9, 3)


async def test_an_open_circuit_is_seen_with_the_time_it_takes(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(error(500), error(500))
    server = await sluice(circuit_min_calls=1, retry_max_attempts=1)
    await server.chat()
    await server.chat()
    seen = await look(server)
    (circuit,) = seen["circuits"]
    assert circuit["state"] == "open"
    assert 4 < circuit["openForS"] <= 5
    assert seen["spans"]["hour"]["codes"] == {"circuit_open": 1, "provider_unavailable": 1}


async def test_the_many_are_told_together(sluice: StartSluice, upstream: Upstream) -> None:
    server = await sluice()
    tally = server.services.window._open.counts
    for number in range(25):
        tally["caller", f"caller-{number}", "calls"] += 1
        tally["caller", f"caller-{number}", "nano_usd"] += number
    tally["caller", "", "calls"] += 100
    *named, others = (await look(server))["spans"]["hour"]["callers"]
    assert [row["name"] for row in named] == [f"caller-{number}" for number in range(24, 4, -1)]
    assert (others["name"], others["calls"]) == (None, 105)
    assert others["usd"] == pytest.approx(10e-9)


async def test_it_is_one_document_of_less_than_100_kB(
    sluice: StartSluice, upstream: Upstream
) -> None:
    server = await sluice(retry_max_attempts=1, limit_total_usd_per_day=20)
    for _ in range(KEPT + 5):
        upstream.will(ok(usage=usage_of(9, 3)))
        await server.chat()
    reply = await server.fetch("GET", "/api/ops")
    assert len(reply.json["calls"]) == KEPT
    assert len(reply.body) < 100_000


# What never is


async def test_it_holds_no_content(sluice: StartSluice, upstream: Upstream) -> None:
    canaries = {
        "userMessage": f"{PROMPT} of {PROMPT}@example.com",
        "messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWER}],
    }
    upstream.will(
        ok(ANSWER),
        answer_stream(ANSWER, ANSWER, reason=ANSWER),
        error(500, code=ANSWER, message=ANSWER),
        after_content(fin),
        ok(ANSWER, finish_reason=ANSWER),
    )
    server = await sluice(retry_max_attempts=1)
    for streamed in (False, True, False, True, False):
        await server.chat({**canaries, "stream": streamed})
    await server.chat({**canaries, PROMPT: ANSWER})
    await server.chat(canaries, ("X-Request-Id", f"{PROMPT} not an id"))

    reply = await server.fetch("GET", "/api/ops")

    assert len(reply.json["calls"]) == 7
    assert reply.json["spans"]["hour"]["redactions"]["email"] == 6
    assert {call.get("finishReason") for call in reply.json["calls"]} == {None, "stop", "other"}
    for canary in (PROMPT, ANSWER):
        assert canary not in json.dumps(reply.json)
        assert canary not in str(reply.headers)
