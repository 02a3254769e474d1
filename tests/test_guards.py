"""The guards on the route: who gets in, what is charged, and what leaves."""

import asyncio
import json
from dataclasses import replace

import pytest
from conftest import HELLO, JSON, Sluice, StartSluice, assert_valid, chat, deadline, encoded
from redis_server import RedisServer
from upstream import (
    DONE,
    Exchange,
    Upstream,
    after_content,
    answer_stream,
    delta,
    error,
    finish,
    held,
    ok,
    role,
    silence,
    stream,
    usage_of,
)

from call import Call
from config import StoreConfig
from guards.auth import key_file
from guards.auth.factory import make_authenticator
from guards.redaction import checks
from provider.dialects.openai_chat import Completion
from store.redis import connection

STREAM = {**HELLO, "stream": True}
PROMPT = 18
"""Tokens of `HELLO` with the system prompt."""
MOST = PROMPT + 4096
"""Tokens of the same with the longest answer."""
ORIGIN = "https://app.example.com"
FROM_PAGE = ("Sec-Fetch-Site", "same-origin")


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


async def refused(server: Sluice, upstream: Upstream, status: int, code: str, *headers) -> None:
    reply = await server.chat(HELLO, *headers)
    reply.assert_error(status, code)
    assert upstream.requests == []


# Authentication


@pytest.fixture
def keyed(sluice: StartSluice, tmp_path):
    """`await keyed()`: a server that wants a key, and the key of `ada`."""
    path = tmp_path / "keys.ini"

    async def start(options: str = "", **overrides: object) -> tuple[Sluice, str]:
        key, _ = key_file.add(path, "ada", "2026-11-24")
        path.write_text(path.read_text() + options)
        return await sluice(auth_mode="keys", auth_keys_file=path, **overrides), key

    return start


async def test_a_key_lets_in_and_names_the_caller(keyed, upstream: Upstream) -> None:
    upstream.will(ok())
    server, key = await keyed()

    assert (await server.chat(HELLO, bearer(key))).status == 200

    assert (await server.record()).caller == "ada"
    assert key not in str(upstream.requests[0])


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic YTpi", "Bearer", "Bearer \xe9"])
async def test_without_a_good_key_nobody_gets_in(keyed, upstream: Upstream, header) -> None:
    server, _ = await keyed()
    headers = () if header is None else (("Authorization", header),)

    reply = await server.chat(HELLO, *headers)

    reply.assert_error(401, "unauthenticated")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert (await server.record()).caller == "anonymous"
    assert upstream.requests == []


async def test_two_authorization_headers_are_refused(keyed, upstream: Upstream) -> None:
    server, key = await keyed()
    await refused(server, upstream, 400, "invalid_request", bearer(key), bearer(key))


async def test_a_key_may_be_held_to_models_and_limits(keyed, upstream: Upstream) -> None:
    upstream.will(ok())
    server, key = await keyed("models = gpt-4o\nrequests_per_minute = 2\n", chat_models="gpt-4o")

    assert (await server.chat(HELLO, bearer(key))).status == 200
    assert upstream.requests[0].json["model"] == "gpt-4o"
    other = await server.chat({**HELLO, "model": "gpt-4o-mini"}, bearer(key))
    assert other.json["error"] == "There is no such model; there are gpt-4o"
    (await server.chat(HELLO, bearer(key))).assert_error(429, "rate_limited")


def test_a_mode_that_nobody_foresaw_lets_nobody_in(settings) -> None:
    config = settings()
    later = replace(config.auth, mode="passkeys")
    with pytest.raises(AssertionError, match="passkeys"):
        make_authenticator(
            later, config.limit_caller, clock=lambda: 0, wall_clock=lambda: 0, first_use=None
        )


# Browsers


@pytest.mark.parametrize(
    "headers",
    [
        (("Sec-Fetch-Site", "cross-site"),),
        (("Sec-Fetch-Site", "same-site"),),
        (("Origin", "https://evil.example"),),
        (("Origin", "null"),),
        (("Sec-Fetch-Site", "cross-site"), ("Origin", ORIGIN)),
    ],
)
async def test_pages_of_other_origins_may_not_call(
    sluice: StartSluice, upstream: Upstream, headers
) -> None:
    await refused(await sluice(), upstream, 403, "forbidden", *headers)


@pytest.mark.parametrize(
    "name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example"]
)
async def test_a_name_that_was_given_our_address_is_nobodys_here(sluice, name):
    """DNS rebinding: the browser takes the page for one of ours."""
    server = await sluice()
    request = chat().replace(b"Host: localhost", f"Host: {name}:8000".encode())
    reply = await (await server.send(request)).reply()
    reply.assert_error(403, "forbidden")
    assert (await server.record()).reason == "host"


@pytest.mark.parametrize(
    "name", ["localhost:8000", "app.localhost", "127.0.0.1:8000", "[::1]:8000"]
)
async def test_this_machines_own_names(sluice, upstream, name):
    upstream.will(ok())
    server = await sluice()
    request = chat().replace(b"Host: localhost", f"Host: {name}".encode())
    assert (await (await server.send(request)).reply()).status == 200


async def test_with_authentication_any_name_will_do(sluice, upstream):
    upstream.will(ok())
    server = await sluice(auth_mode="public")
    request = chat().replace(b"Host: localhost", b"Host: sluice.example")
    assert (await (await server.send(request)).reply()).status == 200


async def test_our_own_page_may_call(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok(), ok())
    server = await sluice()

    assert (await server.chat(HELLO, FROM_PAGE)).status == 200
    assert (await server.chat(HELLO, ("Origin", "http://localhost"))).status == 200


async def test_a_listed_origin_may_call_and_read(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice(browser_allowed_origins=ORIGIN)
    headers = ("Origin", ORIGIN), ("Sec-Fetch-Site", "cross-site")

    preflight = await server.fetch("OPTIONS", "/api/chat", *headers)
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "Authorization" in preflight.headers["access-control-allow-headers"]
    reply = await server.chat(HELLO, *headers)
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert reply.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in reply.headers


async def test_an_origin_that_is_not_listed_learns_nothing(sluice: StartSluice) -> None:
    server = await sluice(browser_allowed_origins=ORIGIN)
    reply = await server.fetch("OPTIONS", "/api/chat", ("Origin", "https://evil.example"))
    assert "access-control-allow-origin" not in reply.headers


async def test_a_request_with_cookies_needs_the_token(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice()
    given = await server.fetch("GET", "/api/xsrf")
    cookie = given.headers["set-cookie"].partition(";")[0]
    token = given.json["xsrfToken"]
    version, mask, masked, instant = token.split("|")

    for wrong in (None, "1234", f"{version}|{mask}|{masked[::-1]}|{instant}"):
        headers = () if wrong is None else (("X-XSRFToken", wrong),)
        await refused(server, upstream, 403, "forbidden", ("Cookie", cookie), *headers)
    reply = await server.chat(HELLO, ("Cookie", cookie), ("X-XSRFToken", token))
    assert reply.status == 200


async def test_where_the_browser_proves_the_origin_no_token_is_needed(
    sluice: StartSluice, upstream: Upstream
) -> None:
    """A cookie of any other application on the same name comes along."""
    upstream.will(ok())
    server = await sluice(browser_allowed_origins=ORIGIN)
    cookie = ("Cookie", "session=of-another-application")
    for proof in (FROM_PAGE, ("Origin", "http://localhost"), ("Origin", ORIGIN)):
        assert (await server.chat(HELLO, cookie, proof)).status == 200


@pytest.mark.parametrize("origin", ["http://[", "http://localhost/", "localhost", "", "x" * 9000])
async def test_an_origin_that_is_none_is_foreign(
    sluice: StartSluice, upstream: Upstream, origin: str
) -> None:
    await refused(await sluice(), upstream, 403, "forbidden", ("Origin", origin))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/chat/id-1/stream"),
        ("GET", "/api/session"),
        ("GET", "/api/xsrf"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/gpt-4o-mini"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/responses"),
    ],
)
async def test_a_listed_page_may_ask_every_route_for_pages(
    sluice: StartSluice, method: str, path: str
) -> None:
    server = await sluice(browser_allowed_origins=ORIGIN)
    from_page = (("Origin", ORIGIN), ("Sec-Fetch-Site", "cross-site"))
    asked = ("Access-Control-Request-Method", method)

    preflight = await server.fetch("OPTIONS", path, *from_page, asked)

    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert method in preflight.headers["access-control-allow-methods"]
    if method == "GET":
        reply = await server.fetch("GET", path, *from_page)
        assert reply.status in (200, 204)
        assert reply.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(
    ("method", "origin", "named"),
    [
        ("OPTIONS", "http://localhost:5173", "http://localhost:5173"),
        ("GET", "http://localhost:5173", "http://localhost:5173"),
        ("POST", "https://evil.example", "https://evil.example"),
        ("OPTIONS", "http://a b\t\xff" + "x" * 500, "http://a?b??" + "x" * 116),
    ],
)
async def test_the_log_says_once_a_minute_which_line_would_let_a_page_in(
    sluice: StartSluice, caplog, method: str, origin: str, named: str
) -> None:
    server = await sluice()
    headers = (("Origin", origin), ("Sec-Fetch-Site", "cross-site"), ("Content-Length", "0"))
    path = "/api/chat/1/stream" if method == "GET" else "/api/chat"

    def told() -> list[str]:
        return [record.fault for record in caplog.records if record.msg == "origin_refused"]

    for _ in range(3):
        await server.fetch(method, path, *headers)
    assert len(told()) == 1
    assert f" SLUICE_BROWSER_ALLOWED_ORIGINS={named} " in told()[0]
    server.clock.advance(61)
    await server.fetch(method, path, *headers)
    assert len(told()) == 2


PROXIED = [
    ("X-Forwarded-For", "203.0.113.7"),
    ("X-Forwarded-Host", "example.com"),
    ("x-forwarded-whatever", "1"),
    ("Forwarded", "for=203.0.113.7"),
    ("X-Real-IP", "203.0.113.7"),
    ("Via", "1.1 proxy"),
    ("CF-Connecting-IP", "203.0.113.7"),
]


@pytest.mark.parametrize("header", PROXIED, ids=lambda header: header[0])
async def test_without_authentication_a_proxy_is_refused_and_the_log_says_why(
    sluice: StartSluice, upstream: Upstream, caplog, header: tuple[str, str]
) -> None:
    server = await sluice()

    await refused(server, upstream, 403, "forbidden", header)

    assert (await server.record()).reason == "proxy"
    for path in ("/", "/metrics", "/api/ops", "/ops", "/api/session", "/openapi.json", "/nowhere"):
        reply = await server.fetch("GET", path, header)
        reply.assert_error(403, "forbidden")
        assert "SLUICE_AUTH_MODE" in reply.json["error"]
    assert (await server.fetch("GET", "/v1/models", header)).status == 403
    for path in ("/healthz", "/readyz"):
        assert (await server.fetch("GET", path, header)).status == 200
    told = [record.fault for record in caplog.records if record.msg == "proxy_refused"]
    assert len(told) == 1
    assert "SLUICE_AUTH_MODE" in told[0]
    assert header[1] not in told[0]


async def test_with_authentication_a_proxy_may_stand_in_front(
    sluice: StartSluice, upstream: Upstream, caplog
) -> None:
    upstream.will(ok())
    server = await sluice(auth_mode="public")
    for header in PROXIED:
        assert (await server.chat(HELLO, header)).status == 200
    server.clock.advance(3600)
    await server.chat(HELLO, PROXIED[0])
    told = [record for record in caplog.records if record.msg == "forwarded_for_ignored"]
    assert len(told) == 1
    assert "SLUICE_SERVER_TRUSTED_HOPS=1" in told[0].fault


async def test_a_token_without_its_cookie_is_nothing(
    sluice: StartSluice, upstream: Upstream
) -> None:
    server = await sluice()
    token = (await server.fetch("GET", "/api/xsrf")).json["xsrfToken"]
    await refused(
        server, upstream, 403, "forbidden", ("Cookie", "session=1"), ("X-XSRFToken", token)
    )


async def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites(
    sluice: StartSluice,
) -> None:
    server = await sluice(auth_mode="public", server_trusted_hops=1)
    plain = (await server.fetch("GET", "/api/xsrf")).headers
    https = (await server.fetch("GET", "/api/xsrf", ("X-Forwarded-Proto", "https"))).headers
    for headers in (plain, https):
        assert "HttpOnly" in headers["set-cookie"]
        assert "SameSite=Strict" in headers["set-cookie"]
    assert "Secure" in https["set-cookie"]
    assert "Secure" not in plain["set-cookie"]
    assert "max-age" in https["strict-transport-security"]
    assert "strict-transport-security" not in plain


async def test_nobody_believes_x_forwarded_proto_without_a_router(sluice: StartSluice) -> None:
    server = await sluice()
    reply = await server.fetch("GET", "/healthz", ("X-Forwarded-Proto", "https"))
    assert "strict-transport-security" not in reply.headers


async def test_every_reply_carries_the_security_headers(sluice: StartSluice) -> None:
    server = await sluice()
    for reply in (await server.fetch("GET", "/healthz"), await server.chat(b"{oops")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["referrer-policy"] == "no-referrer"


# Limits


async def test_the_limit_refuses_with_the_wait_in_header_and_body(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice(limit_ip_requests_per_minute=1)

    first = await server.chat(HELLO)
    assert first.headers["ratelimit"] == '"ip-requests-per-minute";r=0;t=60'
    reply = await server.chat(HELLO)

    reply.assert_error(429, "rate_limited")
    assert_valid(reply.json, "error.json")
    assert reply.json["retry_after"] == int(reply.headers["retry-after"]) == 60 * 2
    assert reply.headers["ratelimit-policy"] == '"ip-requests-per-minute";q=1;w=60'
    assert len(upstream.requests) == 1


async def test_a_forged_address_changes_nothing(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice(auth_mode="public", limit_ip_requests_per_minute=1, server_trusted_hops=1)

    statuses = [
        (await server.chat(HELLO, ("X-Forwarded-For", f"10.0.0.{n}, 203.0.113.7"))).status
        for n in range(3)
    ]
    assert statuses == [200, 429, 429]


async def test_a_call_is_charged_what_the_provider_says(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok(usage=usage_of(100, 200)), ok())
    server = await sluice(limit_ip_tokens_per_day=1000)

    await server.chat({**HELLO, "maxTokens": 900})
    assert (await server.record()).charged_tokens == 300
    assert (await server.chat({**HELLO, "maxTokens": 600})).status == 200


async def test_a_failed_call_costs_nothing(sluice: StartSluice, upstream: Upstream) -> None:
    server = await sluice(limit_ip_tokens_per_day=1000, base_url="http://127.0.0.1:9/v1")

    (await server.chat({**HELLO, "maxTokens": 900})).assert_error(502, "provider_unavailable")
    assert (await server.record()).charged_tokens == 0
    (await server.chat({**HELLO, "maxTokens": 900})).assert_error(502, "provider_unavailable")


async def test_a_stream_that_goes_on_is_cut_and_says_so(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream(*[" word"] * 400))
    server = await sluice()

    reply = await server.chat({**HELLO, "stream": True, "maxTokens": 100})

    *_, finish, done = reply.events
    assert (finish["finishReason"], finish["messageMetadata"]["cut"]) == ("length", True)
    assert_valid(finish, "chat.event.json")
    assert done == "[DONE]"
    record = await server.record()
    assert (record.code, record.cut, record.finish_reason) == ("completed", True, "length")


# Words


async def test_a_long_prompt_is_refused_with_its_count(
    sluice: StartSluice, upstream: Upstream
) -> None:
    server = await sluice(chat_max_prompt_tokens=50)
    reply = await server.chat({"userMessage": "word " * 100})
    reply.assert_error(413, "prompt_too_long")
    assert reply.json["error"] == "The prompt has 117 tokens; the limit is 50 tokens"
    assert upstream.requests == []


LETTER = "Write to ada@example.com, card 4242 4242 4242 4242"


async def test_personal_data_does_not_leave_and_comes_back(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok("Dear [EMAIL_1], your [CARD_1]"))
    server = await sluice()

    reply = await server.chat({"userMessage": LETTER})

    sent = upstream.requests[0].json["messages"][-1]["content"]
    assert sent == "Write to [EMAIL_1], card [CARD_1]"
    assert reply.json["text"] == "Dear ada@example.com, your [CARD_1]"
    assert (await server.record()).redactions == {"email": 1, "card": 1}


async def test_a_placeholder_is_restored_across_chunks(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream("Dear [EM", "AIL", "_1", "], hi"))
    server = await sluice()

    reply = await server.chat({"userMessage": LETTER, "stream": True})

    text = "".join(each["delta"] for each in reply.events[2:-3] if "delta" in each)
    assert text == "Dear ada@example.com, hi"


async def test_a_detector_that_raises_fails_no_call(
    sluice: StartSluice, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "failures", failures := checks.Counter())
    monkeypatch.setattr("handlers.metrics.failures", failures)
    server = await sluice(redaction_card="redact")
    upstream.will(ok())
    assert (await server.chat({"userMessage": "What is order 528666876112297156?"})).status == 200
    monkeypatch.setattr("stdnum.luhn.is_valid", lambda number: {}[number])
    upstream.will(ok())
    assert (await server.chat({"userMessage": "My card is 4242424242424241."})).status == 200
    contents = [request.json["messages"][-1]["content"] for request in upstream.requests]
    assert contents == ["What is order 528666876112297156?", "My card is [CARD_1]."]
    metrics = await server.fetch("GET", "/metrics")
    line = b'sluice_detector_failures_total{error="KeyError",kind="card"} 1.0'
    assert line in metrics.body


async def test_a_blocked_kind_is_refused_by_name(sluice: StartSluice, upstream: Upstream) -> None:
    server = await sluice(redaction_card="block")
    reply = await server.chat({"userMessage": LETTER})
    reply.assert_error(422, "prompt_rejected")
    assert "card" in reply.json["error"]
    assert "4242" not in json.dumps(reply.json)
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", (), 400),
        (b"", (), 400),
        (b'{"userMessage": "a", "zz": 1}', (), 400),
        (b'{"userMessage": "a", "model": "zz"}', (), 404),
        (b"{}", (("Content-Encoding", "gzip"),), 415),
        (b"x" * 300_000, (), 413),
        (b"{}", (("Idempotency-Key", "a"), ("Idempotency-Key", "b")), 400),
    ],
    ids=["not JSON", "empty", "unknown field", "model", "gzip", "too large", "two keys"],
)
async def test_a_request_is_counted_whatever_its_body_is(
    sluice: StartSluice, upstream: Upstream, body: bytes, headers, status: int
) -> None:
    server = await sluice(limit_ip_requests_per_minute=1)
    data = encoded("POST", "/api/chat", (JSON, *headers), body)

    first = await (await server.send(data)).reply()
    assert (first.status, first.headers["ratelimit"]) == (
        status,
        '"ip-requests-per-minute";r=0;t=60',
    )
    second = await (await server.send(data)).reply()
    second.assert_error(429, "rate_limited")


async def test_a_wrong_key_is_counted_against_the_address_alone(keyed, upstream: Upstream) -> None:
    upstream.will(ok())
    server, key = await keyed(
        limit_ip_requests_per_minute=2, limit_total_requests_per_minute=1, server_trusted_hops=1
    )
    wrong, right = (("Authorization", f"Bearer {each}") for each in (key + "x", key))
    here, there = (("X-Forwarded-For", f"203.0.113.{n}") for n in (1, 2))

    statuses = [(await server.chat(HELLO, wrong, here)).status for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert (await server.chat(HELLO, right, here)).status == 429
    assert (await server.chat(HELLO, right, there)).status == 200


async def test_both_steps_stand_in_the_headers(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice(limit_ip_requests_per_minute=10, limit_ip_tokens_per_day=100)
    reply = await server.chat({**HELLO, "maxTokens": 10})
    assert reply.headers["ratelimit-policy"] == (
        '"ip-requests-per-minute";q=10;w=60, "ip-tokens-per-day";q=100;w=86400'
    )
    assert reply.headers["ratelimit"].startswith('"ip-tokens-per-day";r=')
    refused = await server.chat({**HELLO, "maxTokens": 99})
    refused.assert_error(413, "prompt_too_long")
    assert '"ip-requests-per-minute";q=10' in refused.headers["ratelimit-policy"]


def of_tools(*items: str) -> dict[str, object]:
    """A message whose tool call has these items in its arguments."""
    function = {"name": "f", "arguments": json.dumps(items)}
    call = {"id": "c", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    ("messages", "threads"),
    [
        ([{"role": "user", "content": "Hi"}] * 20, []),
        ([{"role": "user", "content": "a" * 32_000}], []),
        ([{"role": "user", "content": "a" * 33_000}], ["redact", "_weight"]),
        ([{"role": "user", "content": ""}] * 200, ["redact", "_weight"]),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}] * 200}],
            ["redact", "_weight"],
        ),
        ([of_tools("a", "b")], []),
        ([of_tools(*"a" * 200)], ["redact"]),  # one text to count, two hundred to look through
    ],
    ids=["usual", "longish", "long", "messages", "parts", "a tool", "arguments"],
)
async def test_work_that_takes_long_is_done_in_a_thread(
    sluice: StartSluice, upstream: Upstream, monkeypatch, messages, threads: list[str]
) -> None:
    upstream.will(ok())
    server = await sluice(chat_max_prompt_tokens=100_000)
    to_thread, used = asyncio.to_thread, []

    async def counting(work, *args):
        used.append(work.__name__)
        return await to_thread(work, *args)

    monkeypatch.setattr(asyncio, "to_thread", counting)
    data = json.dumps({"messages": messages}).encode()
    reply = await (
        await server.send(encoded("POST", "/v1/chat/completions", (JSON,), data))
    ).reply()
    assert reply.status == 200
    assert [name for name in used if name in ("redact", "_weight")] == threads


# Idempotency

KEY = ("Idempotency-Key", '"8e03978e-40d5-43dd-bc93-6894a57f9324"')


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
async def test_a_repeated_request_gets_the_stored_reply_for_nothing(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    upstream.will(answer_stream("Hi", " there") if streamed else ok("Hi there"))
    server = await sluice(limit_ip_requests_per_minute=2)
    body = {**HELLO, "stream": streamed}

    first = await server.chat(body, KEY)
    second = await server.chat(body, KEY)

    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert (second.status, second.body) == (200, first.body)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert len(upstream.requests) == 1
    await server.calls.wait(2)
    replayed = server.calls.records[1]
    assert (replayed.code, replayed.replayed, replayed.attempts) == ("completed", True, 0)
    assert replayed.charged_tokens == 0


async def test_another_body_under_the_same_key_is_refused(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice()
    await server.chat(HELLO, KEY)
    (await server.chat({"userMessage": "Bye"}, KEY)).assert_error(422, "idempotency_mismatch")


async def test_a_failure_is_not_kept(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(stream(role(), delta("cut")), answer_stream("Hi"))
    server = await sluice()
    body = {**HELLO, "stream": True}

    assert (await server.chat(body, KEY)).events[-1]["type"] == "error"
    assert (await server.chat(body, KEY)).events[-1] == "[DONE]"


async def test_a_malformed_key_is_refused(sluice: StartSluice, upstream: Upstream) -> None:
    server = await sluice()
    for value in ("", "a" * 256, '"', "a b"):
        await refused(server, upstream, 400, "invalid_request", ("Idempotency-Key", value))
    await refused(server, upstream, 400, "invalid_request", KEY, KEY)


async def test_where_no_replies_are_kept_the_header_is_ignored(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice(idempotency_max_entries=0)
    for headers in ((KEY,), (KEY, KEY), (("Idempotency-Key", "a b"),), (("Idempotency-Key", ""),)):
        assert (await server.chat(HELLO, *headers)).status == 200
    assert len(upstream.requests) == 4


async def test_a_second_request_joins_the_call_in_flight(
    sluice: StartSluice, upstream: Upstream
) -> None:
    go = asyncio.Event()
    upstream.will(held(go, ok("Hi there")))
    server = await sluice()
    first = await server.send(chat(HELLO, KEY))
    await upstream.request()
    second = await server.send(chat(HELLO, KEY))
    await followed(server)

    go.set()

    replies = [await client.reply() for client in (first, second)]
    assert [reply.json["text"] for reply in replies] == ["Hi there"] * 2
    assert len(upstream.requests) == 1


async def test_a_stream_goes_on_for_those_who_joined(
    sluice: StartSluice, upstream: Upstream
) -> None:
    go = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(delta("Hi"))
        await go.wait()
        await exchange.chunk(delta(" there"), finish(), DONE)
        await exchange.chunk()

    upstream.will(step)
    server = await sluice()
    first = await server.send(chat({**HELLO, "stream": True}, KEY))
    await first.head()
    await first.until(b"Hi")
    second = await server.send(chat({**HELLO, "stream": True}, KEY))
    await second.head()
    await second.until(b"Hi")

    first.fin()
    await followed(server)
    go.set()

    assert b" there" in await second.body()
    await server.calls.wait(2)
    assert {record.code for record in server.calls.records} == {"completed"}


async def test_when_all_have_left_the_call_ends(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(after_content(silence))
    server = await sluice()
    clients = [await server.send(chat({**HELLO, "stream": True}, KEY)) for _ in range(2)]
    for client in clients:
        await client.head()

    for client in clients:
        client.fin()

    await upstream.exchanges[0].closed.wait()
    await server.calls.wait(2)
    assert {record.code for record in server.calls.records} == {"client_gone"}
    await server.at_rest()


@pytest.mark.parametrize("scope", ["ip", "total"])
async def test_who_follows_a_reply_takes_a_place(
    sluice: StartSluice, upstream: Upstream, scope: str
) -> None:
    upstream.will(after_content(silence))
    server = await sluice(**{f"limit_{scope}_in_flight": 3})
    clients = [await server.send(chat({**HELLO, "stream": True}, KEY)) for _ in range(3)]
    assert [(await client.head()).status for client in clients] == [200] * 3

    refused = await (await server.send(chat({**HELLO, "stream": True}, KEY))).reply()

    assert (refused.status, refused.json["code"]) == (429, "rate_limited")
    assert len(upstream.requests) == 1
    for client in clients:
        client.fin()
    await server.at_rest()


async def test_who_waits_for_the_reply_of_another_process_takes_a_place(
    sluice: StartSluice, upstream: Upstream, redis: RedisServer
) -> None:
    upstream.will(silence)
    one = await sluice(redis_url=redis.url, limit_ip_in_flight=3)
    other = await sluice(redis_url=redis.url, limit_ip_in_flight=3)
    other.backoff.held = True
    clients = [await one.send(chat(HELLO, KEY))]
    await upstream.request()
    clients += [await other.send(chat(HELLO, KEY)) for _ in range(2)]
    while len(other.backoff.waits) < 2:  # noqa: ASYNC110  it is no event of the server's
        await asyncio.sleep(0)

    (await other.chat(HELLO, KEY)).assert_error(429, "rate_limited")

    assert len(upstream.requests) == 1
    for client in clients:
        client.fin()
    for server in (one, other):
        await server.at_rest()


async def test_a_repeated_reply_is_a_request(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice(limit_ip_requests_per_minute=2, limit_ip_tokens_per_day=10**6)
    replies = [await (await server.send(chat(HELLO, KEY))).reply() for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[1].headers["idempotency-replayed"] == "true"
    assert server.calls.records[1].charged_tokens == 0
    assert held_now(server)["tokens_per_day"] == server.calls.records[0].charged_tokens


async def followed(server: Sluice, followers: int = 1) -> None:
    """Wait until so many requests follow another's."""
    [(buffer, _)] = server.services.replies._buffers.values()
    while buffer.followers != followers:  # noqa: ASYNC110  it is no event of the server's
        await asyncio.sleep(0)


# Nothing lost: what was reserved is charged or given back, whatever happened


async def crash(call: Call) -> Completion:
    raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("step", "body", "charged"),
    [
        (ok(usage=usage_of(9, 3)), HELLO, 12),
        (ok("Hi there"), HELLO, PROMPT + 2),
        (answer_stream("Hi", " there"), STREAM, 12),
        (error(400), HELLO, 0),
        (error(500), HELLO, 0),
        (stream(role(), delta("Hi"), delta(" there")), STREAM, MOST),
        (silence, HELLO, MOST),
        (crash, HELLO, 0),
    ],
    ids=["whole", "uncounted", "stream", "refused", "down", "cut off", "late", "crash"],
)
async def test_what_was_reserved_is_charged_or_given_back(
    sluice: StartSluice, upstream: Upstream, step, body, charged: int
) -> None:
    server = await sluice(
        limit_ip_tokens_per_day=10_000, limit_ip_in_flight=1, retry_max_attempts=1, **deadline(0.2)
    )
    if step is crash:
        server.services.router.complete = crash
    else:
        upstream.will(step)

    await server.chat(body)

    assert (await server.record()).charged_tokens == charged
    assert held_now(server) == {"tokens_per_day": charged, "in_flight": 0}


async def test_a_client_that_leaves_pays_for_what_it_asked(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(after_content(silence))
    server = await sluice(limit_ip_tokens_per_day=10_000, limit_ip_in_flight=1)
    client = await server.send(chat(STREAM))
    await client.head()

    client.rst()

    record = await server.record()
    assert (record.code, record.counted_by) == ("client_gone", "partial")
    assert record.charged_tokens == MOST
    assert held_now(server) == {"tokens_per_day": record.charged_tokens, "in_flight": 0}


async def test_a_refused_request_takes_nothing(sluice: StartSluice, upstream: Upstream) -> None:
    server = await sluice(limit_ip_tokens_per_day=10_000, chat_max_prompt_tokens=1)
    await server.chat(HELLO)
    assert held_now(server) == {}


def held_now(server: Sluice) -> dict[str, int]:
    """What the counters of this address hold."""
    windows = server.gate.limits._memory._windows
    return {key.split(":")[1]: count.current for key, (_, count) in windows.items()}


@pytest.mark.parametrize("end", ["kill", "freeze"])
async def test_redis_failing_under_load_loses_no_call(
    sluice: StartSluice, upstream: Upstream, redis: RedisServer, end: str
) -> None:
    upstream.will(*[ok(usage=usage_of(9, 3))] * 60)
    server = await sluice(redis_url=redis.url, limit_ip_tokens_per_day=10**6)
    before = await asyncio.gather(*(server.chat() for _ in range(30)))
    during = [asyncio.create_task(server.chat()) for _ in range(30)]
    await asyncio.sleep(0)

    getattr(redis, end)()

    assert {reply.status for reply in (*before, *await asyncio.gather(*during))} == {200}
    await server.calls.wait(60)
    assert {record.code for record in server.calls.records} == {"completed"}
    assert (await server.fetch("GET", "/healthz")).json["store"] == "down"
    await server.at_rest()


@pytest.mark.parametrize(("policy", "status"), [("open", 200), ("closed", 503)])
@pytest.mark.parametrize("fault", ["no_permission", "wrong_type", "wrong_database"])
async def test_a_redis_that_refuses_is_handled_as_one_that_is_down(
    sluice: StartSluice,
    upstream: Upstream,
    redis: RedisServer,
    policy: str,
    status: int,
    fault: str,
) -> None:
    admin = connection(StoreConfig(redis.url, 5, "open", "sluice"))
    url = redis.url
    if fault == "no_permission":
        await admin.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-@scripting")
        url = url.replace("redis://", "redis://u:p@")
    elif fault == "wrong_database":
        url = url.replace("/0", "/99")
    upstream.will(*[ok()] * 4)
    limits = {"limit_ip_in_flight": 5, "store_timeout_s": 5}
    server = await sluice(redis_url=url, store_on_failure=policy, **limits)
    if fault == "wrong_type":
        await admin.set("{sluice}:ip:in_flight:127.0.0.1", "not leases")

    replies = [await server.chat(), await server.chat(HELLO, KEY)]

    assert [reply.status for reply in replies] == [status] * 2
    if policy == "closed":
        replies[0].assert_error(503, "overloaded")
    await admin.aclose()
    await server.at_rest()


async def test_who_joined_a_call_that_failed_gets_its_failure(
    sluice: StartSluice, upstream: Upstream
) -> None:
    go = asyncio.Event()
    upstream.will(held(go, error(503)), error(503), ok("Hi there"))
    server = await sluice(retry_max_attempts=2)
    clients = [await server.send(chat(HELLO, KEY))]
    await upstream.request()
    clients += [await server.send(chat(HELLO, KEY)) for _ in range(11)]
    await followed(server, 11)

    go.set()

    for client in clients:
        (await client.reply()).assert_error(502, "provider_unavailable")
    assert len(upstream.requests) == 2
    await server.calls.wait(12)
    assert sorted(record.attempts for record in server.calls.records) == [0] * 11 + [2]
    assert {record.reason for record in server.calls.records} == {"status_503"}

    assert (await server.chat(HELLO, KEY)).json["text"] == "Hi there"
