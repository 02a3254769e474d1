"""LangChain's ChatOpenAI."""

from typing import Any

from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from lines import rain, serve


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return rain(city)


def ask(base_url: str, api: str, stream: bool, weather_too: bool, said: list[str]) -> Any:
    model: Any = ChatOpenAI(
        model="gpt-4o-mini",
        base_url=base_url,
        api_key="any",
        max_retries=0,
        use_responses_api=api == "responses",
        stream_usage=True,
    )
    messages: list[AnyMessage] = [HumanMessage("Hello")]
    if weather_too:
        model = model.bind_tools([weather])
        messages.append(answer(model, messages, stream, said))
        messages += [weather.invoke(call) for call in messages[-1].tool_calls]
    message = answer(model, messages, stream, said)
    usage = message.usage_metadata
    return {"text": message.text, "usage": [usage["input_tokens"], usage["output_tokens"]]}


def answer(model: Any, messages: list[AnyMessage], stream: bool, said: list[str]) -> Any:
    if not stream:
        return model.invoke(messages)
    whole = None
    for chunk in model.stream(messages):
        said.append(chunk.text)
        whole = chunk if whole is None else whole + chunk
    return whole


serve(ask)
