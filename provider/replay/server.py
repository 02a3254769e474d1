"""The embedded provider: a real HTTP server on loopback that replays cassettes.

The whole way to a provider is walked (SDK, transport, sockets, retries, timers); only the
words are recorded. It needs no key and no network.

Rules of this module:

- A prompt is answered by the recording of the same conversation; else of the same last
  message; else of the one that shares most words; else of "Hello".
- Attempt n of a call plays the n-th recording of that conversation, the last one again and
  again, so a recorded "429, then an answer" replays as just that.
- `X-Replay-Scenario: NAME` plays a failure instead: a cassette of failures by its file name,
  or one of `SCRIPTED`. `NAME_once` fails the first attempt only.
- An answer says by `X-Sluice-Recording` whether it is that of the same conversation.
- A cassette does not keep time, so events are sent `chunk_interval_s` apart.
"""

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets

from errors import ConfigError
from provider.replay.cassette import RECORDING_HEADER, Exchange, load

log: Final = logging.getLogger("sluice.replay")

Conversation = tuple[tuple[str, str], ...]
Script = Callable[[HTTPServerRequest, Exchange, float], Awaitable[None]]

_EVENT_END: Final = re.compile(rb"(?<=\n\n)")
_OPERATORS: Final = frozenset(("system", "developer"))
_SLOW_S: Final = 3.0


class Library:
    """The recordings of a folder of cassettes, or of one."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.failures: dict[str, list[Exchange]] = {}
        self._answers: dict[bool, dict[Conversation, list[Exchange]]] = {True: {}, False: {}}
        recordings = {path.stem: load(path) for path in files}
        for name, exchanges in recordings.items():
            if all(exchange.status >= 400 for exchange in exchanges):
                self.failures[name] = exchanges
                if len(recordings) > 1:
                    continue
            self._add(exchanges)

    @classmethod
    def open(cls, path: Path) -> "Library":
        """The library at this path.

        Raises:
            ConfigError: nothing is there, or it is not a recording.
        """
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not files:
            raise ConfigError(f"{path}: holds no cassettes (*.yaml)")
        return cls(files)

    def _add(self, exchanges: list[Exchange]) -> None:
        takes: dict[tuple[bool, Conversation], list[Exchange]] = defaultdict(list)
        for exchange in exchanges:
            asked = exchange.asked
            takes[bool(asked.get("stream")), _conversation(asked)].append(exchange)
        for (streamed, conversation), recorded in takes.items():
            self._answers[streamed].setdefault(conversation, recorded)

    def find(self, asked: dict[str, object]) -> tuple[list[Exchange], str]:
        """The recordings, by attempt, that answer this request best, and how they fit it, as
        `RECORDING_HEADER` says it. Empty: there are none."""
        answers = self._answers[bool(asked.get("stream"))]
        wanted = _conversation(asked)
        if wanted in answers or not answers:
            return answers.get(wanted, []), "exact"

        if not wanted:
            wanted = (("user", ""),)

        def nearness(conversation: Conversation) -> tuple[bool, float, bool]:
            said, recorded = wanted[-1][1], conversation[-1][1]
            return said == recorded, _likeness(said, recorded), recorded == "Hello"

        return answers[max(answers, key=nearness)], "substitute"


def _conversation(asked: dict[str, object]) -> Conversation:
    """Who said what, without system prompts."""
    messages = asked.get("messages")
    assert isinstance(messages, list)
    return tuple((m["role"], _said(m)) for m in messages if m["role"] not in _OPERATORS)


def _said(message: dict[str, Any]) -> str:
    """The words of a message, whose content may be parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def _likeness(one: str, other: str) -> float:
    """Shared words by all words of both, from 0 to 1."""
    words, others = (set(re.findall(r"\w+", text.lower())) for text in (one, other))
    return len(words & others) / max(1, len(words | others))


class EmbeddedProvider:
    """Serves a library on a free port of 127.0.0.1, inside the running event loop."""

    def __init__(self, library: Library, chunk_interval_s: float) -> None:
        self._library = library
        self._chunk_interval_s = chunk_interval_s
        self._server = HTTPServer(self._accept)
        self._tasks: set[asyncio.Task[None]] = set()
        failures = sorted((*library.failures, *SCRIPTED))
        self.scenarios = tuple(name + once for name in failures for once in ("", "_once"))

    def start(self) -> str:
        """Listen; the base URL."""
        sockets = bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        return f"http://127.0.0.1:{sockets[0].getsockname()[1]}/v1"

    async def stop(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()
        for task in self._tasks:
            task.cancel()

    def _accept(self, request: HTTPServerRequest) -> None:
        task = asyncio.ensure_future(self._serve(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, request: HTTPServerRequest) -> None:
        attempt = int(request.headers.get("x-stainless-retry-count", "0"))
        scenario = request.headers.get("X-Replay-Scenario", "")
        if scenario.endswith("_once"):
            scenario = "" if attempt else scenario.removesuffix("_once")
        asked = Exchange("", request.body, 0, "", (), b"").asked
        takes, fits = self._library.failures.get(scenario, []), "failure"
        if not takes:
            takes, fits = self._library.find(asked)
        try:
            if not takes:
                log.warning("no_recording", extra={"stream": bool(asked.get("stream"))})
                await _send(request, 404, (), b"{}")
                return
            take = takes[min(attempt, len(takes) - 1)]
            take = replace(take, headers=(*take.headers, (RECORDING_HEADER, fits)))
            await SCRIPTED.get(scenario, _replay)(request, take, self._chunk_interval_s)
        except StreamClosedError:
            pass  # the caller left, as callers may


async def _send(
    request: HTTPServerRequest,
    status: int,
    headers: Iterable[tuple[str, str]],
    *chunks: bytes,
    interval_s: float = 0,
    finish: bool = True,
) -> None:
    """Write a chunked reply; without `finish` it stays open."""
    connection = request.connection
    assert connection is not None
    await connection.write_headers(
        ResponseStartLine("HTTP/1.1", status, ""), HTTPHeaders(dict(headers))
    )
    for chunk in chunks:
        await connection.write(chunk)
        if interval_s:
            await asyncio.sleep(interval_s)
    if finish:
        connection.finish()


def _events(take: Exchange) -> list[bytes]:
    return [event for event in _EVENT_END.split(take.body) if event]


async def _replay(request: HTTPServerRequest, take: Exchange, interval_s: float) -> None:
    streamed = dict(take.headers).get("content-type", "").startswith("text/event-stream")
    chunks = _events(take) if streamed else [take.body]
    await _send(
        request, take.status, take.headers, *chunks, interval_s=interval_s if streamed else 0
    )


async def _slow(request: HTTPServerRequest, take: Exchange, interval_s: float) -> None:
    await asyncio.sleep(_SLOW_S)
    await _replay(request, take, interval_s)


async def _stalled(request: HTTPServerRequest, take: Exchange, interval_s: float) -> None:
    """Begin well, then fall silent for ever. A buffered answer does not even begin."""
    if len(_events(take)) > 1:
        half = _events(take)[: max(2, len(_events(take)) // 2)]
        await _send(request, 200, take.headers, *half, interval_s=interval_s, finish=False)


async def _truncated(request: HTTPServerRequest, take: Exchange, interval_s: float) -> None:
    """Half of the answer, with a clean end to the body."""
    events = _events(take)
    half = events[: len(events) // 2] if len(events) > 1 else [take.body[: len(take.body) // 2]]
    await _send(request, 200, take.headers, *half, interval_s=interval_s)


async def _disconnect(request: HTTPServerRequest, take: Exchange, interval_s: float) -> None:
    assert request.connection is not None
    request.connection.close()  # type: ignore[attr-defined]


async def _garbage(request: HTTPServerRequest, take: Exchange, interval_s: float) -> None:
    await _send(request, 200, (("content-type", "text/html"),), b"<html>It works!</html>")


SCRIPTED: Final[dict[str, Script]] = {
    "slow": _slow,
    "stalled": _stalled,
    "truncated": _truncated,
    "disconnect": _disconnect,
    "garbage": _garbage,
}
