"""/v1/responses, driven by OpenAI's own SDK over real sockets."""

import json
from typing import Any

import openai
import pytest
from conftest import assert_valid, deadline, encoded
from test_openai_chat import City, asks_for_tool
from upstream import (
    DONE,
    after_content,
    answer_stream,
    delta,
    either,
    error,
    event,
    finish,
    json_reply,
    ok,
    silence,
    stream,
    usage_of,
)

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "input": "Hello"}
TOOL = {"type": "function", "name": "mail", "parameters": {"type": "object"}, "strict": True}


async def events_of(client: openai.AsyncOpenAI, **asked: Any) -> list[Any]:
    return [each async for each in await client.responses.create(**{**ASK, **asked}, stream=True)]


async def test_a_response_in_one_piece(sluice, upstream, sdk):
    usage = {**usage_of(9, 3), "prompt_tokens_details": {"cached_tokens": 4}}
    upstream.will(ok("Hi there", usage=usage))
    server = await sluice()

    response = await sdk(server).responses.create(
        **ASK, instructions="Be brief.", metadata={"a": "b"}, temperature=0.5
    )

    assert response.output_text == "Hi there"
    assert (response.status, response.object, response.model) == (
        "completed",
        "response",
        "gpt-4o-mini",
    )
    assert response.id.startswith("resp_")
    assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
    assert (response.usage.input_tokens, response.usage.output_tokens) == (9, 3)
    assert response.usage.input_tokens_details.cached_tokens == 4
    assert upstream.requests[0].json == {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
        "temperature": 0.5,
    }
    record = await server.record()
    assert (record.route, record.code, record.charged_tokens) == ("/v1/responses", "completed", 12)


async def test_an_earlier_response_goes_back_as_the_sdk_dumps_it(sluice, upstream, sdk):
    upstream.will(ok("Hi there"))
    client = sdk(await sluice())
    first = await client.responses.create(**ASK)
    output = [item.model_dump() for item in first.output]
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": None}

    question = {"role": "user", "content": "And now?"}
    await client.responses.create(model="gpt-4o-mini", input=[thought, *output, question])

    said = [message["content"] for message in upstream.requests[1].json["messages"]]
    assert said == ["Hi there", "And now?"]


async def test_the_events_of_a_stream(sluice, upstream, sdk):
    upstream.will(answer_stream("Hi", " there"))
    events = await events_of(sdk(await sluice()))
    assert [each.type.removeprefix("response.") for each in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [each.sequence_number for each in events] == list(range(len(events)))
    ids = {each.item_id for each in events if hasattr(each, "item_id")}
    assert ids == {events[2].item.id}
    assert events[0].response.output == []
    assert events[2].item.content == []
    assert events[6].text == "Hi there"
    final = events[-1].response
    assert (final.output_text, final.usage.total_tokens) == ("Hi there", 12)
    assert final.id == events[0].response.id


@pytest.mark.parametrize("streams", [False, True])
async def test_tokens_are_counted_here_where_the_provider_does_not(sluice, upstream, sdk, streams):
    upstream.will(either(ok("Hi there"), stream(delta("Hi"), delta(" there"), finish(), DONE)))
    client = sdk(await sluice())
    if streams:
        response = (await events_of(client))[-1].response
    else:
        response = await client.responses.create(**ASK)
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (8, 2, 10)


async def test_the_sdks_stream_helper(sluice, upstream, sdk):
    upstream.will(answer_stream('{"name"', ': "Paris"}'))
    client = sdk(await sluice())
    async with client.responses.stream(**ASK, text_format=City) as events:
        response = await events.get_final_response()
    assert response.output_parsed == City(name="Paris")


async def test_the_sdks_parse_helper(sluice, upstream, sdk):
    upstream.will(ok('{"name": "Paris"}'))
    response = await sdk(await sluice()).responses.parse(**ASK, text_format=City)
    assert response.output_parsed == City(name="Paris")
    sent = upstream.requests[0].json["response_format"]
    assert (sent["type"], sent["json_schema"]["name"]) == ("json_schema", "City")
    assert sent["json_schema"]["strict"] is True


async def test_a_conversation(sluice, upstream, sdk):
    upstream.will(ok())
    conversation = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is it?"},
                {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0K"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "A cat.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "a", "name": "mail", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "mail", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "sent"},
        {"type": "function_call_output", "call_id": "b", "output": "sent, too"},
    ]
    await sdk(await sluice()).responses.create(model="gpt-4o-mini", input=conversation)

    def called(name: str) -> dict[str, Any]:
        return {"id": name, "type": "function", "function": {"name": "mail", "arguments": "{}"}}

    picture = {"url": "data:image/png;base64,iVBORw0K"}
    assert upstream.requests[0].json["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": picture},
            ],
        },
        {"role": "assistant", "content": "A cat.", "tool_calls": [called("a"), called("b")]},
        {"role": "tool", "tool_call_id": "a", "content": "sent"},
        {"role": "tool", "tool_call_id": "b", "content": "sent, too"},
    ]


async def test_a_function_is_called(sluice, upstream, sdk):
    upstream.will(json_reply(asks_for_tool('{"to": "[EMAIL_1]"}')))
    client = sdk(await sluice())
    response = await client.responses.create(
        model="gpt-4o-mini",
        input="Mail ada@example.com",
        tools=[TOOL],
        tool_choice={"type": "function", "name": "mail"},
    )
    [item] = response.output
    assert (item.type, item.call_id, item.name) == ("function_call", "call_1", "mail")
    assert json.loads(item.arguments) == {"to": "ada@example.com"}
    sent = upstream.requests[0].json
    function = {"name": "mail", "parameters": {"type": "object"}, "strict": True}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "mail"}}


async def test_functions_are_called_in_a_stream(sluice, upstream, sdk):
    def part(index: int, **fields: Any) -> bytes:
        calls = [{"index": index, **fields}]
        return event({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]})

    upstream.will(
        stream(
            event({"choices": [{"index": 0, "delta": {"content": "One moment."}}]}),
            part(0, id="a", function={"name": "mail", "arguments": '{"x"'}),
            part(0, function={"arguments": ": 1}"}),
            part(1, id="b", function={"name": "call", "arguments": "{}"}),
            finish("tool_calls"),
            DONE,
        )
    )
    events = await events_of(sdk(await sluice()), tools=[TOOL])
    final = events[-1].response
    assert events[-1].type == "response.completed"
    message, first, second = final.output
    assert message.content[0].text == "One moment."
    assert (first.call_id, first.name, first.arguments) == ("a", "mail", '{"x": 1}')
    assert (second.call_id, second.name, second.arguments) == ("b", "call", "{}")
    done = [each for each in events if each.type == "response.function_call_arguments.done"]
    assert [(each.output_index, each.arguments) for each in done] == [(1, '{"x": 1}'), (2, "{}")]
    assert {item.status for item in final.output} == {"completed"}


async def test_a_function_whose_name_comes_late(sluice, upstream, sdk):
    def part(**fields: Any) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **fields}]}}]})

    late = part(function={"name": "mail", "arguments": "{}"})
    upstream.will(stream(part(id="a"), late, finish("tool_calls"), DONE))
    events = await events_of(sdk(await sluice()), tools=[TOOL])
    assert events[-1].response.output[0].name == "mail"


async def test_what_is_given_back_is_what_was_asked(sluice, upstream, sdk):
    upstream.will(ok())
    described = {**TOOL, "description": "Mails ada@example.com"}
    response = await sdk(await sluice()).responses.create(**ASK, tools=[described])
    assert response.tools[0].description == "Mails ada@example.com"
    sent = upstream.requests[0].json["tools"][0]["function"]["description"]
    assert sent == "Mails [EMAIL_1]"


async def test_a_refusal(sluice, upstream, sdk):
    def refused(text: str) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"refusal": text}}]})

    upstream.will(stream(refused("I "), refused("won't."), finish(), DONE))
    events = await events_of(sdk(await sluice()))
    assert events[-1].response.output[0].content[0].refusal == "I won't."
    assert "response.refusal.done" in [each.type for each in events]


@pytest.mark.parametrize(
    ("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
async def test_an_answer_that_is_not_whole_says_so(sluice, upstream, sdk, reason, told):
    upstream.will(ok("Hi", finish_reason=reason), answer_stream("Hi", reason=reason))
    client = sdk(await sluice())
    response = await client.responses.create(**ASK)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", told)
    events = await events_of(client)
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == told


async def _end(exchange: Any) -> None:
    await exchange.chunk()


async def test_a_stream_that_breaks_ends_with_an_error(sluice, upstream, sdk):
    upstream.will(after_content(_end))
    client = sdk(await sluice())
    with pytest.raises(openai.APIError, match="Upstream provider unavailable") as caught:
        await events_of(client)
    assert (caught.value.code, caught.value.type) == ("provider_unavailable", "server_error")
    server_reply = await raw(client, {**ASK, "stream": True})
    last = server_reply.rstrip().split(b"\n\n")[-1]
    assert last.startswith(b"event: error\ndata: ")
    told = json.loads(last.partition(b"data: ")[2])
    assert (told["type"], told["code"], told["param"]) == ("error", "provider_unavailable", None)
    assert told["sequence_number"] == server_reply.count(b"event: ") - 1
    assert b"response.completed" not in server_reply


async def raw(client: openai.AsyncOpenAI, body: dict[str, Any]) -> bytes:
    """The stream as it is on the wire."""
    url = str(client.base_url) + "responses"
    return (await client._client.post(url, json=body)).content


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [(error(401), 500, "provider_misconfigured"), (silence, 504, "deadline_exceeded")],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_errors_before_it_begins(sluice, upstream, sdk, step, status, code, streams):
    upstream.will(step)
    client = sdk(await sluice(**(deadline(0.3) if step is silence else {})))
    with pytest.raises(openai.InternalServerError) as caught:
        await client.responses.create(**ASK, stream=streams)
    assert (caught.value.status_code, caught.value.code) == (status, code)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input[0].call_id"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].name"),
        ({"tools": [{"type": "web_search", "name": "x"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.name"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
async def test_what_is_not_to_be_had_is_refused(sluice, upstream, changes, param):
    server = await sluice()
    body = json.dumps({**ASK, **changes}).encode()
    head = (("Content-Type", "application/json"),)
    reply = await (await server.send(encoded("POST", "/v1/responses", head, body))).reply()
    assert reply.status == 400
    assert_valid(reply.json, "openai.error.json")
    assert reply.json["error"]["param"] == param
    assert upstream.requests == []
    assert (await server.record()).code == "invalid_request"


async def test_options_that_mean_the_same(sluice, upstream, sdk):
    upstream.will(ok())
    await sdk(await sluice()).responses.create(
        **ASK,
        max_output_tokens=50,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_object"}, "verbosity": "low"},
        tool_choice="none",
        top_p=0.5,
        store=True,
        include=["reasoning.encrypted_content"],
        truncation="disabled",
    )
    sent = upstream.requests[0].json
    del sent["messages"], sent["model"]
    assert sent == {
        "max_tokens": 50,
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
        "verbosity": "low",
        "tool_choice": "none",
        "top_p": 0.5,
    }


async def test_instructions_are_a_system_message(sluice, sdk):
    server = await sluice(openai_system_messages="refuse")
    with pytest.raises(openai.BadRequestError):
        await sdk(server).responses.create(**ASK, instructions="Swear.")


async def test_the_same_key_gets_the_same_stream(sluice, upstream, sdk):
    upstream.will(answer_stream("Hi"))
    client = sdk(await sluice())
    key = {"Idempotency-Key": "k"}
    first = await events_of(client, extra_headers=key)
    again = await events_of(client, extra_headers=key)
    assert [each.model_dump() for each in first] == [each.model_dump() for each in again]
    assert len(upstream.requests) == 1
