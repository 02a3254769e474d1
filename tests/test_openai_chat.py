"""/v1/chat/completions, driven by OpenAI's own SDK over real sockets."""

import asyncio
import json
from typing import Any

import openai
import pytest
from conftest import ENDLESS, Sluice, assert_valid, deadline, encoded, parse_events
from pydantic import BaseModel
from upstream import (
    DONE,
    after_content,
    answer_stream,
    completion,
    delta,
    either,
    error,
    event,
    finish,
    good,
    json_reply,
    ok,
    silence,
    stream,
    usage_of,
)

from guards.auth import key_file

HELLO = [{"role": "user", "content": "Hello"}]
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": HELLO}
TOOL = {
    "type": "function",
    "function": {"name": "mail", "parameters": {"type": "object", "properties": {}}},
}


async def post(server: Sluice, body: object, *headers: tuple[str, str]):
    headers = (("Content-Type", "application/json"), *headers)
    data = json.dumps(body).encode()
    return await (await server.send(encoded("POST", "/v1/chat/completions", headers, data))).reply()


async def test_an_answer_in_one_piece(sluice, upstream, sdk):
    upstream.will(ok("Hi there", usage=usage_of(9, 3)))
    server = await sluice()

    answer = await sdk(server).chat.completions.create(**ASK)

    assert answer.choices[0].message.content == "Hi there"
    assert (answer.choices[0].index, answer.choices[0].finish_reason) == (0, "stop")
    assert answer.choices[0].message.role == "assistant"
    assert (answer.id, answer.object) == ("chatcmpl-1", "chat.completion")
    assert answer.model == "gpt-4o-mini-2024-07-18"
    assert answer.created > 0
    assert answer.usage.total_tokens == 12
    assert answer._request_id
    record = await server.record()
    assert (record.code, record.route) == ("completed", "/v1/chat/completions")
    assert (record.charged_tokens, record.request_id) == (12, answer._request_id)


async def test_an_earlier_answer_goes_back_as_the_sdk_dumps_it(sluice, upstream, sdk):
    upstream.will(ok("Hi there"))
    client = sdk(await sluice())
    answer = (await client.chat.completions.create(**ASK)).choices[0].message
    dumped = answer.model_dump()
    assert [name for name, value in dumped.items() if value is None]

    messages = [*HELLO, dumped, {"role": "user", "content": "And now?"}]
    await client.chat.completions.create(model="gpt-4o-mini", messages=messages)

    assert upstream.requests[1].json["messages"][1] == {"role": "assistant", "content": "Hi there"}


@pytest.mark.parametrize(
    "empty",
    [
        {"tool_calls": None},
        {"name": None, "tool_call_id": None},
        {"refusal": None, "audio": None, "function_call": None},
        {"annotations": [], "tool_calls": []},
    ],
    ids=lambda empty: "-".join(empty),
)
async def test_what_is_empty_in_a_message_is_left_out(sluice, upstream, empty):
    upstream.will(ok("Hi"))
    message = {"role": "user", "content": "Hello"}
    reply = await post(await sluice(), {"messages": [message | empty]})
    assert reply.status == 200
    assert upstream.requests[0].json["messages"] == [message]


async def test_null_content_stays_beside_tool_calls(sluice, upstream):
    upstream.will(ok("Hi"))
    called = {"id": "a", "type": "function", "function": {"name": "mail", "arguments": "{}"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "a", "content": "sent"},
    ]
    reply = await post(await sluice(), {"messages": messages})
    assert reply.status == 200
    assert upstream.requests[0].json["messages"] == messages


async def test_an_unknown_field_is_named_with_the_setting_that_allows_it(sluice, upstream):
    server = await sluice()
    reply = await post(server, {**ASK, "top_k": 5})
    assert reply.status == 400
    error = reply.json["error"]
    assert error["param"] == "top_k"
    assert '"top_k"' in error["message"]
    assert "[openai] extra_fields" in error["message"]
    assert "top_k" not in str(vars(await server.record()))


async def test_a_stream(sluice, upstream, sdk):
    upstream.will(answer_stream("Hi", " there"))
    server = await sluice()

    chunks = [each async for each in await sdk(server).chat.completions.create(**ASK, stream=True)]

    assert "".join(each.choices[0].delta.content or "" for each in chunks) == "Hi there"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {(each.id, each.object, each.model) for each in chunks} == {
        ("chatcmpl-1", "chat.completion.chunk", "gpt-4o-mini")
    }
    assert all(each.created > 0 and each.usage is None for each in chunks)
    # Asked from the provider anyway, or the call could not be settled.
    assert upstream.requests[0].json["stream_options"] == {"include_usage": True}
    record = await server.record()
    assert (record.charged_tokens, record.counted_by) == (12, "provider")


async def test_a_stream_with_its_usage(sluice, upstream, sdk):
    upstream.will(answer_stream("Hi"))
    server = await sluice()
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    chunks = [each async for each in await sdk(server).chat.completions.create(**asked)]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 12


async def test_a_provider_that_refuses_to_be_asked_for_usage(sluice, upstream, sdk):
    upstream.will(answer_stream("Hi"))
    server = await sluice(provider_stream_usage="false")
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    chunks = [each async for each in await sdk(server).chat.completions.create(**asked)]
    assert "stream_options" not in upstream.requests[0].json
    assert chunks[-1].usage.total_tokens == 12
    assert (await server.record()).counted_by == "provider"


@pytest.mark.parametrize("streams", [False, True])
async def test_tokens_are_counted_here_where_the_provider_does_not(sluice, upstream, sdk, streams):
    upstream.will(either(ok("Hi there"), stream(delta("Hi"), delta(" there"), finish(), DONE)))
    server = await sluice()
    create = sdk(server).chat.completions.create
    if streams:
        asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
        *_, last = [each async for each in await create(**asked)]
        assert last.choices == []
        assert last.id == "chatcmpl-1"
    else:
        last = await create(**ASK)
    assert last.usage.model_dump(exclude_none=True) == usage_of(8, 2)
    record = await server.record()
    assert (record.charged_tokens, record.counted_by) == (10, "estimated")


async def test_the_stream_ends_as_clients_expect(sluice, upstream):
    upstream.will(answer_stream("Hi"))
    server = await sluice()
    reply = await post(server, {**ASK, "stream": True}, ("Accept", "application/json"))
    assert reply.headers["content-type"] == "text/event-stream"
    assert parse_events(reply.body)[-1] == "[DONE]"


async def test_accept_alone_makes_no_stream(sluice, upstream):
    upstream.will(ok())
    server = await sluice()
    reply = await post(server, ASK, ("Accept", "text/event-stream"))
    assert reply.headers["content-type"] == "application/json"


async def test_the_sdks_stream_helper(sluice, upstream, sdk):
    upstream.will(answer_stream("Hi", " there"))
    server = await sluice()
    asked = {**ASK, "stream_options": {"include_usage": True}}
    async with sdk(server).chat.completions.stream(**asked) as events:
        kinds = [each.type async for each in events]
        final = await events.get_final_completion()
    assert kinds.count("content.delta") == 3  # the first, with the role, is empty
    assert final.choices[0].message.content == "Hi there"
    assert final.usage.total_tokens == 12


class City(BaseModel):
    name: str


async def test_the_sdks_parse_helper(sluice, upstream, sdk):
    upstream.will(ok('{"name": "Paris"}'))
    server = await sluice()
    answer = await sdk(server).chat.completions.parse(**ASK, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Paris")
    sent = upstream.requests[0].json["response_format"]
    assert (sent["type"], sent["json_schema"]["name"]) == ("json_schema", "City")


async def test_what_sluice_does_not_read_goes_through(sluice, upstream, sdk):
    upstream.will(json_reply(two_answers()))
    server = await sluice()
    further = {
        "n": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["END"],
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"50256": -100},
        "tools": [TOOL],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
        "user": "u-1",
    }
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]

    answer = await sdk(server).chat.completions.create(
        model="gpt-4o-mini", messages=messages, max_completion_tokens=50, **further
    )

    assert [choice.message.content for choice in answer.choices] == ["One", "Two"]
    sent = upstream.requests[0].json
    assert {name: sent[name] for name in further} == further
    assert sent["messages"] == messages
    assert sent["max_tokens"] == 50
    assert not sent.keys() & {"max_completion_tokens", "stream", "stream_options"}


def two_answers() -> dict[str, Any]:
    document = completion("One")
    choice = {**completion("Two")["choices"][0], "index": 1}
    return {**document, "choices": [*document["choices"], choice]}


async def test_two_answers_in_a_stream(sluice, upstream, sdk):
    def said(index: int, text: str) -> bytes:
        return event({"choices": [{"index": index, "delta": {"content": text}}]})

    def ended(index: int) -> bytes:
        return event({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]})

    upstream.will(stream(said(0, "One"), said(1, "Two"), ended(1), ended(0), DONE))
    server = await sluice()
    chunks = [
        each async for each in await sdk(server).chat.completions.create(**ASK, n=2, stream=True)
    ]
    assert [each.choices[0].index for each in chunks] == [0, 1, 1, 0]
    # This engine names nothing: what every client reads is filled in.
    assert len({each.id for each in chunks}) == 1
    assert chunks[0].id.startswith("chatcmpl-")
    assert (await server.record()).code == "completed"


async def test_an_engine_that_leaves_fields_out(sluice, upstream, sdk):
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    upstream.will(json_reply({"choices": [choice]}))
    answer = await sdk(await sluice()).chat.completions.create(**ASK)
    assert (answer.object, answer.model) == ("chat.completion", "gpt-4o-mini")
    assert (answer.choices[0].index, answer.choices[0].message.role) == (0, "assistant")


async def test_sound_is_not_counted_in_words(sluice, upstream, sdk):
    def sound(data: str) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"audio": {"data": data}}}]})

    upstream.will(stream(*[sound("UklGRiQAAABXQVZF" * 2000)] * 300, finish(), DONE))
    server = await sluice()
    chunks = [each async for each in await sdk(server).chat.completions.create(**ASK, stream=True)]
    assert len(chunks) == 301
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert (await server.record()).cut is None


async def test_a_prediction_has_its_weight(sluice, sdk):
    server = await sluice()
    prediction = {"type": "content", "content": "word " * 9000}
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk(server).chat.completions.create(**ASK, prediction=prediction)
    assert caught.value.code == "prompt_too_long"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_reason_in_the_providers_own_words_goes_nowhere(sluice, upstream, sdk, streams):
    canary = "your prompt was my secret"
    upstream.will(answer_stream("Hi", reason=canary) if streams else ok(finish_reason=canary))
    server = await sluice()
    answer = await sdk(server).chat.completions.create(**ASK, stream=streams)
    if streams:
        assert [each async for each in answer]
    assert (await server.record()).finish_reason == "other"


async def test_counts_that_nobody_can_believe_are_ours(sluice, upstream, sdk):
    upstream.will(ok(usage=usage_of(2**63, 2**63)))
    server = await sluice()
    await sdk(server).chat.completions.create(**ASK)
    record = await server.record()
    assert (record.counted_by, record.charged_tokens) == ("estimated", 10)


# Tools


def asks_for_tool(arguments: str) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function"}
    call["function"] = {"name": "mail", "arguments": arguments}  # type: ignore[assignment]
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    document = completion(finish_reason="tool_calls")
    document["choices"][0]["message"] = message
    return document


async def test_redaction_reaches_the_arguments_and_results_of_tools(sluice, upstream, sdk):
    upstream.will(json_reply(asks_for_tool('{"to": "[EMAIL_1]"}')))
    server = await sluice()
    first = asks_for_tool('{"to": "ada@example.com"}')["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": "call_1", "content": "bob@example.com is away"}
    messages = [{"role": "user", "content": "Mail ada@example.com"}, first, result]

    answer = await sdk(server).chat.completions.create(
        model="gpt-4o-mini", messages=messages, tools=[TOOL]
    )

    sent = json.dumps(upstream.requests[0].json)
    assert "ada@example.com" not in sent
    assert "bob@example.com" not in sent
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"to": "ada@example.com"}
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (await server.record()).redactions == {"email": 2}


async def test_a_tool_call_in_a_stream(sluice, upstream, sdk):
    def part(**fields: Any) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **fields}]}}]})

    upstream.will(
        stream(
            part(id="call_1", type="function", function={"name": "mail", "arguments": ""}),
            part(function={"arguments": '{"to": "[EMA'}),
            part(function={"arguments": 'IL_1]"}'}),
            finish("tool_calls"),
            DONE,
        )
    )
    server = await sluice()
    messages = [{"role": "user", "content": "Mail ada@example.com"}]
    async with sdk(server).chat.completions.stream(
        model="gpt-4o-mini", messages=messages, tools=[TOOL]
    ) as events:
        final = await events.get_final_completion()
    [call] = final.choices[0].message.tool_calls
    assert (call.id, call.function.name) == ("call_1", "mail")
    assert json.loads(call.function.arguments) == {"to": "ada@example.com"}


@pytest.mark.parametrize(
    "calls",
    ["x", [7], [{"function": 7}], [{"function": {"arguments": {}}}], [{"index": "0"}], [{"id": 7}]],
)
async def test_a_tool_call_of_the_wrong_type_is_no_answer(sluice, upstream, calls):
    document = asks_for_tool("")
    document["choices"][0]["message"]["tool_calls"] = calls
    upstream.will(json_reply(document))
    server = await sluice()
    reply = await post(server, ASK)
    assert (reply.status, reply.json["error"]["code"]) == (502, "provider_unavailable")


# Errors

STATUSES = {
    400: (openai.BadRequestError, "invalid_request_error"),
    404: (openai.NotFoundError, "invalid_request_error"),
    422: (openai.UnprocessableEntityError, "invalid_request_error"),
    500: (openai.InternalServerError, "server_error"),
    502: (openai.InternalServerError, "server_error"),
    504: (openai.InternalServerError, "server_error"),
}


@pytest.mark.parametrize(
    ("step", "changes", "status", "code"),
    [
        (good(), {"messages": []}, 400, "invalid_request"),
        (good(), {"model": "gpt-99"}, 404, "model_not_found"),
        (error(400), {}, 422, "prompt_rejected"),
        (error(401), {}, 500, "provider_misconfigured"),
        (error(503), {}, 502, "provider_unavailable"),
        (silence, {}, 504, "deadline_exceeded"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_errors_have_their_types(sluice, upstream, sdk, step, changes, status, code, streams):
    upstream.will(step)
    server = await sluice(**(deadline(0.3) if step is silence else {}))
    kind, type_ = STATUSES[status]
    with pytest.raises(kind) as caught:
        await sdk(server).chat.completions.create(**{**ASK, **changes}, stream=streams)
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (status, code, type_)
    assert "No." not in caught.value.message
    assert_valid({"error": caught.value.body}, "openai.error.json")
    assert (await server.record()).code == code


async def test_a_fault_names_its_field(sluice, sdk):
    server = await sluice()
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk(server).chat.completions.create(**ASK, temperature=9)
    assert caught.value.param == "temperature"


async def test_credentials(sluice, upstream, sdk, tmp_path):
    upstream.will(ok())
    key, _ = key_file.add(tmp_path / "keys.ini", "ada", "2026-11-24")
    server = await sluice(auth_mode="keys", auth_keys_file=tmp_path / "keys.ini")
    with pytest.raises(openai.AuthenticationError) as caught:
        await sdk(server).chat.completions.create(**ASK)
    assert caught.value.type == "authentication_error"
    answer = await sdk(server, api_key=key).chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "Hi there"


async def test_limits(sluice, upstream, sdk):
    upstream.will(ok())
    server = await sluice(limit_ip_requests_per_minute=1)
    client = sdk(server)
    await client.chat.completions.create(**ASK)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**ASK)
    headers = caught.value.response.headers
    assert caught.value.type == "rate_limit_error"
    wait_ms = int(headers["retry-after-ms"])
    assert 0 < wait_ms <= 120_000
    assert -(-wait_ms // 1000) == int(headers["retry-after"])
    assert "x-should-retry" not in headers
    assert "ratelimit-policy" in headers
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("attempts", [1, 3])
async def test_the_sdk_does_not_multiply_the_attempts(sluice, upstream, sdk, attempts, streamed):
    upstream.will(error(503))
    server = await sluice(retry_max_attempts=attempts)
    client = sdk(server, max_retries=openai.DEFAULT_MAX_RETRIES)
    assert client.max_retries == 2
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(**ASK, stream=streamed)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(upstream.requests) == attempts
    assert (await server.record()).attempts == attempts


async def test_the_sdk_may_try_again_what_reached_no_provider(sluice, upstream, sdk):
    upstream.will(error(503))
    server = await sluice(circuit_min_calls=1, retry_max_attempts=1)
    client = sdk(server)
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(**ASK)
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(**ASK)
    assert caught.value.code == "circuit_open"
    assert "x-should-retry" not in caught.value.response.headers
    server.services.admission.draining = True
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(**ASK)
    assert caught.value.code == "draining"
    assert "x-should-retry" not in caught.value.response.headers
    assert len(upstream.requests) == 1


async def test_the_sdk_does_not_buy_twice(sluice, upstream, sdk):
    upstream.will(silence)
    server = await sluice(**deadline(0.2), retry_max_attempts=1)
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk(server, max_retries=2).chat.completions.create(**ASK)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("step", [error(401), error(400)], ids=["misconfigured", "rejected"])
async def test_the_sdk_does_not_repeat_what_stays_wrong(sluice, upstream, sdk, step):
    upstream.will(step)
    server = await sluice()
    with pytest.raises(openai.APIStatusError):
        await sdk(server, max_retries=2).chat.completions.create(**ASK)
    assert len(upstream.requests) == 1


async def test_a_stream_that_breaks_raises(sluice, upstream, sdk):
    upstream.will(after_content(_end))
    server = await sluice()
    chunks = await sdk(server).chat.completions.create(**ASK, stream=True)
    said = [(await anext(chunks)).choices[0].delta.content for _ in range(3)]
    with pytest.raises(openai.APIError) as caught:
        await anext(chunks)
    assert said == ["One", " two", " three"]
    assert (caught.value.code, caught.value.type) == ("provider_unavailable", "server_error")


async def _end(exchange: Any) -> None:
    await exchange.chunk()


async def test_after_an_error_there_is_no_done(sluice, upstream):
    upstream.will(after_content(_end))
    reply = await post(await sluice(), {**ASK, "stream": True})
    events = parse_events(reply.body)
    assert_valid(events[-1], "openai.error.json")
    assert "[DONE]" not in events


async def test_an_answer_beyond_its_limit_is_cut(sluice, upstream, sdk):
    upstream.will(answer_stream(*[" word"] * 400))
    server = await sluice()
    chunks = [
        each
        async for each in await sdk(server).chat.completions.create(
            **ASK, stream=True, max_tokens=20
        )
    ]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].id == "chatcmpl-1"
    assert (await server.record()).cut


async def test_a_client_that_stops_reading_stops_the_provider(sluice, upstream, sdk):
    upstream.will(after_content())
    server = await sluice(**ENDLESS)
    chunks = await sdk(server).chat.completions.create(**ASK, stream=True)
    async for _ in chunks:
        break
    await chunks.close()
    assert (await server.record()).code == "client_gone"


# The operator's rules


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_system_messages_are_the_clients_by_default(sluice, upstream, sdk, role):
    upstream.will(ok())
    messages = [{"role": role, "content": "Rhyme."}, *HELLO]
    await sdk(await sluice()).chat.completions.create(model="gpt-4o-mini", messages=messages)
    assert upstream.requests[0].json["messages"] == messages


async def test_system_messages_dropped_and_the_operators_own_put_first(sluice, upstream, sdk):
    upstream.will(ok())
    server = await sluice(openai_system_messages="drop", openai_system_prompt="true")
    messages = [{"role": "system", "content": "Swear."}, *HELLO]
    await sdk(server).chat.completions.create(model="gpt-4o-mini", messages=messages)
    sent = upstream.requests[0].json["messages"]
    assert [each["role"] for each in sent] == ["system", "user"]
    assert sent[0]["content"] == server.config.chat.system_prompt


@pytest.mark.parametrize("policy", ["drop", "refuse"])
async def test_nothing_but_system_messages(sluice, sdk, policy):
    server = await sluice(openai_system_messages=policy)
    with pytest.raises(openai.BadRequestError):
        await sdk(server).chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "system", "content": "Swear."}]
        )


async def test_fields_of_other_engines_must_be_named(sluice, upstream, sdk):
    upstream.will(ok())
    ask = {**ASK, "extra_body": {"top_k": 40}}
    with pytest.raises(openai.BadRequestError):
        await sdk(await sluice()).chat.completions.create(**ask)
    await sdk(await sluice(openai_extra_fields="top_k")).chat.completions.create(**ask)
    assert upstream.requests[0].json["top_k"] == 40


async def test_null_counts_as_not_given(sluice, upstream):
    upstream.will(ok())
    reply = await post(
        await sluice(), {**ASK, "max_tokens": None, "stop": None, "stream": None, "tools": None}
    )
    assert reply.status == 200
    assert not upstream.requests[0].json.keys() & {"stop", "tools", "stream"}


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**100])
async def test_a_number_nobody_can_hold(sluice, seed):
    reply = await post(await sluice(), {**ASK, "seed": seed})
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_request")


async def test_there_is_no_unmetered_route(sluice, upstream, sdk):
    """An Idempotency-Key, a used-up quota and a place in flight count here as elsewhere."""
    upstream.will(ok(usage=usage_of(9, 3)))
    server = await sluice(limit_ip_tokens_per_day=610, openai_max_tokens_reserved=300)
    client = sdk(server)
    key = {"Idempotency-Key": "k"}
    first = await client.chat.completions.create(**ASK, extra_headers=key)
    again = await client.chat.completions.create(**ASK, extra_headers=key)
    assert first.model_dump() == again.model_dump()
    with pytest.raises(openai.UnprocessableEntityError):
        await client.chat.completions.create(**ASK, seed=1, extra_headers=key)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**ASK, n=2)
    assert caught.value.code == "quota_exceeded"
    assert len(upstream.requests) == 1


# Models


async def test_models(sluice, sdk):
    server = await sluice(chat_models="gpt-4o, their/7b")
    client = sdk(server)
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == ["gpt-4o-mini", "gpt-4o", "their/7b"]
    assert {model.owned_by for model in models} == {"default"}
    assert (await client.models.retrieve("their/7b")).id == "their/7b"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("gpt-99")
    assert caught.value.code == "model_not_found"


async def test_models_want_credentials_too(sluice, sdk, tmp_path):
    key_file.add(tmp_path / "keys.ini", "ada", "2026-11-24")
    server = await sluice(auth_mode="keys", auth_keys_file=tmp_path / "keys.ini")
    with pytest.raises(openai.AuthenticationError):
        await sdk(server).models.list()


@pytest.mark.parametrize("target", ["/v1/embeddings", "/v1/chat/completions"])
async def test_what_is_not_there(sluice, target):
    server = await sluice(auth_mode="public")  # where /v1 is off, unless it is said
    reply = await server.fetch("GET", target)
    assert reply.status == 404
    assert_valid(reply.json, "openai.error.json")


async def test_a_wrong_method(sluice):
    reply = await (await sluice()).fetch("GET", "/v1/chat/completions")
    assert (reply.status, reply.headers["allow"]) == (405, "POST, OPTIONS")
    assert_valid(reply.json, "openai.error.json")


async def test_calls_side_by_side_keep_apart(sluice, upstream, sdk):
    upstream.will(good())
    server: Sluice = await sluice()
    client = sdk(server)
    answers = await asyncio.gather(*(client.chat.completions.create(**ASK) for _ in range(20)))
    assert {answer.choices[0].message.content for answer in answers} == {"Hi there"}
    await server.calls.wait(20)
    await server.at_rest()
    assert len(upstream.requests) == 20
