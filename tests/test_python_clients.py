"""/v1, driven by Python's usual clients, each in a process of its own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Sluice
from programs import Program, in_python
from upstream import (
    after_content,
    answer_stream,
    calls_tool,
    chunks,
    either,
    error,
    good,
    ok,
    usage_of,
)

CLIENTS = ("llm", "langchain", "agents", "litellm")
APIS = pytest.mark.parametrize("api", ["chat", "responses"])
FORMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Program]]:
    """All of them are started together, for their imports take seconds; the slowest is last."""
    environ = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it would fetch one
        "LLM_USER_PATH": str(tmp_path_factory.mktemp("llm")),
    }
    started = {name: in_python(f"ask_{name}.py", **environ) for name in CLIENTS}
    yield started
    for program in started.values():
        program.kill()


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest, programs: dict[str, Program]) -> Program:
    program = programs[request.param]
    program.wait()
    return program


async def ask(
    client: Program, server: Sluice, api: str, stream: bool, weather: bool = False
) -> Any:
    return await client.ask(
        base_url=f"http://127.0.0.1:{server.port}/v1", api=api, stream=stream, weather_too=weather
    )


@APIS
@FORMS
async def test_an_answer(client, sluice, upstream, api, stream):
    upstream.will(either(ok(usage=usage_of(9, 3)), answer_stream("Hi", " there")))
    server = await sluice()

    told = await ask(client, server, api, stream)

    assert told in ({"text": "Hi there", "usage": [9, 3]}, {"text": "Hi there"})
    assert upstream.requests[0].json.get("stream", False) == stream
    assert (await server.record()).code == "completed"


@APIS
@FORMS
async def test_a_tool(client, sluice, upstream, api, stream):
    upstream.will(calls_tool("weather", '{"city": "Oslo"}'), good())
    server = await sluice()

    told = await ask(client, server, api, stream, weather=True)

    assert "Hi there" in told["text"], told
    call, result = upstream.requests[1].json["messages"][-2:]
    [asked] = call["tool_calls"]
    assert json.loads(asked["function"]["arguments"]) == {"city": "Oslo"}
    assert (result["role"], result["tool_call_id"]) == ("tool", asked["id"])
    assert result["content"] == "It rains in Oslo"


@APIS
async def test_a_stream_that_breaks_is_an_error(client, sluice, upstream, api):
    upstream.will(after_content(chunks()))
    server = await sluice()

    told = await ask(client, server, api, stream=True)

    assert told["text"].startswith("One two three")
    assert "Upstream provider unavailable" in told["error"]["message"]


@APIS
@FORMS
async def test_a_refusal(client, sluice, upstream, api, stream):
    upstream.will(error(400))
    server = await sluice()

    told = await ask(client, server, api, stream)

    assert "The provider refused this prompt" in told["error"]["message"]
    assert len(upstream.requests) == 1
