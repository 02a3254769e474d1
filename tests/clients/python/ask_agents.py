"""OpenAI's Agents SDK, which asks /v1/responses unless it is told otherwise."""

import asyncio
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from lines import rain, serve
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent

set_tracing_disabled(True)  # it would be sent to OpenAI


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return rain(city)


async def run(base_url: str, api: str, stream: bool, weather_too: bool, said: list[str]) -> Any:
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
    async with AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
        model = kind("gpt-4o-mini", client)
        tools = [weather] if weather_too else []
        agent: Agent[None] = Agent(
            name="Test",
            instructions="Be brief.",
            model=model,
            model_settings=ModelSettings(include_usage=True),
            tools=tools,
        )
        if stream:
            result = Runner.run_streamed(agent, "Hello")
            async for event in result.stream_events():
                heard = getattr(event, "data", None)
                said.append(heard.delta if isinstance(heard, ResponseTextDeltaEvent) else "")
        else:
            result = await Runner.run(agent, "Hello")
    usage = result.context_wrapper.usage
    return {"text": result.final_output, "usage": [usage.input_tokens, usage.output_tokens]}


serve(lambda **question: asyncio.run(run(**question)))
