"""The floor: Tornado, uvloop, aiohttp and orjson, and the least code that does the same job.

    PORT=8000 OPENAI_API_KEY=… OPENAI_BASE_URL=… python floor.py

It checks, limits, bounds, logs and closes nothing: no schema, no deadline, no retry, no error.
What Sluice costs above it is the price of being safe; what it costs itself is Python's.
"""

import asyncio
import os
from typing import Final

import aiohttp
import orjson
import uvloop
from tornado.web import Application, RequestHandler

_URL: Final = os.environ.get("OPENAI_BASE_URL", "") + "/chat/completions"
_HEADERS: Final = {
    "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}",
    "Content-Type": "application/json",
}


class Tunnel(RequestHandler):
    """POST /api/chat, without any care."""

    session: aiohttp.ClientSession

    def initialize(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def post(self) -> None:
        asked = orjson.loads(self.request.body)
        body = {
            "model": "gpt-4o-mini",
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": asked["userMessage"]},
            ],
            "max_tokens": 300,
            "stream": asked.get("stream", False),
        }
        async with self.session.post(_URL, data=orjson.dumps(body), headers=_HEADERS) as answer:
            if body["stream"]:
                await self._relay(answer.content)
                return
            document = orjson.loads(await answer.read())
        self.set_header("Content-Type", "application/json")
        text = document["choices"][0]["message"]["content"]
        self.write(orjson.dumps({"text": text, "usage": document["usage"]}))

    async def _relay(self, content: aiohttp.StreamReader) -> None:
        self.set_header("Content-Type", "text/event-stream")
        rest = b""
        while chunk := await content.readany():
            *events, rest = (rest + chunk).split(b"\n\n")
            out = b""
            for event in events:
                if event == b"data: [DONE]":
                    break
                choices = orjson.loads(event[6:])["choices"]
                if choices and (text := choices[0]["delta"].get("content")):
                    out += b"data: " + orjson.dumps({"text": text}) + b"\n\n"
            if out:
                self.write(out)
                await self.flush()
        self.write(b"data: [DONE]\n\n")


async def _serve() -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        routes = [("/api/chat", Tunnel, {"session": session})]
        application = Application(routes, log_function=lambda handler: None)
        application.listen(int(os.environ["PORT"]), "127.0.0.1")
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
