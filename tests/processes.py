"""`python server.py` as a process."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import pytest
from conftest import ROOT, Client, Reply
from tornado.ioloop import IOLoop

from config.platforms import PLATFORMS
from telemetry.logging.format import FIELDS

_SHORT: Final = {long: short for short, long in FIELDS.items()}


class Process:
    """A running `python server.py`; its log lines have their fields by short names."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._came = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            document = json.loads(line)
            self.lines.append({_SHORT.get(name, name): document[name] for name in document})
            self._came.set()
        self._came.set()

    async def line(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait for the log line of this event with this number (from 1)."""
        while len(found := [line for line in self.lines if line["event"] == event]) < count:
            assert not self._reading.done(), f"ended without {event}: {self.lines}"
            self._came.clear()
            await self._came.wait()
        return found[count - 1]

    async def send(self, data: bytes) -> Client:
        """A new connection on which these bytes were sent."""
        port = int((await self.line("listening"))["address"].rpartition(":")[2])
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        await client.send(data)
        return client

    async def ask(self, data: bytes) -> Reply:
        client = await self.send(data)
        reply = await client.reply()
        client.fin()
        return reply

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; the exit code."""
        code = await self.process.wait()
        await self._reading
        assert self.process.stderr is not None
        assert await self.process.stderr.read() == b""
        return code

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading


OF_PLATFORMS: Final = tuple(name for each in PLATFORMS for name in each.variables)


def environment(**further: str) -> dict[str, str]:
    foreign = (
        "SLUICE_",
        "OPENAI_",
        "OTEL_",
        *OF_PLATFORMS,
        "PORT",
        "COV_",
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**own, "PORT": "0", **further}


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
def start(io_loop: IOLoop) -> Iterator[Start]:
    """`await start("replay", path, SLUICE_X_Y="1")`: a process that is listening."""
    started: list[Process] = []

    async def run(*arguments: object, **variables: str) -> Process:
        process = Process(
            await asyncio.create_subprocess_exec(
                sys.executable,
                str(ROOT / "server.py"),
                *map(str, arguments),
                env=environment(PYTHONWARNINGS="error", **variables),
                cwd="/",
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )
        started.append(process)
        await process.line("listening")
        return process

    async def stop() -> None:
        for process in started:
            await process.stop()

    yield run
    io_loop.run_sync(stop, timeout=10)


async def finished(*arguments: object, **variables: str) -> tuple[int, str, str]:
    """Run to the end; exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "server.py"),
        *map(str, arguments),
        env=environment(**variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()
