"""The books: of thousands of calls, whatever became of them, log, metrics and quotas say the same.

Each call is a plan: what is asked, how the provider answers, and what the client does meanwhile.
The prompt's first word names what the provider does, so that any number of calls may run at once.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import JSON, Client, Sluice, StartSluice, chat, deadline, encoded
from test_metrics import TOKEN, Scrape, scrape
from upstream import (
    ERROR_IN_DATA,
    Exchange,
    Step,
    Upstream,
    after_content,
    answer_stream,
    chunks,
    completion,
    delta,
    either,
    error,
    fin,
    finish,
    garbage_status_line,
    json_reply,
    rst,
    shaped,
    silence,
    stream,
    usage_of,
)

from errors import OUTCOMES, CallError
from guards.auth import key_file

CALLS = 2000
AT_ONCE = 16


def once(failure: Step, then: Step) -> Step:
    """A call's first attempt fails, its second does not."""

    async def step(exchange: Exchange) -> None:
        first = exchange.request.header("x-stainless-retry-count") == "0"
        await (failure if first else then)(exchange)

    return step


counted = either(json_reply(completion(usage=usage_of(9, 3))), answer_stream("Hi", " there"))
uncounted = either(json_reply(completion()), stream(delta("Hi"), delta(" there"), finish()))
PROVIDER: dict[str, Step] = {
    "counted": counted,
    "uncounted": uncounted,
    "retried": once(error(503), counted),
    "down": error(503),
    "busy": error(429, ("Retry-After", "99")),
    "refuses": error(400),
    "filters": json_reply(completion(None, finish_reason="content_filter")),
    "locked": error(401),
    "hangs-up": fin,
    "resets": rst,
    "garbage": garbage_status_line,
    "nonsense": shaped(b"[]"),
    "breaks-off": after_content(chunks()),
    "errs-midway": after_content(chunks(ERROR_IN_DATA)),
    "stops-midway": after_content(silence),
    "silent": silence,
}


class Books:
    """A server with callers ada (no limits), bob (a few calls) and eve (a few tokens)."""

    def __init__(self, server: Sluice, upstream: Upstream, tokens: dict[str, str]) -> None:
        self.server = server
        self.upstream = upstream
        self._tokens = tokens
        self._asked: set[str] = set()
        self.sent = 0
        self.reserved = Counter[str]()
        self.released = Counter[str]()
        counters, limits = server.gate.limits._memory, server.gate.limits
        self.counted = 0
        count, take, correct = limits.count, counters.take, counters.correct

        async def counting_count(call: Any, *, known: bool = True) -> None:
            await count(call, known=known)
            self.counted += known

        async def counting_take(charges: Any, *args: Any) -> Any:
            taken = await take(charges, *args)
            if taken.granted:
                for charge in charges:
                    self.reserved[charge.key] += charge.amount
            return taken

        def counting_correct(charges: Any, *args: Any) -> None:
            for charge in charges:
                self.released[charge.key] -= charge.amount
            correct(charges, *args)

        limits.count = counting_count  # type: ignore[method-assign]
        counters.take = counting_take  # type: ignore[method-assign]
        counters.correct = counting_correct  # type: ignore[method-assign]

    def headers(self, caller: str) -> tuple[tuple[str, str], ...]:
        return (("Authorization", f"Bearer {self._tokens[caller]}"), JSON)

    async def send(self, data: bytes) -> Client:
        self.sent += 1
        return await self.server.send(data)

    async def ask(self, data: bytes) -> None:
        """Send this and read the whole reply."""
        client = await self.send(data)
        await client.reply()
        client.fin()

    def prompt(self, word: str, caller: str = "ada", **fields: object) -> bytes:
        body = {"userMessage": f"{word} {self.sent}", "maxTokens": 50, **fields}
        return chat(body, *self.headers(caller))

    async def provide(self, exchange: Exchange) -> None:
        """Answer as the prompt's first word says."""
        prompt = exchange.request.json["messages"][-1]["content"]
        self._asked.add(prompt)
        self.upstream.changed.set()
        await PROVIDER[prompt.split()[0]](exchange)

    async def asked(self, prompt: str) -> None:
        """The provider has this prompt."""
        await self.upstream.until(lambda: prompt in self._asked)


Plan = Callable[[Books, random.Random], Awaitable[None]]


async def whole(books: Books, dice: random.Random) -> None:
    await books.ask(books.prompt(dice.choice([*PROVIDER][:-2])))


async def streamed(books: Books, dice: random.Random) -> None:
    await books.ask(books.prompt(dice.choice([*PROVIDER][:-2]), stream=True))


async def good(books: Books, dice: random.Random) -> None:
    await books.ask(books.prompt("counted", stream=dice.random() < 0.5))


async def late(books: Books, dice: random.Random) -> None:
    await books.ask(books.prompt("silent", stream=dice.random() < 0.5))


async def refused(books: Books, dice: random.Random) -> None:
    """By everything that stands before the provider."""
    ada = books.headers("ada")
    await books.ask(
        dice.choice(
            [
                chat({}, *ada),
                chat(b"{oops", *ada),
                chat({"userMessage": "word " * 400}, *ada),
                chat({"userMessage": "counted", "model": "no-such"}, *ada),
                chat({"userMessage": "counted", "maxTokens": 9999}, *ada),
                chat(b"x" * 20_000, *ada),
                chat(b"hello", ("Content-Type", "text/plain"), ada[0]),
                chat({"userMessage": "counted"}),
                chat({"userMessage": "counted"}, ("Authorization", "Bearer sluice_wrong")),
                chat({"userMessage": "counted"}, ("Origin", "https://evil.example"), *ada),
                chat({"userMessage": "counted 4242 4242 4242 4242"}, *ada),
                encoded("GET", "/api/chat", ada),
            ]
        )
    )


async def limited(books: Books, dice: random.Random) -> None:
    await books.ask(books.prompt("counted", dice.choice(["bob", "eve"])))


async def repeated(books: Books, dice: random.Random) -> None:
    """One of few keys, mostly with the same body."""
    key = ("Idempotency-Key", f"key-{dice.randrange(20)}")
    body = {"userMessage": "counted" if dice.random() < 0.8 else "uncounted", "stream": True}
    await books.ask(chat(body, key, *books.headers("ada")))


async def leaves_before_content(books: Books, dice: random.Random) -> None:
    prompt = f"silent {books.sent}"
    client = await books.send(books.prompt("silent", stream=dice.random() < 0.5))
    await books.asked(prompt)
    dice.choice([Client.fin, Client.rst, Client.half_close])(client)


async def leaves_midway(books: Books, dice: random.Random) -> None:
    client = await books.send(books.prompt("stops-midway", stream=True))
    await client.head()
    await client.until(b"One")
    dice.choice([Client.fin, Client.rst])(client)


async def leaves_in_the_body(books: Books, dice: random.Random) -> None:
    before = len(books.server.calls.records)
    client = await books.send(books.prompt("counted")[:-10])
    await asyncio.sleep(0)
    client.fin()
    await books.server.calls.wait(before + 1)


PLANS: dict[Plan, int] = {
    good: 20,
    whole: 20,
    streamed: 20,
    refused: 15,
    repeated: 10,
    limited: 5,
    leaves_before_content: 4,
    leaves_midway: 3,
    leaves_in_the_body: 2,
    late: 1,
}


@pytest.fixture
def open_books(sluice: StartSluice, upstream: Upstream, tmp_path: Path) -> Any:
    async def start() -> Books:
        path = tmp_path / "keys.ini"
        tokens = {name: key_file.add(path, name, "2026-11-24")[0] for name in ("ada", "bob", "eve")}
        text = path.read_text().replace("[bob]", "[bob]\nrequests_per_minute = 9")
        path.write_text(text.replace("[eve]", "[eve]\ntokens_per_day = 500"))
        server = await sluice(
            **deadline(2),
            auth_mode="keys",
            auth_keys_file=path,
            metrics_token=TOKEN,
            chat_max_prompt_tokens=200,
            server_max_body_bytes=16_384,
            server_max_in_flight=100,
            redaction_card="block",
            circuit_min_calls=10**5,
            retry_budget_min=10,
            limit_caller_tokens_per_day=10**9,
            limit_caller_requests_per_minute=10**5,
            limit_total_tokens_per_day=10**9,
            limit_total_requests_per_minute=10**5,
            limit_total_in_flight=100,
        )
        books = Books(server, upstream, tokens)
        upstream.will(books.provide)
        return books

    return start


@pytest.mark.timeout(seconds=120)
@pytest.mark.slow
async def test_log_metrics_and_quotas_agree_on_thousands_of_calls(open_books: Any) -> None:
    books: Books = await open_books()
    dice = random.Random(5)
    plans = iter(dice.choices([*PLANS], [*PLANS.values()], k=CALLS))

    async def worker() -> None:
        for plan in plans:
            await plan(books, dice)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    await books.server.calls.wait(books.sent)
    await too_many(books)
    await circuit_open(books)
    await crash(books)
    await drain(books)
    await books.server.at_rest()

    balance(books, await scrape(books.server, ("Authorization", f"Bearer {TOKEN}")))


async def too_many(books: Books) -> None:
    """As many as there is room for, and one more."""
    prompts = [f"silent {books.sent + n}" for n in range(100)]
    clients = [await books.send(books.prompt("silent")) for _ in prompts]
    for prompt in prompts:
        await books.asked(prompt)
    await books.ask(books.prompt("counted"))
    for client in clients:
        client.fin()
    await books.server.calls.wait(books.sent)


async def circuit_open(books: Books) -> None:
    circuit = books.server.services.router.circuits["default"]
    usual, circuit.config = circuit.config, replace(circuit.config, min_calls=1, open_s=60)
    circuit.reset()
    with suppress(CallError), await circuit.begin():
        raise CallError("provider_unavailable", unhealthy=True)
    await books.ask(books.prompt("counted"))
    circuit.config = usual
    circuit.reset()


async def crash(books: Books) -> None:
    router = books.server.services.router
    complete = router.complete

    async def crashing(call: object) -> Any:
        raise ZeroDivisionError

    router.complete = crashing  # type: ignore[method-assign]
    await books.ask(books.prompt("counted"))
    router.complete = complete  # type: ignore[method-assign]


async def drain(books: Books) -> None:
    """Calls in every phase when the server goes down, and one that comes too late."""
    prompts = [f"silent {books.sent + n}" for n in range(10)]
    clients = [await books.send(books.prompt("silent")) for _ in prompts]
    for prompt in prompts:
        await books.asked(prompt)
    for _ in range(10):
        clients.append(await books.send(books.prompt("stops-midway", stream=True)))
        await clients[-1].head()
    books.server.services.admission.draining = True
    await books.ask(books.prompt("counted"))
    books.server.services.admission.end_all()
    for client in clients[:10]:
        await client.reply()
    for client in clients[10:]:
        await client.body()
    await books.server.calls.wait(books.sent)


def balance(books: Books, seen: Scrape) -> None:
    """Every book says the same."""
    records = books.server.calls.records
    by_code = Counter(record.code for record in records)
    # Every way to end was there, but what only other addresses answer with.
    assert set(OUTCOMES) - set(by_code) == {"not_found"}

    assert len(records) == books.sent
    for code, count in by_code.items():
        assert seen.sum("sluice_calls_total", code=code) == count, code
    assert seen.sum("sluice_calls_total") == books.sent

    # Quotas: every request of a known caller was counted, and what was kept of the tokens taken is
    # what was charged.
    total = "total:{}:all"
    assert books.reserved[total.format("requests_per_minute")] == books.counted
    tokens = total.format("tokens_per_day")
    charged = sum(record.charged_tokens for record in records)
    assert books.reserved[tokens] == charged + books.released[tokens]
    windows = books.server.gate.limits._memory._windows
    now = {key: count.current for key, (_, count) in windows.items()}
    assert now[tokens] == charged
    assert now[total.format("in_flight")] == 0
    assert (books.server.gate.limits._reservations, books.server.gate.limits._rooms) == ({}, {})
    for caller in ("ada", "bob", "eve"):
        own = sum(record.charged_tokens for record in records if record.caller == caller)
        assert now[f"caller:tokens_per_day:{caller}"] == own

    # Metrics, number by number.
    assert seen.sum("sluice_tokens_total") == charged
    for counted_by in ("provider", "estimated", "partial"):
        own = sum(r.charged_tokens for r in records if r.counted_by == counted_by)
        assert own == seen.sum("sluice_tokens_total", counted_by=counted_by) > 0
    cost = sum(record.cost_usd or 0 for record in records)
    assert seen.sum("sluice_cost_usd_total") == pytest.approx(cost)
    attempts = sum(record.attempts for record in records)
    assert seen.sum("sluice_attempts_total") == attempts
    # A request that met a stale connection was sent once more, as the same attempt.
    repeated = seen.sum("sluice_connections_dropped_total", reason="stale")
    assert attempts + repeated >= len(books.upstream.requests)
    retries = sum(max(0, record.attempts - 1) for record in records)
    assert seen.sum("sluice_retries_total") == retries > 0
    limits = Counter(r.reason for r in records if re.match("(caller|ip|total)-", r.reason or ""))
    assert limits
    for rule, count in limits.items():
        assert seen.of("sluice_limit_refusals_total", rule=rule) == count
    answered = [r for r in records if r.code == "completed" or r.status >= 500]
    timed = [r for r in answered if r.attempts and not r.replayed]
    assert seen.sum("sluice_call_duration_seconds_count") == len(timed)
    first = sum(record.first_token_ms is not None for record in timed)
    assert seen.sum("sluice_time_to_first_token_seconds_count") == first
    assert seen.of("sluice_calls_in_flight") == 0
