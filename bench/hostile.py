"""Hostile bodies against a running server: how long does each hold its event loop?

    python bench/hostile.py [http://127.0.0.1:8000]

Posts each body three times while another connection asks for /healthz every millisecond, and
prints the status and the slowest of those answers. Start the server with limits that let
the requests through; SLUICE_CHAT_MAX_PROMPT_TOKENS=1000000 lets the valid bodies past the budget.

Not a test: what the clock shows depends on the machine. The tests hold that work is refused before
it is done, or done in a thread.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

CAP: Final = 262_144
"""[server] max_body_bytes by default."""
CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
HELLO: Final = {"role": "user", "content": "Hello"}


def repeated(item: str, head: str, tail: str) -> bytes:
    """A body of the largest size, with as many items as fit."""
    count = (CAP - len(head) - len(tail)) // (len(item) + 1)
    return (head + ",".join([item] * count) + tail).encode()


def bodies() -> Iterator[tuple[str, str, bytes]]:
    """What it is, the route, and the body."""
    words = '{"messages":[{"role":"user","content":"Hello"}],'
    yield "empty objects in messages", CHAT, repeated("{}", '{"messages":[', "]}")
    yield "empty objects in input", RESPONSES, repeated("{}", '{"input":[', "]}")
    parts = '[{"role":"user","content":['
    yield "empty parts in messages", CHAT, repeated("{}", f'{{"messages":{parts}', "]}]}")
    yield "empty parts in input", RESPONSES, repeated("{}", f'{{"input":{parts}', "]}]}")
    yield "empty strings in metadata", CHAT, repeated('""', words + '"metadata":{"a":[', "]}}")
    nested = "[" * 30 + "]" * 30
    yield "deep tools", CHAT, repeated(nested, words + '"tools":[', "]}")
    yield "brackets", CHAT, b"[" * CAP
    yield "long digits", CHAT, words.encode() + b'"seed":' + b"9" * (CAP - 64) + b"}"
    yield "escapes", CHAT, text_body("\\u00e9" * (CAP // 6 - 20))
    yield "16,000 short texts", CHAT, dumped(metadata={"a": ["call 555 0199"] * 15_900})
    yield "16,000 numbers like cards", CHAT, dumped(metadata={"a": ["4111111111111"] * 15_900})
    yield "a thousand messages", CHAT, dumped(messages=[HELLO] * 1000)
    part = {"type": "text", "text": "12 34 56"}
    yield "5,000 parts", CHAT, dumped(messages=[{"role": "user", "content": [part] * 1000}] * 5)
    arguments = json.dumps(["555 0199 1"] * 16_000)
    tool = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    assistant = {"role": "assistant", "content": None, "tool_calls": [tool]}
    yield "a tool's arguments", CHAT, dumped(messages=[HELLO, assistant])
    for text in ("lorem ipsum dolor ", "4111 1111 1111 1112 ", "a", "a@b.", "1", "1.2.3."):
        yield f"a long text of {text!r}", CHAT, text_body(text * ((CAP - 80) // len(text)))


def dumped(**fields: Any) -> bytes:
    body = json.dumps({"messages": [HELLO], **fields}, separators=(",", ":")).encode()
    if len(body) > CAP:
        raise ValueError(f"a body of {len(body)} bytes")
    return body


def text_body(text: str) -> bytes:
    return b'{"messages":[{"role":"user","content":"' + text.encode() + b'"}]}'


async def exchange(host: str, port: int, route: str, body: bytes) -> int:
    """Post this on a connection of its own; the status of the reply."""
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST {route} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    reply = await reader.read()
    writer.close()
    return int(reply.split()[1])


async def watch(host: str, port: int, waits: list[float]) -> None:
    """Ask for /healthz again and again, and note how long each answer takes."""
    reader, writer = await asyncio.open_connection(host, port)
    while True:
        began = time.perf_counter()
        writer.write(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split()[0]
        await reader.readexactly(int(length))
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(0.001)


async def main(url: str) -> None:
    address = urlsplit(url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    print(f"{'status':>6} {'longest wait':>13}  body")
    for name, route, body in bodies():
        waits: list[float] = []
        watcher = asyncio.create_task(watch(host, port, waits))
        await asyncio.sleep(0.05)
        waits.clear()
        for _ in range(3):
            status = await exchange(host, port, route, body)
        await asyncio.sleep(0.01)
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
        print(f"{status:6} {max(waits) * 1000:10.1f} ms  {name}, {len(body):,} bytes")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["http://127.0.0.1:8000"]))
