"""Does its memory grow? Mixed calls at a steady rate, and then many streams at once.

    python bench/soak.py [--seconds 3600] [--rate 20] [--streams 200]

Rules of this module:

- Half of the calls stream. One in ten meets a provider that fails; of three in ten the client
  leaves, by FIN or by RST, at any moment. Each has a connection of its own. No more than 50
  are made at once: where the machine is too busy for the rate, there are fewer calls a second.
- Memory is the kernel's resident set. The first fifth of the time is warm-up and does not
  count; through the rest a line is laid (least squares).
- What is printed is one JSON object.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import Final

import load
import servers
import uvloop
from load import BadAnswer, Connection
from servers import Server

_FAULTS: Final = ("status", "reset", "cut")
_PACE_MS: Final = 2
_STREAM_TAKES_S: Final = 0.4
_WHOLE_TAKES_S: Final = 0.003
_WARM_UP: Final = 0.2
_AT_ONCE: Final = 50
_STREAM_PACE_MS: Final = 50
_STREAMS_S: Final = 5.0


async def _call(port: int, chance: random.Random) -> str:
    """Make one call of the mix; what came of it."""
    fault = chance.choice(_FAULTS) if chance.random() < 0.1 else ""
    stream = chance.random() < 0.5
    within_s = _STREAM_TAKES_S if stream else _WHOLE_TAKES_S
    leaves_s = chance.uniform(0, within_s) if chance.random() < 0.3 else None
    asked = load.request(stream=stream, pace_ms=_PACE_MS, fault=fault)
    connection = await Connection.open(port)
    try:
        async with asyncio.timeout(leaves_s):
            answer = await connection.exchange(asked)
    except TimeoutError:
        connection.leave(reset=chance.random() < 0.5)
        return "left"
    connection.close()
    if not answer.startswith(b"HTTP/1.1 200 ") or b'"type":"error"' in answer:
        if not fault:
            raise BadAnswer(repr(answer[:400]))
        return "failed"
    return "answered"


async def _soak(server: Server, *, seconds: float, rate: float) -> dict[str, object]:
    chance = random.Random(7)
    outcomes: Counter[str] = Counter()
    samples: list[tuple[float, int, float]] = []  # seconds, calls, MB
    places = asyncio.Semaphore(_AT_ONCE)
    began = time.perf_counter()

    async def call() -> None:
        outcomes[await _call(server.port, chance)] += 1
        places.release()

    async with asyncio.TaskGroup() as calls:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(began + number / rate - time.perf_counter())
            await places.acquire()
            calls.create_task(call())
            if number % max(1, int(rate * seconds / 200)) == 0:
                samples.append((time.perf_counter() - began, number, server.resident_mb()))
    warm = samples[int(_WARM_UP * len(samples)) :]
    at_s, count, held_mb = zip(*warm, strict=True)
    per_hour = statistics.linear_regression(at_s, held_mb).slope * 3600
    per_1000_calls = statistics.linear_regression(count, held_mb).slope * 1000
    return {
        "calls": outcomes.total(),
        **outcomes,
        "seconds": round(time.perf_counter() - began, 1),
        "warm_mb": round(held_mb[0], 1),
        "ended_mb": round(server.resident_mb(), 1),
        "mb_per_hour": round(per_hour, 2),
        "mb_per_1000_calls": round(per_1000_calls, 3),
    }


async def _streams(server: Server, count: int) -> dict[str, object]:
    """What it holds while so many streams are open, each at the speed of a quick model."""
    began_mb = server.resident_mb()
    asked = load.request(stream=True, pace_ms=_STREAM_PACE_MS)
    connections = [await Connection.open(server.port) for _ in range(count)]
    reading = [asyncio.ensure_future(each.exchange(asked)) for each in connections]
    most_mb = await servers.most_resident_mb(server, asyncio.sleep(_STREAMS_S))
    streaming = 0
    for connection, answer in zip(connections, reading, strict=True):
        streaming += connection.begun and not answer.done()
        answer.cancel()
        connection.leave(reset=False)
    return {
        "started_mb": round(began_mb, 1),
        "streams": streaming,
        "streams_mb": round(most_mb, 1),
    }


async def _measure(server: Server, options: argparse.Namespace) -> dict[str, object]:
    streams = await _streams(server, options.streams)
    return {**streams, **await _soak(server, seconds=options.seconds, rate=options.rate)}


def main() -> int:
    """Run the whole; the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=20, help="calls a second")
    parser.add_argument("--streams", type=int, default=200)
    options = parser.parse_args()
    with ExitStack() as running:
        upstream = servers.start_upstream(core=None)
        running.callback(upstream.stop)
        server = servers.start("Sluice", servers.SLUICE, None, upstream)
        running.callback(server.stop)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(_measure(server, options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
