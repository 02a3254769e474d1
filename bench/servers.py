"""The processes of the benchmark: what is started how, and what it has used.

Rules of this module:

- Every server gets the same core for itself; upstream and load generator share another.
- CPU is the kernel's count for the whole process, threads included (V8's collector, too).
- Nothing is installed but bench/express, and that only from its lock file.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
SLUICE: Final = [sys.executable, str(HERE.parent / "server.py")]

# One address makes all the calls here: as high as they go, so that they are counted all the same.
_UNLIMITED: Final = {
    f"SLUICE_LIMIT_IP_{name}": "1000000000"
    for name in ("REQUESTS_PER_MINUTE", "TOKENS_PER_MINUTE", "TOKENS_PER_DAY")
} | {"SLUICE_LIMIT_IP_IN_FLIGHT": "100000", "SLUICE_LIMIT_TOTAL_USD_PER_DAY": "1000000"}

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    """A running process that listens on `port`."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """User and system seconds so far."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    def resident_mb(self) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"{self.name} has ended")

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()


async def most_resident_mb(server: Server, load: Awaitable[object]) -> float:
    """The most that the server has in memory while this load lasts."""
    working, most_mb = asyncio.ensure_future(load), 0.0
    while not working.done():
        await asyncio.sleep(0.1)
        most_mb = max(most_mb, server.resident_mb())
    await working
    return most_mb


def start(
    name: str, command: list[str], core: int | None, upstream: Server | None = None
) -> Server:
    """Start it on this core, or on any, and wait until it listens."""
    port = _free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLUICE_", "DYNO"))}
    environment |= _UNLIMITED
    environment |= {"PORT": str(port), "NODE_ENV": "production", "OPENAI_API_KEY": "bench"}
    if upstream is not None:
        environment["OPENAI_BASE_URL"] = f"http://127.0.0.1:{upstream.port}/v1"
    process = subprocess.Popen(
        [part.format(port=port) for part in command],
        env=environment,
        stdout=subprocess.DEVNULL,
        # Threads inherit the core; setting it from outside later would miss some.
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )
    server = Server(name, port, process)
    for _ in range(1200):  # a minute, on a busy machine
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.05)
    server.stop()
    raise RuntimeError(f"{name} did not come up")


def start_upstream(core: int | None = LOAD_CORE) -> Server:
    return start("upstream", [sys.executable, str(HERE / "upstream.py"), "{port}"], core)


def commands() -> dict[str, list[str]]:
    """How to start each server; Express only where Node.js can run it."""
    found = {"Sluice": SLUICE}
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        print("Express is left out: there is no node or no npm here.\n")
    else:
        if not (HERE / "express" / "node_modules").is_dir():
            subprocess.run([npm, "ci", "--silent"], cwd=HERE / "express", check=True)
        found["Express + openai"] = [node, str(HERE / "express" / "server.mjs")]
    found["floor"] = [sys.executable, str(HERE / "floor.py")]
    return found


def express_versions() -> list[str]:
    """Versions of Node.js and of what bench/express has installed."""
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    installed = HERE / "express" / "node_modules"
    return [f"Node.js {node.stdout.strip().removeprefix('v')}"] + [
        f"{name} {json.loads((installed / name / 'package.json').read_text())['version']} (npm)"
        for name in ("express", "openai")
    ]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
