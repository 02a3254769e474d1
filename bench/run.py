"""Sluice beside the plain Express route and beside the floor, on one machine in one session.

    python bench/run.py [--rounds 3] [--seconds 4]

Rules of this module:

- The servers take turns, round by round, so that a noisy minute falls on all of them; what is
  printed is the median of the rounds, and every single round below it.
- CPU is taken over the load alone: no start, no import, no warm-up.
"""

import argparse
import asyncio
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar

import load
import servers
import uvloop
from servers import Server
from upstream import CHUNKS

T = TypeVar("T")

CONNECTIONS: Final = 32
RATE: Final = 200
STREAMS: Final = 32
PACE_MS: Final = 10
MEMORY_STREAMS: Final = 64


@dataclass(slots=True)
class Measured:
    """One server's figures, a list entry for each round."""

    requests_per_s: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Share of its core that the server had while saturated; below 1, somebody else was on it."""
    call_cpu_ms: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    paced_cpu_us: list[float] = field(default_factory=list)
    paced_writes: list[float] = field(default_factory=list)
    burst_cpu_us: list[float] = field(default_factory=list)
    burst_writes: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)


async def _timed(server: Server, work: Awaitable[T]) -> tuple[T, float, float]:
    """What the work gives, its seconds, and the server's CPU seconds meanwhile."""
    cpu_s, started = server.cpu_s(), time.perf_counter()
    result = await work
    return result, time.perf_counter() - started, server.cpu_s() - cpu_s


async def _warm_up(server: Server, seconds: float) -> None:
    await load.saturate(server.port, connections=CONNECTIONS, seconds=seconds)
    await load.stream(server.port, concurrent=STREAMS, waves=2, pace_ms=0)
    await load.stream(server.port, concurrent=STREAMS, waves=1, pace_ms=PACE_MS)


async def _round(server: Server, seconds: float, to: Measured) -> None:
    answered, wall_s, cpu_s = await _timed(
        server, load.saturate(server.port, connections=CONNECTIONS, seconds=seconds)
    )
    to.requests_per_s.append(answered / wall_s)
    to.busy.append(cpu_s / wall_s)
    to.call_cpu_ms.append(cpu_s / answered * 1e3)

    taken = await load.latencies_ms(server.port, rate=RATE, seconds=seconds)
    percentiles = statistics.quantiles(taken, n=100)
    to.p50_ms.append(percentiles[49])
    to.p99_ms.append(percentiles[98])

    streamed, _, cpu_s = await _timed(
        server, load.stream(server.port, concurrent=STREAMS, waves=2, pace_ms=PACE_MS)
    )
    to.paced_cpu_us.append(cpu_s / streamed.chunks * 1e6)
    to.paced_writes.append(streamed.writes / streamed.chunks * CHUNKS)

    streamed, _, cpu_s = await _timed(
        server, load.stream(server.port, concurrent=STREAMS, waves=4, pace_ms=0)
    )
    to.burst_cpu_us.append(cpu_s / streamed.chunks * 1e6)
    to.burst_writes.append(streamed.writes / streamed.chunks * CHUNKS)


async def _memory(server: Server, to: Measured) -> None:
    streams = load.stream(server.port, concurrent=MEMORY_STREAMS, waves=1, pace_ms=2 * PACE_MS)
    to.resident_mb.append(await servers.most_resident_mb(server, streams))


async def _measure(under_test: list[Server], options: argparse.Namespace) -> dict[str, Measured]:
    for server in under_test:
        print(f"warm-up: {server.name}", file=sys.stderr)
        await _warm_up(server, options.seconds)
    results = {server.name: Measured() for server in under_test}
    for number in range(options.rounds):
        for server in under_test:
            print(f"round {number + 1}: {server.name}", file=sys.stderr)
            await _round(server, options.seconds, results[server.name])
            gc.collect()
    for server in under_test:
        await _memory(server, results[server.name])
    return results


_ROWS: Final = (
    ("buffered: requests/s", "requests_per_s", 0),
    ("buffered: p50 ms", "p50_ms", 2),
    ("buffered: p99 ms", "p99_ms", 2),
    ("buffered: CPU ms a request", "call_cpu_ms", 3),
    (f"stream, {PACE_MS} ms apart: CPU µs a chunk", "paced_cpu_us", 1),
    ("stream, back to back: CPU µs a chunk", "burst_cpu_us", 1),
    (f"memory at {MEMORY_STREAMS} streams: MB", "resident_mb", 1),
    ("share of its core had, saturated", "busy", 2),
    (f"stream, {PACE_MS} ms apart: writes for {CHUNKS} chunks", "paced_writes", 0),
    (f"stream, back to back: writes for {CHUNKS} chunks", "burst_writes", 0),
)


def _table(results: dict[str, Measured]) -> str:
    """Markdown: the medians, then the rounds they come from."""
    first = max(len(title) for title, _, _ in _ROWS)
    lines = [
        f"| {'median':<{first}} | " + " | ".join(f"{name:>16}" for name in results) + " |",
        f"|{'-' * (first + 2)}|" + "|".join(f"{'-' * 17}:" for _ in results) + "|",
    ]
    for title, name, digits in _ROWS:
        cells = (statistics.median(getattr(measured, name)) for measured in results.values())
        lines.append(
            f"| {title:<{first}} | " + " | ".join(f"{v:>16,.{digits}f}" for v in cells) + " |"
        )
    lines.append("\nRound by round:")
    for name, measured in results.items():
        calls = " ".join(f"{v:.3f}" for v in measured.call_cpu_ms)
        paced = " ".join(f"{v:.1f}" for v in measured.paced_cpu_us)
        lines.append(f"  {name}: CPU ms a request {calls}; CPU µs a chunk {paced}")
    return "\n".join(lines)


def _versions(with_express: bool) -> str:
    cpu = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    names = ("tornado", "openai", "aiohttp", "uvloop", "orjson", "jsonschema")
    parts = [f"{os.cpu_count()} x {cpu}", f"Python {platform.python_version()}"]
    parts += [f"{name} {version(name)}" for name in names]
    if with_express:
        parts += servers.express_versions()
    return ", ".join(parts)


def main() -> int:
    """Run the whole; the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of each buffered load")
    options = parser.parse_args()
    if sys.platform != "linux" or not {0, 1} <= os.sched_getaffinity(0):
        print("bench: needs Linux and its cores 0 and 1", file=sys.stderr)
        return 1
    os.sched_setaffinity(0, {servers.LOAD_CORE})
    with ExitStack() as running:
        upstream = servers.start_upstream()
        running.callback(upstream.stop)
        under_test = []
        for name, command in servers.commands().items():
            under_test.append(servers.start(name, command, servers.SERVER_CORE, upstream))
            running.callback(under_test[-1].stop)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                results = runner.run(_measure(under_test, options))
        except (load.BadAnswer, OSError) as fault:
            gone = [server.name for server in (upstream, *under_test) if server.has_ended()]
            print(f"bench: {fault} (ended: {', '.join(gone) or 'none'})", file=sys.stderr)
            return 1
    print(_versions(any("Express" in name for name in results)), end="\n\n")
    print(_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
