"""What HTTP allows and Sluice does not: bodies, methods, framing, limits, health and drain."""

import asyncio
import json
from typing import Any

import pytest
from conftest import HELLO, JSON, Reply, StartSluice, assert_valid, chat, encoded
from upstream import Upstream, error, good, held, ok, silence

from app.serving import drain

TOO_LARGE = b'{"userMessage": "' + b"x" * 300_000 + b'"}'
CHUNKED = ("Transfer-Encoding", "chunked")


def chunked(*parts: bytes) -> bytes:
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (*parts, b""))


def assert_bare(read: bytes) -> None:
    """Nothing, or Tornado's bare 400; never a page."""
    assert read == b"" or read.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"<html" not in read
    assert b"Tornado" not in read


# Addresses and methods


@pytest.mark.parametrize(
    "target",
    ["/api", "/api/chat/", "/api/chatx", "/%ff", "/api/%ff", "/../etc/passwd", "//", "/a?b=c"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_address_is_404(sluice: StartSluice, method: str, target: str) -> None:
    server = await sluice()

    reply = await server.fetch(method, target, ("Content-Length", "0"))

    reply.assert_error(404, "not_found")
    assert server.calls.records == []


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        *((m, "/api/chat", "OPTIONS, POST") for m in ("GET", "PUT", "PATCH", "DELETE")),
        *((m, "/api/chat", "OPTIONS, POST") for m in ("TRACE", "FOO", "get")),
        *((m, path, "GET, HEAD") for m in ("POST", "PUT") for path in ("/healthz", "/readyz")),
        ("TRACE", "/healthz", "GET, HEAD"),
    ],
)
async def test_another_method_is_405(
    sluice: StartSluice, method: str, target: str, allow: str
) -> None:
    server = await sluice()

    reply = await server.fetch(method, target)

    reply.assert_error(405, "method_not_allowed")
    assert sorted(reply.headers["allow"].split(", ")) == sorted(allow.split(", "))


@pytest.mark.parametrize("target", ["/healthz", "/readyz"])
async def test_head_is_get_without_a_body(sluice: StartSluice, target: str) -> None:
    server = await sluice()
    client = await server.send(encoded("HEAD", target))

    head = await client.head()

    assert head.status == 200
    assert int(head.headers["content-length"]) > 0
    await client.send(encoded("GET", target))
    assert (await client.reply()).status == 200


@pytest.mark.parametrize("query", ["api_key=sk-1", "_xsrf=1", "x", "userMessage=Hello"])
async def test_query_parameters_are_400(
    sluice: StartSluice, upstream: Upstream, query: str
) -> None:
    server = await sluice()
    body = json.dumps(HELLO).encode()

    client = await server.send(encoded("POST", f"/api/chat?{query}", (JSON,), body))

    (await client.reply()).assert_error(400, "invalid_request")
    assert (await server.record()).attempts == 0
    assert upstream.requests == []


# Bodies


USER_MESSAGE = "userMessage must be a non-empty string"
BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "broken": b"{oops",
    "trailing text": b'{"userMessage": "Hi"} x',
    "two documents": b'{"userMessage": "Hi"}{"userMessage": "Hi"}',
    "single quotes": b"{'userMessage': 'Hi'}",
    "trailing comma": b'{"userMessage": "Hi",}',
    "comment": b'{"userMessage": "Hi"} // x',
    "control character": b'{"userMessage": "a\nb"}',
    "bad UTF-8": b'{"userMessage": "\xff"}',
    "overlong UTF-8": b'{"userMessage": "\xc0\xaf"}',
    "encoded surrogate": b'{"userMessage": "\xed\xa0\x80"}',
    "UTF-16": '{"userMessage": "Hi"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"userMessage": "Hi"}'.encode("utf-16-le"),
    "BOM": b'\xef\xbb\xbf{"userMessage": "Hi"}',
    "NaN": b'{"userMessage": "Hi", "maxTokens": NaN}',
    "Infinity": b'{"userMessage": "Hi", "maxTokens": Infinity}',
    "-Infinity": b'{"userMessage": "Hi", "maxTokens": -Infinity}',
    "1e400": b'{"userMessage": "Hi", "maxTokens": 1e400}',
    "5,000 digits": b'{"userMessage": "Hi", "maxTokens": ' + b"9" * 5000 + b"}",
    "40,000 levels": b"[" * 40_000 + b"]" * 40_000,
    "40,000 objects": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    "33 levels": b'{"userMessage": ' + b"[" * 33 + b"]" * 33 + b"}",
    "duplicate keys": b'{"userMessage": "Hi", "userMessage": "Ho"}',
    "duplicate keys, one escaped": b'{"userMessage": "Hi", "userMess\\u0061ge": "Ho"}',
    "duplicate keys below": (
        b'{"userMessage": "Hi", "messages": [{"role": "user", "role": "user", "content": "x"}]}'
    ),
    "lone surrogate": b'{"userMessage": "\\ud800"}',
    "lone surrogate as a key": b'{"userMessage": "Hi", "\\ud800": 1}',
    "null": b"null",
    "array": b"[]",
    "string": b'"Hi"',
    "number": b"5",
    "extra key": b'{"userMessage": "Hi", "temperature": 1}',
    "NUL": b'{"userMessage": "a\\u0000b"}',
    "system role": b'{"userMessage": "Hi", "messages": [{"role": "system", "content": "x"}]}',
    "history no array": b'{"userMessage": "Hi", "messages": {}}',
    "blank history": b'{"userMessage": "Hi", "messages": [{"role": "user", "content": " "}]}',
    "history too long": json.dumps(
        {"userMessage": "Hi", "messages": [{"role": "user", "content": "x"}] * 201}
    ).encode(),
    "stream a string": b'{"userMessage": "Hi", "stream": "true"}',
    "stream null": b'{"userMessage": "Hi", "stream": null}',
    "model null": b'{"userMessage": "Hi", "model": null}',
}
BAD_USER_MESSAGES: list[Any] = [None, 5, [], {}, True, "", " ", "\n\t", "\u3000"]


@pytest.mark.parametrize("fault", BAD_BODIES)
async def test_a_bad_body_is_400(sluice: StartSluice, upstream: Upstream, fault: str) -> None:
    server = await sluice()

    reply = await server.chat(BAD_BODIES[fault])

    reply.assert_error(400, "invalid_request")
    record = await server.record()
    assert (record.code, record.status, record.attempts) == ("invalid_request", 400, 0)
    assert upstream.requests == []


@pytest.mark.parametrize("value", BAD_USER_MESSAGES, ids=repr)
async def test_a_user_message_must_be_a_non_empty_string(
    sluice: StartSluice, value: object
) -> None:
    server = await sluice()

    reply = await server.chat({"userMessage": value})

    reply.assert_error(400, "invalid_request")
    assert reply.json["error"] == USER_MESSAGE


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"stream": True}], ids=str)
async def test_a_missing_user_message_is_told(sluice: StartSluice, body: object) -> None:
    server = await sluice()

    reply = await server.chat(body)

    reply.assert_error(400, "invalid_request")
    assert reply.json["error"] == USER_MESSAGE


async def test_an_error_before_a_stream_is_json(sluice: StartSluice) -> None:
    server = await sluice()

    reply = await server.chat({"stream": True}, ("Accept", "text/event-stream"))

    reply.assert_error(400, "invalid_request")


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        'application/json; profile="x"; charset="utf-16"',
        "application/json; charset=utf-8; charset=utf-16",
        "application/jsonx",
        "text/json",
        "",
    ],
)
async def test_another_content_type_is_415(sluice: StartSluice, kind: str) -> None:
    server = await sluice()

    reply = await server.chat(HELLO, ("Content-Type", kind))

    reply.assert_error(415, "unsupported_media_type")
    assert (await server.record()).code == "unsupported_media_type"


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json;",
        "Application/JSON ; charset=UTF-8",
        'application/json;charset="utf8"',
        'application/json; charset=utf-8; profile="x"',
        'application/json; profile="; charset=utf-16"; charset=utf-8',
        'application/json; profile="a \\"; charset=utf-16"; v=1',
        "application/json; odata.metadata=minimal",
        "application/json; charset=US-ASCII",
    ],
)
async def test_json_in_utf_8_is_accepted(
    sluice: StartSluice, upstream: Upstream, kind: str
) -> None:
    upstream.will(ok())
    server = await sluice()

    assert (await server.chat(HELLO, ("Content-Type", kind))).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "identity, gzip"])
async def test_a_compressed_body_is_415(sluice: StartSluice, encoding: str) -> None:
    server = await sluice()

    reply = await server.chat(b"\x1f\x8b\x08", ("Content-Encoding", encoding))

    reply.assert_error(415, "unsupported_media_type")


async def test_two_content_types_are_415(sluice: StartSluice) -> None:
    server = await sluice()

    (await server.chat(HELLO, JSON, ("Content-Type", "text/plain"))).assert_error(
        415, "unsupported_media_type"
    )


@pytest.mark.parametrize("form", ["Content-Length", "chunked"])
async def test_a_body_over_the_limit_is_413_and_the_connection_goes_on(
    sluice: StartSluice, upstream: Upstream, form: str
) -> None:
    upstream.will(ok())
    server = await sluice()
    if form == "chunked":
        half = len(TOO_LARGE) // 2
        body = chunked(TOO_LARGE[:half], TOO_LARGE[half:])
        client = await server.send(encoded("POST", "/api/chat", (JSON, CHUNKED)) + body)
    else:
        client = await server.send(chat(TOO_LARGE))

    (await client.reply()).assert_error(413, "body_too_large")

    assert (await server.record()).code == "body_too_large"
    await client.send(chat())
    assert (await client.reply()).status == 200
    assert len(upstream.requests) == 1


async def test_a_body_at_the_limit_is_accepted(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice(server_max_body_bytes=2000)
    body = json.dumps({"userMessage": ""}).encode()
    filled = body.replace(b'""', b'"' + b"x" * (2000 - len(body)) + b'"')
    assert len(filled) == 2000

    assert (await server.chat(filled)).status == 200
    (await server.chat(filled + b" ")).assert_error(413, "body_too_large")


async def test_a_declared_body_over_the_hard_cap_is_413_at_once_and_closed(
    sluice: StartSluice,
) -> None:
    server = await sluice()
    length = ("Content-Length", str(17 * 1024 * 1024))
    client = await server.send(encoded("POST", "/api/chat", (JSON, length)))

    reply = await client.reply()

    reply.assert_error(413, "body_too_large")
    assert reply.headers["connection"] == "close"
    assert await client.closed() == b""
    assert (await server.record()).code == "body_too_large"


async def test_a_chunked_body_over_the_hard_cap_is_413_and_closed(sluice: StartSluice) -> None:
    server = await sluice()
    client = await server.send(encoded("POST", "/api/chat", (JSON, CHUNKED)))
    megabyte = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    for _ in range(16):
        await client.send(megabyte)
    await client.send(b"1\r\nx\r\n")

    reply = await client.reply()

    reply.assert_error(413, "body_too_large")
    assert reply.headers["connection"] == "close"
    assert await client.closed() == b""
    assert (await server.record()).code == "body_too_large"


async def test_a_chunked_body_is_read(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice()
    data = json.dumps(HELLO).encode()
    body = chunked(*(bytes((byte,)) for byte in data))

    client = await server.send(encoded("POST", "/api/chat", (JSON, CHUNKED)) + body)

    assert (await client.reply()).status == 200


async def test_a_body_for_an_unknown_address_is_read_and_thrown_away(
    sluice: StartSluice,
) -> None:
    server = await sluice()
    client = await server.send(encoded("POST", "/nowhere", (JSON,), TOO_LARGE))

    (await client.reply()).assert_error(404, "not_found")


async def test_a_slow_body_is_closed_and_settled(sluice: StartSluice, upstream: Upstream) -> None:
    server = await sluice(server_body_timeout_s=0.1)
    client = await server.send(chat()[:-5])

    assert_bare(await client.closed())

    record = await server.record()
    assert (record.code, record.status, record.attempts) == ("client_gone", 499, 0)
    assert upstream.requests == []


async def test_an_idle_connection_is_closed(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice(server_idle_connection_s=0.1)
    client = await server.send(chat())
    assert (await client.reply()).status == 200

    assert await client.closed() == b""

    assert len(server.calls.records) == 1


async def test_expect_100_continue_is_answered(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice()
    data = chat(HELLO, ("Expect", "100-continue"))
    head, body = data.split(b"\r\n\r\n")
    client = await server.send(head + b"\r\n\r\n")
    assert (await client.head()).status == 100

    await client.send(body)

    assert (await client.reply()).status == 200


# Framing


HEAD = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = '\r\n{"userMessage": "Hello"}'
MALFORMED = {
    "unequal Content-Length twice": HEAD + "Content-Length: 24\r\nContent-Length: 25\r\n" + BODY,
    "Content-Length with chunked": (
        HEAD + "Content-Length: 24\r\nTransfer-Encoding: chunked\r\n" + BODY
    ),
    "gzip, chunked": HEAD + "Transfer-Encoding: gzip, chunked\r\n" + BODY,
    "chunked twice": HEAD + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + BODY,
    "length with a sign": HEAD + "Content-Length: +2\r\n" + BODY,
    "length in hex": HEAD + "Content-Length: 0x2\r\n" + BODY,
    "negative length": HEAD + "Content-Length: -1\r\n" + BODY,
    "NUL in a header": HEAD + "X-A: a\x00b\r\n" + BODY,
    "CR in a header": HEAD + "X-A: a\rb\r\n" + BODY,
    "no Host": HEAD.replace("Host: localhost\r\n", "") + BODY,
    "two Hosts": HEAD + "Host: y\r\n" + BODY,
    "bad Host": HEAD.replace("Host: localhost", "Host: a/b c") + BODY,
    "HTTP/2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no HTTP": "hello\r\n\r\n",
    "20 KB header": HEAD + "X-A: " + "x" * 20_000 + "\r\n" + BODY,
    "10,000 headers": HEAD + "".join(f"X-{n}: a\r\n" for n in range(10_000)) + BODY,
    "bad chunk": HEAD + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("fault", MALFORMED)
async def test_malformed_http_is_closed_without_a_word(
    sluice: StartSluice, upstream: Upstream, fault: str
) -> None:
    upstream.will(ok())
    server = await sluice()
    client = await server.send(MALFORMED[fault].encode("latin-1"))

    assert_bare(await client.closed())

    assert upstream.requests == []
    assert (await server.chat()).status == 200


async def test_every_settled_request_that_broke_in_its_body_is_client_gone(
    sluice: StartSluice,
) -> None:
    server = await sluice()
    client = await server.send(MALFORMED["bad chunk"].encode())

    assert_bare(await client.closed())

    assert (await server.record()).code == "client_gone"


# Health, limits and drain


async def test_health(sluice: StartSluice) -> None:
    server = await sluice()
    for target in ("/healthz", "/readyz"):
        reply = await server.fetch("GET", target)
        assert reply.status == 200
        assert reply.json == {
            "status": "ok",
            "version": "0.0.test",
            "provider": "live",
            "circuits": {"default": "closed"},
            "store": "memory",
            "inFlight": 0,
        }
        assert_valid(reply.json, "health.json")
        assert reply.headers["cache-control"] == "no-store"


async def test_health_counts_the_calls_in_flight(sluice: StartSluice, upstream: Upstream) -> None:
    go = asyncio.Event()
    upstream.will(held(go, ok()))
    server = await sluice()
    client = await server.send(chat())
    await upstream.request()

    assert (await server.fetch("GET", "/healthz")).json["inFlight"] == 1

    go.set()
    assert (await client.reply()).status == 200
    await server.record()


async def test_not_ready_while_the_circuit_is_open(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(error(500))
    server = await sluice(circuit_min_calls=1, retry_max_attempts=1)
    await server.chat()

    reply = await server.fetch("GET", "/readyz")
    assert (reply.status, reply.json["status"]) == (503, "circuit_open")
    assert_valid(reply.json, "health.json")
    alive = await server.fetch("GET", "/healthz")
    assert (alive.status, alive.json["circuits"]["default"]) == (200, "open")

    server.clock.advance(31)
    reply = await server.fetch("GET", "/readyz")
    assert (reply.status, reply.json["circuits"]["default"]) == (200, "half_open")


async def test_not_ready_while_draining(sluice: StartSluice) -> None:
    server = await sluice()
    server.services.admission.draining = True

    reply = await server.fetch("GET", "/readyz")

    assert (reply.status, reply.json["status"]) == (503, "draining")
    assert_valid(reply.json, "health.json")
    assert reply.headers["connection"] == "close"
    assert (await server.fetch("GET", "/healthz")).status == 200


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
async def test_one_call_too_many_is_overloaded_at_once(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    go = asyncio.Event()
    upstream.will(held(go, good()))
    server = await sluice(server_max_in_flight=2)
    held_calls = [await server.send(chat({**HELLO, "stream": streamed})) for _ in range(2)]
    await upstream.request(2)

    reply = await server.chat({**HELLO, "stream": streamed})

    reply.assert_error(503, "overloaded")
    assert server.calls.records[0].attempts == 0
    go.set()
    for client in held_calls:
        assert (await client.reply()).status == 200
    await server.calls.wait(3)
    assert (await server.chat()).status == 200
    assert len(upstream.requests) == 3


async def test_a_kept_connection_is_told_to_leave_while_draining(
    sluice: StartSluice, upstream: Upstream
) -> None:
    go = asyncio.Event()
    upstream.will(ok("before"), held(go, ok("last")))
    server = await sluice()
    kept = await server.send(chat())
    assert "connection" not in (await kept.reply()).headers
    busy = await server.send(chat())
    await upstream.request(2)
    draining = asyncio.ensure_future(drain(server.http_server, server.services))
    await asyncio.sleep(0)

    await kept.send(chat())

    reply = await kept.reply()
    reply.assert_error(503, "draining")
    assert reply.headers["connection"] == "close"
    go.set()
    assert (await busy.reply()).json["text"] == "last"
    await draining
    codes = [record.code for record in server.calls.records]
    assert codes == ["completed", "draining", "completed"]
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("target", ["/api/chat", "/readyz", "/healthz", "/nowhere"])
async def test_who_says_connection_close_closes(
    sluice: StartSluice, upstream: Upstream, target: str
) -> None:
    """RFC 9112 9.6: a server that sends `close` must close after that response."""
    go = asyncio.Event()
    upstream.will(ok(), held(go, ok()))
    server = await sluice()
    kept = await server.send(chat())
    await kept.reply()
    busy = await server.send(chat())
    await upstream.request(2)
    draining = asyncio.ensure_future(drain(server.http_server, server.services))
    await asyncio.sleep(0)
    await kept.send(chat() if target == "/api/chat" else encoded("GET", target))
    assert (await kept.reply()).headers["connection"] == "close"

    await kept.send(encoded("GET", "/healthz"))

    assert await kept.reader.read(1) == b""
    go.set()
    assert (await busy.reply()).status == 200
    await draining


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
async def test_a_call_in_flight_finishes_while_draining(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    go = asyncio.Event()
    upstream.will(held(go, good()))
    server = await sluice()
    client = await server.send(chat({**HELLO, "stream": streamed}))
    await upstream.request()
    server.services.admission.draining = True
    go.set()

    reply: Reply = await client.reply()

    assert reply.status == 200
    await server.services.admission.drained()
    assert (await server.record()).code == "completed"


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
async def test_a_call_that_outlasts_the_drain_is_told(
    sluice: StartSluice, upstream: Upstream, streamed: bool
) -> None:
    upstream.will(silence)
    server = await sluice()
    client = await server.send(chat({**HELLO, "stream": streamed}))
    exchange = await upstream.request()
    server.services.admission.draining = True

    server.services.admission.end_all()

    (await client.reply()).assert_error(503, "draining")
    assert (await server.record()).code == "draining"
    await exchange.closed.wait()


async def test_the_replay_header_means_nothing_outside_replay(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice()

    assert (await server.chat(HELLO, ("X-Replay-Scenario", "stalled"))).status == 200

    assert upstream.requests[0].header("X-Replay-Scenario") is None
