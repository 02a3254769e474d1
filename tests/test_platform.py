"""As a platform runs it: started by the Procfile, stopped under load, and for long."""

import asyncio
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
from conftest import HELLO, KEY, ROOT, Client, chat, encoded, parse_events
from processes import Process, Start, environment
from upstream import DONE, Upstream, after_content, chunks, either, finish, ok, usage

start = processes.start
STREAM = {**HELLO, "stream": True}


async def test_the_procfile_runs_it_and_sigterm_ends_it(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    # honcho is told what a platform tells: PORT, and the PATH of the virtual environment.
    binaries = Path(sys.executable).parent
    honcho = await asyncio.create_subprocess_exec(
        *(binaries / "honcho", "-f", ROOT / "Procfile", "start", "-p", str(port)),
        env=environment(PORT=str(port), PATH=f"{binaries}:{os.environ['PATH']}"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        health = await _health(port)
        began = time.monotonic()
        honcho.send_signal(signal.SIGTERM)
        output, _ = await honcho.communicate()
    finally:
        if honcho.returncode is None:
            honcho.kill()
            await honcho.wait()
    assert health["status"] == "ok"
    assert time.monotonic() - began < 10
    assert '"event":"stopped"' in output.decode()


async def _health(port: int) -> dict[str, object]:
    """What /healthz says, as soon as somebody listens."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
            continue
        client = Client(reader, writer)
        await client.send(encoded("GET", "/healthz"))
        reply = await client.reply()
        client.fin()
        return reply.json


class Load:
    """Clients that ask one call after the other, buffered or streamed, until they cannot."""

    def __init__(self, server: Process) -> None:
        self._server = server
        self._numbers = itertools.count()
        self.heard: dict[str, str] = {}
        """What became of a call, by its request id, as its client saw it."""
        self.half = 0
        """Answers that broke off."""

    async def client(self, body: dict[str, object]) -> None:
        while True:
            name = f"call-{next(self._numbers)}"
            try:
                client = await self._server.send(chat(body, ("X-Request-Id", name)))
            except ConnectionError:
                return  # nobody listens any more
            try:
                reply = await client.head()
                reply.body = await client.body()
            except (ConnectionError, asyncio.IncompleteReadError) as cut:
                self.half += bool(getattr(cut, "partial", b""))
                return
            finally:
                client.fin()
            self.heard[name] = _outcome(body, reply.status, reply.body)


def _outcome(body: dict[str, object], status: int, answer: bytes) -> str:
    if status != 200:
        return str(json.loads(answer)["code"])
    if body is STREAM:
        last = parse_events(answer)[-1]
        return "completed" if last == "[DONE]" else str(last["code"])
    return "completed" if json.loads(answer)["text"] == "whole" else "half"


@pytest.mark.parametrize("drain_s", [5, 1, 0.1, 0])
async def test_sigterm_under_load_loses_nothing(
    start: Start, upstream: Upstream, drain_s: float
) -> None:
    upstream.will(either(ok("whole"), after_content(chunks(finish(), usage(), DONE))))
    server = await start(
        OPENAI_API_KEY=KEY,
        OPENAI_BASE_URL=upstream.url,
        SLUICE_SERVER_DRAIN_S=str(drain_s),
        SLUICE_LIMIT_IP_REQUESTS_PER_MINUTE="0",
        SLUICE_LIMIT_IP_TOKENS_PER_MINUTE="0",
    )
    load = Load(server)
    clients = [asyncio.ensure_future(load.client(body)) for body in (HELLO, STREAM) * 8]
    await server.line("call", random.randint(20, 60))

    server.signal(signal.SIGTERM)

    assert await server.ended() == 0
    await asyncio.gather(*clients)
    lines = [line for line in server.lines if line["event"] == "call"]
    logged = {line["request_id"]: line["code"] for line in lines}
    assert len(logged) == len(lines)
    assert (load.half, load.heard.items() <= logged.items()) == (0, True)
    # Refused in the instant in which its connection was closed: nobody was asked, or charged.
    unheard = [line for line in lines if line["request_id"] not in load.heard]
    assert {(line["code"], line["attempts"]) for line in unheard} <= {("draining", 0)}


@pytest.mark.slow
def test_memory_stays_flat_and_small():
    """An hour of `bench/soak.py` in seconds: after hundreds of mixed calls, a tenth failing and
    three of ten left by their clients, no more is held than before."""
    soak = subprocess.run(
        [sys.executable, ROOT / "bench" / "soak.py", "--seconds", "5", "--rate", "150"],
        env=environment(),
        capture_output=True,
        check=True,
        text=True,
    )
    measured = json.loads(soak.stdout)
    assert measured["calls"] == 750
    assert (measured["streams"], measured["streams_mb"] < 150) == (200, True)
    assert measured["ended_mb"] < 150
    assert measured["ended_mb"] - measured["warm_mb"] < 8
