"""LiteLLM, as a library."""

import json
from typing import Any

import litellm
from lines import rain, serve

litellm.suppress_debug_info = True  # it would go to standard output
WEATHER = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def ask(base_url: str, api: str, stream: bool, weather_too: bool, said: list[str]) -> Any:
    settings = {
        "model": "openai/gpt-4o-mini",
        "api_base": base_url,
        "api_key": "any",
        "max_retries": 0,
        "stream": stream,
    }
    return (by_responses if api == "responses" else by_chat)(settings, weather_too, said)


def by_chat(settings: dict[str, Any], weather_too: bool, said: list[str]) -> Any:
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    if weather_too:
        settings["tools"] = [{"type": "function", "function": WEATHER}]
    if settings["stream"]:
        settings["stream_options"] = {"include_usage": True}

    def answer() -> Any:
        given = litellm.completion(messages=messages, **settings)
        if not settings["stream"]:
            return given
        chunks = []
        for chunk in given:
            chunks.append(chunk)
            said.extend(choice.delta.content or "" for choice in chunk.choices)
        return litellm.stream_chunk_builder(chunks, messages=messages)

    given = answer()
    if calls := given.choices[0].message.tool_calls:
        messages.append(given.choices[0].message)
        for call in calls:
            content = rain(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        given = answer()
    usage = [given.usage.prompt_tokens, given.usage.completion_tokens]
    return {"text": given.choices[0].message.content, "usage": usage}


def by_responses(settings: dict[str, Any], weather_too: bool, said: list[str]) -> Any:
    conversation: list[Any] = [{"role": "user", "content": "Hello"}]
    if weather_too:
        settings["tools"] = [{"type": "function", **WEATHER}]

    def answer() -> Any:
        given = litellm.responses(input=conversation, **settings)
        if not settings["stream"]:
            return given
        for event in given:
            if event.type == "response.output_text.delta":
                said.append(event.delta)
        return event.response

    given = answer()
    calls = [item for item in given.output if item.type == "function_call"]
    for call in calls:
        output = rain(**json.loads(call.arguments))
        told = {"type": "function_call_output", "call_id": call.call_id, "output": output}
        conversation += [call.model_dump(), told]
    if calls:
        given = answer()
    usage = [given.usage.input_tokens, given.usage.output_tokens]
    return {"text": given.output_text, "usage": usage}


serve(ask)
