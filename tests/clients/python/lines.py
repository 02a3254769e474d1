"""What the programs beside this one have in common: a line of JSON in, a line of JSON out.

A question is {"base_url", "api", "stream", "weather_too"}: which of OpenAI's routes to ask "Hello"
on, "chat" or "responses"; whether to stream; whether there is a tool. The answer is {"text"},
with {"usage": [in, out]} where the client tells, or {"text", "error"}.
"""

import json
import sys
from collections.abc import Callable
from typing import Any


def serve(ask: Callable[..., dict[str, Any]]) -> None:
    """Say that all is imported, then answer every line of standard input."""
    print("ready", flush=True)
    for line in sys.stdin:
        said: list[str] = []
        try:
            answer = ask(said=said, **json.loads(line))
        except Exception as error:
            status = getattr(error, "status_code", None)
            told = {"name": type(error).__name__, "status": status, "message": str(error)}
            answer = {"text": "".join(said), "error": told}
        print(json.dumps(answer), flush=True)


def rain(city: str) -> str:
    return f"It rains in {city}"
