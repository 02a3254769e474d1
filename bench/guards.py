"""What the guards cost a call: CPU of this process, without network.

    python bench/guards.py

A call is made, admitted and left again, so many times; what making it takes is subtracted.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(ROOT / "tokens"))

from call import Call  # noqa: E402
from config import loader  # noqa: E402
from guards.gate import Gate  # noqa: E402
from guards.tokens import count_prompt  # noqa: E402
from prices import Prices  # noqa: E402

CALLS: Final = 5000
SHORT: Final = "Tell me something about benchmarks, will you?"
LONG: Final = "The quick brown fox jumps over the lazy dog, again and again; it never stops. " * 13
UNLIMITED: Final = {
    f"SLUICE_LIMIT_IP_{name}": "1000000000"
    for name in ("REQUESTS_PER_MINUTE", "TOKENS_PER_MINUTE", "TOKENS_PER_DAY")
} | {"SLUICE_LIMIT_TOTAL_USD_PER_DAY": "1000000"}


def made(text: str) -> Call:
    call = Call("id", "/api/chat", 0.0, 1.0, model="gpt-4o-mini", max_tokens=300)
    call.address = "203.0.113.9"
    system = {"role": "system", "content": "You are a helpful assistant."}
    call.operator_messages = 1
    call.messages = [system, {"role": "user", "content": text}]
    return call


async def cpu_us(text: str, work: Callable[[Call], Awaitable[object]]) -> float:
    began = time.process_time()
    for _ in range(CALLS):
        made(text)
    making_s = time.process_time() - began
    began = time.process_time()
    for _ in range(CALLS):
        await work(made(text))
    return (time.process_time() - began - making_s) / CALLS * 1e6


async def main() -> None:
    config = loader.load(ROOT / "config.ini", UNLIMITED)
    gate = Gate.build(
        config,
        None,
        clock=time.monotonic,
        wall_clock=time.time,
        prices=Prices(config.models),
    )

    async def everything(call: Call) -> None:
        await gate.redact_and_reserve(call)
        gate.limits.settle(call)

    async def limits(call: Call) -> None:
        await gate.limits.reserve(call)
        gate.limits.settle(call)

    async def redaction(call: Call) -> None:
        gate.redactor.redact(call.messages[1:])

    async def tokens(call: Call) -> None:
        await count_prompt(call, call.model, 8000)

    for text in (SHORT, LONG):
        print(f"a prompt of {len(text)} characters")
        for work in (everything, limits, redaction, tokens):
            print(f"  {work.__name__:11} {await cpu_us(text, work):6.1f} µs")


if __name__ == "__main__":
    asyncio.run(main())
