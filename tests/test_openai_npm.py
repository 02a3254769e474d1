"""/v1, driven by what calls it from JavaScript: OpenAI's client, and the AI SDK's provider."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Sluice, deadline
from programs import Program, in_node
from upstream import (
    ERROR_IN_DATA,
    Upstream,
    after_content,
    answer_stream,
    calls_tool,
    chunks,
    either,
    error,
    good,
    ok,
    silence,
    usage_of,
)

from guards.auth import key_file

MODEL = {"model": "gpt-4o-mini"}
CHAT = {**MODEL, "messages": [{"role": "user", "content": "Hello"}]}
RESPONSE = {**MODEL, "input": "Hello"}
CALLS = pytest.mark.parametrize(
    ("call", "ask"),
    [("chat.completions.create", CHAT), ("responses.create", RESPONSE)],
    ids=["chat", "responses"],
)


def address(server: Sluice) -> str:
    return f"http://127.0.0.1:{server.port}/v1"


# OpenAI's client


class OpenAI:
    """Makes calls by it."""

    def __init__(self, program: Program) -> None:
        self._program = program

    async def __call__(
        self,
        server: Sluice,
        call: str,
        argument: object,
        *,
        final: str | None = None,
        **client: object,
    ) -> Any:
        """What came of this call."""
        settings = {"baseURL": address(server), "maxRetries": 0, **client}
        return await self._program.ask(client=settings, call=call, argument=argument, final=final)


@pytest.fixture(scope="module")
def openai() -> Iterator[OpenAI]:
    program = in_node(20, "openai.mjs")
    program.wait()
    yield OpenAI(program)
    program.kill()


async def test_a_completion(openai, sluice, upstream):
    upstream.will(ok("Grüße 👩‍🚀", usage=usage_of(9, 3)))
    server = await sluice()

    told = await openai(server, "chat.completions.create", CHAT)

    [choice] = told["result"]["choices"]
    assert choice["message"]["content"] == "Grüße 👩‍🚀"
    assert told["result"]["usage"] == usage_of(9, 3)
    assert (await server.record()).request_id == told["requestId"]


async def test_a_streamed_completion(openai, sluice, upstream):
    upstream.will(answer_stream("Hi", " there"))
    server = await sluice()

    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    events = (await openai(server, "chat.completions.create", asked))["events"]

    said = [event["choices"][0]["delta"].get("content") for event in events if event["choices"]]
    assert "".join(filter(None, said)) == "Hi there"
    assert events[-1]["usage"] == usage_of(9, 3)


async def test_the_stream_helper_of_completions(openai, sluice, upstream):
    upstream.will(answer_stream("Hi", " there"))
    server = await sluice()

    told = await openai(server, "chat.completions.stream", CHAT, final="finalChatCompletion")

    [choice] = told["result"]["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hi there", "stop")


@pytest.mark.parametrize("streams", [False, True])
async def test_the_tool_runner(openai, sluice, upstream, streams):
    upstream.will(calls_tool("weather", '{"city": "Oslo"}'), good())
    server = await sluice()

    asked = {**CHAT, "stream": streams}
    told = await openai(server, "chat.completions.runTools", asked, final="finalContent")

    assert told["result"] == "Hi there"
    assert told_of_weather(upstream) == "It rains in Oslo"


def told_of_weather(upstream: Upstream) -> str:
    """What the provider was told when it had asked for the tool."""
    call, result = upstream.requests[1].json["messages"][-2:]
    [asked] = call["tool_calls"]
    assert (asked["id"], asked["function"]["name"]) == ("call_1", "weather")
    assert json.loads(asked["function"]["arguments"]) == {"city": "Oslo"}
    assert (result["role"], result["tool_call_id"]) == ("tool", "call_1")
    words: str = result["content"]
    return words


async def test_a_response(openai, sluice, upstream):
    upstream.will(ok(usage=usage_of(9, 3)))
    server = await sluice()

    told = await openai(server, "responses.create", RESPONSE)

    assert told["result"]["output_text"] == "Hi there"  # which their client puts together
    assert (told["result"]["status"], told["result"]["usage"]["total_tokens"]) == ("completed", 12)


async def test_a_streamed_response(openai, sluice, upstream):
    upstream.will(answer_stream("Hi", " there"))
    server = await sluice()

    events = (await openai(server, "responses.create", {**RESPONSE, "stream": True}))["events"]

    deltas = [each["delta"] for each in events if each["type"] == "response.output_text.delta"]
    assert deltas == ["Hi", " there"]
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"


async def test_the_stream_helper_of_responses(openai, sluice, upstream):
    upstream.will(answer_stream("Hi", " there"))
    server = await sluice()

    told = await openai(server, "responses.stream", RESPONSE, final="finalResponse")

    assert told["result"]["output_text"] == "Hi there"
    assert told["result"]["usage"]["output_tokens"] == 3


async def test_models(openai, sluice, upstream):
    server = await sluice(chat_models="gpt-4o, their/7b")

    listed = await openai(server, "models.list", {})
    named = await openai(server, "models.retrieve", "their/7b")

    assert [each["id"] for each in listed["result"]["data"]] == [
        "gpt-4o-mini",
        "gpt-4o",
        "their/7b",
    ]
    assert named["result"]["id"] == "their/7b"


@pytest.mark.parametrize(
    ("step", "changes", "name", "status", "code"),
    [
        (good(), {"temperature": 9}, "BadRequestError", 400, "invalid_request"),
        (good(), {"model": "gpt-99"}, "NotFoundError", 404, "model_not_found"),
        (error(400), {}, "UnprocessableEntityError", 422, "prompt_rejected"),
        (error(401), {}, "InternalServerError", 500, "provider_misconfigured"),
        (error(503), {}, "InternalServerError", 502, "provider_unavailable"),
        (silence, {}, "InternalServerError", 504, "deadline_exceeded"),
    ],
)
@CALLS
async def test_errors_have_their_classes(
    openai, sluice, upstream, call, ask, step, changes, name, status, code
):
    upstream.will(step)
    server = await sluice(**deadline(0.3))

    told = (await openai(server, call, {**ask, **changes}))["error"]

    kind = "server_error" if status >= 500 else "invalid_request_error"
    assert (told["name"], told["status"]) == (name, status)
    assert (told["code"], told["type"]) == (code, kind)


async def test_credentials(openai, sluice, upstream, tmp_path):
    upstream.will(good())
    key, _ = key_file.add(tmp_path / "keys.ini", "ada", "2026-11-24")
    server = await sluice(auth_mode="keys", auth_keys_file=tmp_path / "keys.ini")

    refused = await openai(server, "chat.completions.create", CHAT)
    told = await openai(server, "chat.completions.create", CHAT, apiKey=key)

    assert (refused["error"]["name"], refused["error"]["status"]) == ("AuthenticationError", 401)
    assert told["result"]["choices"][0]["message"]["content"] == "Hi there"


async def test_it_does_not_multiply_the_attempts(openai, sluice, upstream):
    upstream.will(error(503))
    server = await sluice()

    told = await openai(server, "chat.completions.create", CHAT, maxRetries=2)

    assert told["error"]["status"] == 502
    assert len(upstream.requests) == 3


async def test_it_does_not_buy_twice(openai, sluice, upstream):
    upstream.will(silence)
    server = await sluice(**deadline(0.2), retry_max_attempts=1)

    told = await openai(server, "chat.completions.create", CHAT, maxRetries=1)

    assert told["error"]["code"] == "deadline_exceeded"
    assert len(upstream.requests) == 1


@CALLS
@pytest.mark.parametrize("end", [chunks(), chunks(ERROR_IN_DATA)], ids=["cut", "error"])
async def test_a_stream_that_breaks_is_an_error(openai, sluice, upstream, call, ask, end):
    upstream.will(after_content(end))
    server = await sluice()

    told = await openai(server, call, {**ask, "stream": True})

    assert "Upstream provider unavailable" in str(told), told
    assert not any(each.get("type") == "response.completed" for each in told["events"])


# The AI SDK's provider


class AI:
    """Has answers by it."""

    def __init__(self, program: Program) -> None:
        self._program = program

    async def __call__(
        self,
        server: Sluice,
        api: str,
        *turns: str,
        stream: bool = False,
        weather: bool = False,
        **settings: object,
    ) -> Any:
        """The answer to the last of these turns."""
        return await self._program.ask(
            provider={"baseURL": address(server)},
            api=api,
            stream=stream,
            turns=turns,
            settings=settings,
            weather=weather,
        )


@pytest.fixture(scope="module")
def ai() -> Iterator[AI]:
    program = in_node(22, "ai_openai.mjs")
    program.wait()
    yield AI(program)
    program.kill()


APIS = pytest.mark.parametrize("api", ["responses", "chat"])
FORMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
WHOLE_ITEMS = {"providerOptions": {"openai": {"store": False}}}


@APIS
@FORMS
async def test_an_answer_by_the_ai_sdk(ai, sluice, upstream, api, stream):
    upstream.will(either(ok(usage=usage_of(9, 3)), answer_stream("Hi", " there")))
    server = await sluice()

    told = await ai(server, api, "Hello", stream=stream)

    assert told == {
        "text": "Hi there",
        "finishReason": "stop",
        "usage": {"inputTokens": 9, "outputTokens": 3},
        "steps": 1,
    }


@APIS
@FORMS
async def test_a_tool_by_the_ai_sdk(ai, sluice, upstream, api, stream):
    upstream.will(calls_tool("weather", '{"city": "Oslo"}'), good())
    server = await sluice()

    told = await ai(server, api, "Hello", stream=stream, weather=True)

    assert (told["text"], told["steps"]) == ("Hi there", 2)
    assert told_of_weather(upstream) == "It rains in Oslo"


@APIS
@FORMS
async def test_a_conversation_by_the_ai_sdk(ai, sluice, upstream, api, stream):
    upstream.will(good())
    server = await sluice()

    told = await ai(server, api, "Hello", "And then?", stream=stream, **WHOLE_ITEMS)

    assert told["text"] == "Hi there"
    assert [(each["role"], each["content"]) for each in upstream.requests[1].json["messages"]] == [
        ("user", "Hello"),
        ("assistant", "Hi there"),
        ("user", "And then?"),
    ]


async def test_a_reference_of_the_ai_sdk_is_refused_with_the_way_out(ai, sluice, upstream):
    upstream.will(good())
    server = await sluice()

    told = await ai(server, "responses", "Hello", "And then?")

    assert told["error"]["status"] == 400
    assert told["error"]["message"].startswith("input[1] refers to a stored item")
    assert "store: false" in told["error"]["message"]


@APIS
async def test_an_answer_that_breaks_by_the_ai_sdk(ai, sluice, upstream, api):
    upstream.will(after_content(chunks()))
    server = await sluice()

    told = await ai(server, api, "Hello", stream=True)

    assert told["text"] == "One two three"
    assert "Upstream provider unavailable" in told["error"]["message"]


@APIS
async def test_a_refusal_by_the_ai_sdk(ai, sluice, upstream, api):
    upstream.will(error(400))
    server = await sluice()

    told = await ai(server, api, "Hello")

    assert (told["error"]["name"], told["error"]["status"]) == ("AI_APICallError", 422)
    assert told["error"]["message"] == "The provider refused this prompt"
