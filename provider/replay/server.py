"""The embedded provider: a real HTTP server on loopback that replays cassettes.

The whole way to a provider is walked (SDK, transport, sockets, retries, timers); only the
words are recorded. It needs no key and no network.

Rules of this module:

- Which recording answers a prompt is library.py's to say.
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
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Final

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets

from provider.replay.cassette import RECORDING_HEADER, Recording
from provider.replay.library import Library

log: Final = logging.getLogger("sluice.replay")

Script = Callable[[HTTPServerRequest, Recording, float], Awaitable[None]]

_EVENT_END: Final = re.compile(rb"(?<=\n\n)")
_SLOW_S: Final = 3.0


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
        wanted = Recording("", request.body, 0, "", (), b"").request
        recordings, fits = self._library.failures.get(scenario, []), "failure"
        if not recordings:
            recordings, fits = self._library.find(wanted)
        try:
            if not recordings:
                log.warning("no_recording", extra={"stream": bool(wanted.get("stream"))})
                await _send(request, 404, (), b"{}")
                return
            recording = recordings[min(attempt, len(recordings) - 1)]
            recording = replace(recording, headers=(*recording.headers, (RECORDING_HEADER, fits)))
            await SCRIPTED.get(scenario, _replay)(request, recording, self._chunk_interval_s)
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


def _events(recording: Recording) -> list[bytes]:
    return [event for event in _EVENT_END.split(recording.body) if event]


async def _replay(request: HTTPServerRequest, recording: Recording, interval_s: float) -> None:
    streamed = dict(recording.headers).get("content-type", "").startswith("text/event-stream")
    chunks = _events(recording) if streamed else [recording.body]
    await _send(
        request,
        recording.status,
        recording.headers,
        *chunks,
        interval_s=interval_s if streamed else 0,
    )


async def _slow(request: HTTPServerRequest, recording: Recording, interval_s: float) -> None:
    await asyncio.sleep(_SLOW_S)
    await _replay(request, recording, interval_s)


async def _stalled(request: HTTPServerRequest, recording: Recording, interval_s: float) -> None:
    """Begin well, then fall silent for ever. A buffered answer does not even begin."""
    if len(_events(recording)) > 1:
        half = _events(recording)[: max(2, len(_events(recording)) // 2)]
        await _send(request, 200, recording.headers, *half, interval_s=interval_s, finish=False)


async def _truncated(request: HTTPServerRequest, recording: Recording, interval_s: float) -> None:
    """Half of the answer, with a clean end to the body."""
    events = _events(recording)
    half = (
        events[: len(events) // 2]
        if len(events) > 1
        else [recording.body[: len(recording.body) // 2]]
    )
    await _send(request, 200, recording.headers, *half, interval_s=interval_s)


async def _disconnect(request: HTTPServerRequest, recording: Recording, interval_s: float) -> None:
    assert request.connection is not None
    request.connection.close()  # type: ignore[attr-defined]


async def _invalid_response(
    request: HTTPServerRequest, recording: Recording, interval_s: float
) -> None:
    await _send(request, 200, (("content-type", "text/html"),), b"<html>It works!</html>")


SCRIPTED: Final[dict[str, Script]] = {
    "slow": _slow,
    "stalled": _stalled,
    "truncated": _truncated,
    "disconnect": _disconnect,
    "garbage": _invalid_response,
}
