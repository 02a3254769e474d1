"""What a provider's error means, whatever its shape: each one played over sockets."""

import json

import pytest
from conftest import HELLO, JSON, encoded, parse_events
from upstream import (
    DONE,
    after_content,
    answer_stream,
    chunks,
    completion,
    delta,
    either,
    event,
    good,
    json_reply,
    ok,
    raw_reply,
    role,
    stream,
    usage_of,
)

from provider.refusal import error_in, kind_of, read_error

CANARY = "canary-5c1e"


def fault(message=CANARY, *, type="some_error", code=None, param=None, **further):
    return {"error": {"message": message, "type": type, "param": param, "code": code, **further}}


def google(status, name, message=CANARY, reason=None):
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]
    return [{"error": {"code": status, "message": message, "status": name, "details": details}}]


# (status, body) by the code it means.
MODERATION = [
    (400, fault(code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"})),
    (400, fault(code="content_policy_violation")),
    (400, fault(code="invalid_prompt")),
    (400, fault("Content Exists Risk", type="invalid_request_error")),
    (400, {"code": "DataInspectionFailed", "message": CANARY}),
    (403, {"error": {"code": 403, "message": CANARY, "metadata": {"reasons": ["violence"]}}}),
    (403, {"error": {"code": 403, "metadata": {"flagged_input": CANARY}}}),
    (403, {"code": "No permission", "error": "Content violates usage guidelines. " + CANARY}),
    (451, fault()),
    (451, None),
    (500, fault(code="content_filter")),
]
TOO_LONG = [
    (400, fault(code="context_length_exceeded", param="messages")),
    (400, fault(type="exceed_context_size_error")),
    (400, fault("This model's maximum context length is 4096 tokens. However, …", code=400)),
    (400, {"type": "error", "error": {"message": "prompt is too long: 210000 tokens > 200000"}}),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 9"}),
    (413, fault("Request too large for model `x`", code="rate_limit_exceeded")),
    (400, google(400, "INVALID_ARGUMENT", "The input token count (12) exceeds the maximum")),
]
OPERATORS = {
    "wrong_key": [
        (401, None),
        (400, google(400, "INVALID_ARGUMENT", reason="API_KEY_INVALID")),
        (400, {"code": "Invalid argument", "error": "Incorrect API key provided: xx"}),
        (403, fault(code="invalid_api_key")),
    ],
    "no_credit": [
        (402, {"error": {"message": "Insufficient Balance"}}),
        (429, fault(type="exceeded_current_quota_error")),
        (429, fault(code="insufficient_quota")),
        (400, fault("Your credit balance is too low to access the API")),
        (400, fault(code="billing_hard_limit_reached")),
        (403, {"code": "x", "error": "Your newly created team doesn't have any credits yet."}),
    ],
    "no_permission": [(403, None), (403, google(403, "PERMISSION_DENIED"))],
    "unknown_model": [
        (404, fault(code="model_not_found")),
        (404, {"object": "error", "message": "The model `x` does not exist.", "code": 404}),
        (400, fault("Model Not Exist", type="invalid_request_error")),
        (400, fault("Invalid model: x", type="invalid_model")),
    ],
    "wrong_url": [
        (404, None),
        (404, {"detail": "Not Found"}),
        (404, {"error": "404 page not found"}),
        (404, fault("Invalid URL (POST /v1/chat)", type="invalid_request_error")),
        (405, {"detail": "Method Not Allowed"}),
    ],
    "refused_parameter": [(400, fault(code="unsupported_parameter", param="max_tokens"))],
}
NOT_NOW = [408, 409, 424, 425, 429, 498, 499, 500, 501, 505, 507, 520, 524, 529, 530, 599]


def cases(pairs):
    return [pytest.param(*pair, id=f"{pair[0]}-{number}") for number, pair in enumerate(pairs)]


def answering(status, document):
    body = (b"<html>" + CANARY.encode(), ("Content-Type", "text/html"))
    return raw_reply(body[0], status, body[1]) if document is None else json_reply(document, status)


FORMS = pytest.mark.parametrize(
    ("route", "streamed"),
    [(route, streamed) for route in ("/api/chat", "/v1/chat/completions") for streamed in (0, 1)],
    ids=["api", "api-stream", "v1", "v1-stream"],
)


async def ask(server, route, streamed, *headers, **further):
    messages = [{"role": "user", "content": "Hello"}]
    body = HELLO if route == "/api/chat" else {"messages": messages}
    data = json.dumps({**body, "stream": bool(streamed), **further}).encode()
    return await (await server.send(encoded("POST", route, (JSON, *headers), data))).reply()


async def assert_refused(server, reply, status, code, reason):
    error = reply.json["error"]
    said = reply.json["code"] if isinstance(error, str) else error["code"]
    record = await server.record()
    assert (reply.status, said, record.status, record.reason) == (status, code, status, reason)
    assert CANARY not in repr(reply)
    assert CANARY not in repr(record.__dict__)
    assert server.services.router.circuits["default"].state == "closed"


@FORMS
@pytest.mark.parametrize(("status", "document"), cases(MODERATION))
async def test_moderation_is_neither_an_alert_nor_an_open_circuit(
    sluice, upstream, route, streamed, status, document
):
    upstream.will(answering(status, document))
    server = await sluice(circuit_min_calls=1)
    reply = await ask(server, route, streamed)
    await assert_refused(server, reply, 422, "prompt_rejected", "moderation")
    assert len(upstream.requests) == 1


@FORMS
@pytest.mark.parametrize(("status", "document"), cases(TOO_LONG))
async def test_a_conversation_too_long_for_the_model_is_413(
    sluice, upstream, route, streamed, status, document
):
    upstream.will(answering(status, document))
    server = await sluice(circuit_min_calls=1)
    reply = await ask(server, route, streamed)
    code = "prompt_too_long" if route == "/api/chat" else "context_length_exceeded"
    await assert_refused(server, reply, 413, code, "context_length")
    assert server.calls.records[0].code == "prompt_too_long"


@FORMS
@pytest.mark.parametrize(
    ("reason", "status", "document"),
    [
        pytest.param(reason, *case, id=f"{reason}-{case[0]}-{number}")
        for reason, of in OPERATORS.items()
        for number, case in enumerate(of)
    ],
)
async def test_what_only_the_operator_can_fix_is_500(
    sluice, upstream, route, streamed, reason, status, document
):
    upstream.will(answering(status, document))
    server = await sluice(circuit_min_calls=1)
    reply = await ask(server, route, streamed)
    await assert_refused(server, reply, 500, "provider_misconfigured", reason)
    assert len(upstream.requests) == 1


@FORMS
@pytest.mark.parametrize("status", NOT_NOW)
async def test_not_now_is_tried_again(sluice, upstream, route, streamed, status):
    upstream.will(json_reply(fault(), status), good())
    server = await sluice()
    reply = await ask(server, route, streamed)
    assert (reply.status, (await server.record()).attempts) == (200, 2)


@FORMS
async def test_not_now_is_not_tried_again_against_the_providers_word(
    sluice, upstream, route, streamed
):
    upstream.will(json_reply(fault(), 529, ("x-should-retry", "false")))
    server = await sluice()
    assert (await ask(server, route, streamed)).status == 502
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("streamed", [0, 1])
@pytest.mark.parametrize(
    ("status", "document"),
    [
        (400, fault(code="unsupported_value", param="temperature")),
        (400, fault("Unrecognized request argument supplied: temperature")),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "temperature"]}]}),
    ],
)
async def test_a_field_that_the_provider_refuses_is_named(
    sluice, upstream, streamed, status, document
):
    upstream.will(json_reply(document, status))
    server = await sluice()
    reply = await ask(server, "/v1/chat/completions", streamed, temperature=1)
    await assert_refused(server, reply, 400, "invalid_request", "refused_parameter")
    assert reply.json["error"]["param"] == "temperature"
    assert "temperature" in reply.json["error"]["message"]


@FORMS
async def test_a_field_that_is_not_known_is_not_named(sluice, upstream, route, streamed):
    upstream.will(json_reply(fault(param=CANARY), 400))
    server = await sluice()
    reply = await ask(server, route, streamed)
    await assert_refused(server, reply, 422, "prompt_rejected", "status_400")


@FORMS
async def test_a_tool_call_that_the_model_spoilt_is_tried_again(sluice, upstream, route, streamed):
    upstream.will(json_reply(fault(code="tool_use_failed"), 400), good())
    server = await sluice()
    assert (await ask(server, route, streamed)).status == 200


@FORMS
@pytest.mark.parametrize(
    "document",
    [
        [fault(code="insufficient_quota")],
        {"code": "insufficient_quota", "error": CANARY},
        {"object": "error", "code": "insufficient_quota", "message": CANARY},
        {"choices": None, "base_resp": {"status_code": 1008, "status_msg": CANARY}},
    ],
    ids=["list", "string", "flat", "base_resp"],
)
async def test_an_error_in_a_200_is_read_in_each_shape(sluice, upstream, route, streamed, document):
    upstream.will(either(json_reply(document), stream(event(document))))
    server = await sluice()
    reply = await ask(server, route, streamed)
    await assert_refused(server, reply, 500, "provider_misconfigured", "no_credit")


async def test_a_json_error_in_place_of_a_stream_is_read(sluice, upstream):
    upstream.will(json_reply(fault(code="insufficient_quota")))
    server = await sluice()
    reply = await ask(server, "/api/chat", 1)
    await assert_refused(server, reply, 500, "provider_misconfigured", "no_credit")


# Filters in a 200

EMPTY = {"id": "x", "object": "chat.completion", "choices": [], "usage": usage_of(9, 0)}


def ended(reason, **choice):
    return {**EMPTY, "choices": [{"index": 0, "finish_reason": reason, **choice}]}


@FORMS
@pytest.mark.parametrize(
    "step",
    [
        either(json_reply(EMPTY), stream(event(EMPTY), DONE)),
        *(
            either(json_reply(ended(reason)), stream(role(), event(ended(reason)), DONE))
            for reason in ("content_filter", "content_filter: PROHIBITED_CONTENT", "SAFETY")
        ),
        either(
            json_reply(ended("content_filter", message={"role": "assistant", "content": ""})),
            stream(event(ended("content_filter", delta={"content": ""})), DONE),
        ),
    ],
    ids=["no choice", "no message", "Gemini", "SAFETY", "no words"],
)
async def test_a_filter_that_left_nothing_is_a_refused_prompt(
    sluice, upstream, route, streamed, step
):
    upstream.will(step)
    server = await sluice(circuit_min_calls=1)
    reply = await ask(server, route, streamed)
    await assert_refused(server, reply, 422, "prompt_rejected", "moderation")
    assert len(upstream.requests) == 1


@FORMS
async def test_a_filter_that_left_words_is_an_answer(sluice, upstream, route, streamed):
    upstream.will(either(ok("Hi", finish_reason="SAFETY"), answer_stream("Hi", reason="SAFETY")))
    server = await sluice()
    assert (await ask(server, route, streamed)).status == 200
    assert (await server.record()).finish_reason == "content_filter"


# Answers that the provider could not finish

BROKEN = [
    "abort", "error", "insufficient_system_resource", "MALFORMED_FUNCTION_CALL", "cancelled",
    "network_error",
]  # fmt: skip


def half(reason, error=None):
    choice = {"index": 0, "finish_reason": reason} | ({"error": error} if error else {})
    whole = completion("Half an", finish_reason=reason)
    whole["choices"][0] |= choice
    return whole, event({"choices": [{**choice, "delta": {}}]})


HALVES = [
    *(pytest.param(*half(reason), id=reason) for reason in BROKEN),
    pytest.param(*half("stop", {"code": 502, "message": CANARY}), id="error in a choice"),
    pytest.param(*half(None, {"message": CANARY}), id="error and no reason"),
]


@FORMS
@pytest.mark.parametrize(("whole", "last"), HALVES)
async def test_a_broken_answer_is_tried_again_before_its_first_word(
    sluice, upstream, route, streamed, whole, last
):
    upstream.will(either(json_reply(whole), stream(role(), last, DONE)))
    server = await sluice()
    reply = await ask(server, route, streamed)
    assert (reply.status, (await server.record()).attempts) == (502, 3)
    assert CANARY not in repr(reply)


@pytest.mark.parametrize("route", ["/api/chat", "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize(("whole", "last"), HALVES)
async def test_a_broken_answer_is_one_error_event_after_its_first_word(
    sluice, upstream, route, whole, last
):
    upstream.will(after_content(chunks(last, DONE)))
    server = await sluice()
    responses = route == "/v1/responses"
    reply = await (ask_responses(server) if responses else ask(server, route, 1))
    assert reply.status == 200
    text = reply.body.decode()
    assert text.count("provider_unavailable") == (2 if responses else 1)
    assert not any(word in text for word in ("[DONE]", '"finish"', "response.completed", CANARY))
    record = await server.record()
    assert (record.code, record.attempts) == ("provider_unavailable", 1)


async def ask_responses(server):
    data = b'{"input": "Hello", "stream": true}'
    return await (await server.send(encoded("POST", "/v1/responses", (JSON,), data))).reply()


async def test_a_broken_answer_cuts_plain_text(sluice, upstream):
    _, last = half("abort")
    upstream.will(after_content(chunks(last, DONE)))
    server = await sluice()
    data = b'{"userMessage": "Hello", "stream": true}'
    client = await server.send(encoded("POST", "/api/chat?format=text", (JSON,), data))
    assert (await client.head()).status == 200
    assert not (await client.closed()).endswith(b"0\r\n\r\n")


@FORMS
async def test_a_broken_answer_is_not_kept_for_its_key(sluice, upstream, route, streamed):
    whole, last = half("abort")
    broken = either(json_reply(whole), stream(delta("Half"), last, DONE))
    upstream.will(broken, good())
    server = await sluice(retry_max_attempts=1)
    await ask(server, route, streamed, ("Idempotency-Key", "one"))
    reply = await ask(server, route, streamed, ("Idempotency-Key", "one"))
    assert (reply.status, len(upstream.requests)) == (200, 2)
    assert "idempotency-replayed" not in reply.headers
    if streamed:
        assert "error" not in repr(parse_events(reply.body))


async def test_a_call_that_the_model_cannot_write_says_nothing_of_the_providers_health(
    sluice, upstream
):
    whole, _ = half("MALFORMED_FUNCTION_CALL")
    upstream.will(json_reply(whole))
    server = await sluice(circuit_min_calls=1)
    assert (await ask(server, "/api/chat", 0)).status == 502
    assert server.services.router.circuits["default"].state == "closed"


# Whatever the shape


@pytest.mark.parametrize(
    "document",
    [None, [], {}, 5, "x" * 10**6, {"error": []}, {"error": {"code": {}}}, [[[{}]]],
     {"detail": [None, {"loc": [None]}]}, {"param": 5}, {"error": [{"a": i} for i in range(9**5)]}],
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_no_shape_is_too_odd_to_read(document, status):
    kind_of(status, read_error(document))
    error_in(document)


def test_a_prompt_that_is_quoted_decides_nothing():
    quoted = fault("Invalid request: your credit balance is too low, it says")
    assert kind_of(400, read_error(quoted)) == "refused"


def test_a_rate_limit_in_words_of_length_is_still_a_rate_limit():
    assert kind_of(429, read_error({"message": "Too many tokens, please wait"})) is None
