"""The command `llm`, run in this process."""

from typing import Any

import openai  # noqa: F401  it would be imported in the first command, and take its time
from click.testing import CliRunner
from lines import serve
from llm.cli import cli

WEATHER = """
def weather(city: str) -> str:
    "The weather in a city."
    return f"It rains in {city}"
"""


def ask(base_url: str, api: str, stream: bool, weather_too: bool, said: list[str]) -> Any:
    words = ["openai", "endpoint", base_url, "Hello", "-m", "gpt-4o-mini"]
    words += ["--responses"] * (api == "responses")
    words += ["--no-stream"] * (not stream)
    words += ["--functions", WEATHER] * weather_too
    result = CliRunner().invoke(cli, words)
    said.append(result.stdout)
    if result.exit_code:
        raise RuntimeError(result.stderr)
    return {"text": result.stdout.removesuffix("\n")}


serve(ask)
