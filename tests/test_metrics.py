"""What /metrics says: of calls, of the server, and to whom."""

import asyncio

import pytest
from conftest import HELLO, Reply, Sluice, StartSluice, chat, deadline
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from redis_server import RedisServer
from upstream import (
    DONE,
    Upstream,
    after_content,
    answer_stream,
    delta,
    error,
    finish,
    held,
    ok,
    role,
    silence,
    usage,
)

from errors import OUTCOMES
from telemetry.metrics import Metrics

STREAM = {**HELLO, "stream": True}
TOKEN = "scrape-me-0123456789"
MODEL = {"model": "gpt-4o-mini"}


class Scrape:
    """What a page of metrics says."""

    def __init__(self, page: bytes) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(page.decode()):
            for sample in family.samples:
                self.values[sample.name, frozenset(sample.labels.items())] = sample.value

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.values}

    def of(self, name: str, **labels: str) -> float | None:
        """The value of the one series with these labels; None where there is none."""
        return self.values.get((name, frozenset(labels.items())))

    def sum(self, name: str, **labels: str) -> float:
        """Of all series that have these labels."""
        wanted = labels.items()
        return sum(v for (n, own), v in self.values.items() if n == name and wanted <= own)


async def scrape(server: Sluice, *headers: tuple[str, str]) -> Scrape:
    reply = await server.fetch("GET", "/metrics", *headers)
    assert reply.status == 200
    return Scrape(reply.body)


# Calls


async def test_a_streamed_call_is_counted_timed_and_priced(
    sluice: StartSluice, upstream: Upstream
) -> None:
    begin, go_on = asyncio.Event(), asyncio.Event()

    async def slow(exchange) -> None:
        await begin.wait()
        await exchange.stream_head()
        await exchange.chunk(role(), delta("Hi"))
        await go_on.wait()
        await exchange.chunk(delta(" there"), finish(), usage(9, 3), DONE)
        await exchange.chunk()

    upstream.will(slow)
    server = await sluice()
    client = await server.send(chat(STREAM))
    await upstream.request()
    server.clock.advance(0.3)
    begin.set()
    await client.head()
    await client.until(b"Hi")
    server.clock.advance(0.4)
    go_on.set()
    await client.body()
    await server.record()

    seen = await scrape(server)
    call = {"route": "/api/chat", **MODEL}
    assert seen.of("sluice_calls_total", **call, code="completed", status="200") == 1
    assert seen.of("sluice_call_duration_seconds_count", **call, stream="true") == 1
    assert 0.7 <= (seen.of("sluice_call_duration_seconds_sum", **call, stream="true") or 0) < 1.5
    first = "sluice_time_to_first_token_seconds_bucket"
    assert (seen.of(first, **MODEL, le="0.25"), seen.of(first, **MODEL, le="+Inf")) == (0, 1)
    pause = "sluice_time_per_output_token_seconds_bucket"
    assert (seen.of(pause, **MODEL, le="0.15"), seen.of(pause, **MODEL, le="+Inf")) == (0, 1)
    for kind, count in (("prompt", 9), ("answer", 3)):
        assert seen.of("sluice_tokens_total", **MODEL, kind=kind, counted_by="provider") == count
    assert seen.of("sluice_cost_usd_total", **MODEL) == pytest.approx(3.15e-06)
    assert seen.of("sluice_attempts_total", provider="default", outcome="answered") == 1
    assert seen.sum("sluice_retries_total") == 0


async def test_attempts_and_retries_are_counted_by_provider_and_reason(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(error(503), error(429), ok())
    server = await sluice()
    await server.chat()
    await server.record()

    seen = await scrape(server)
    for outcome in ("status_503", "status_429", "answered"):
        assert seen.of("sluice_attempts_total", provider="default", outcome=outcome) == 1
    assert seen.of("sluice_retries_total", provider="default") == 2


async def test_what_was_refused_is_counted_and_not_timed(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice(limit_ip_requests_per_minute=3)
    await server.chat()
    await server.chat({})
    await server.chat({**HELLO, "model": "no-such-model"})
    await server.chat()
    server.services.admission.draining = True
    await server.chat()
    server.services.admission.draining = False
    await server.calls.wait(5)

    seen = await scrape(server)
    assert seen.of("sluice_limit_refusals_total", rule="ip-requests-per-minute") == 1
    for code, model in (
        ("rate_limited", ""),
        ("draining", ""),
        ("invalid_request", ""),
        ("model_not_found", ""),
    ):
        status = str(OUTCOMES[code].status)
        labels = {"route": "/api/chat", "model": model, "code": code, "status": status}
        assert seen.of("sluice_calls_total", **labels) == 1
    assert seen.sum("sluice_call_duration_seconds_count") == 1
    assert seen.sum("sluice_attempts_total") == 1


async def test_a_call_that_timed_out_is_timed_as_well(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(silence)
    server = await sluice(**deadline(0.05))
    (await server.chat()).assert_error(504, "deadline_exceeded")
    await server.record()

    seen = await scrape(server)
    assert seen.sum("sluice_call_duration_seconds_count", stream="false") == 1
    assert seen.sum("sluice_tokens_total", counted_by="partial") > 0


async def test_a_client_that_left_is_timed_neither_here_nor_in_ops(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream("Hi"), after_content())
    server = await sluice()
    await server.stream()
    client = await server.send(chat(STREAM))
    await client.head()
    await client.until(b"text-delta")
    client.rst()
    await server.calls.wait(2)
    assert [record.code for record in server.calls.records] == ["completed", "client_gone"]

    seen = await scrape(server)
    hour = (await server.fetch("GET", "/api/ops")).json["spans"]["hour"]
    timed = ("sluice_call_duration_seconds_count", "sluice_time_to_first_token_seconds_count")
    assert [seen.sum(name) for name in timed] == [1, 1]
    assert [hour[name]["measured"] for name in ("latencyMs", "firstTokenMs")] == [1, 1]


async def test_a_replayed_answer_costs_nothing_and_is_not_timed(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok(usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}))
    server = await sluice()
    for _ in range(2):
        assert (await server.chat(HELLO, ("Idempotency-Key", "a"))).status == 200
    await server.calls.wait(2)

    seen = await scrape(server)
    assert seen.sum("sluice_calls_total", code="completed") == 2
    assert seen.sum("sluice_call_duration_seconds_count") == 1
    assert seen.sum("sluice_tokens_total") == 12


async def test_redactions_are_counted_by_kind(sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(ok())
    server = await sluice()
    await server.chat({"userMessage": "a@example.com b@example.com 4242 4242 4242 4242"})
    await server.record()

    seen = await scrape(server)
    assert seen.of("sluice_redactions_total", kind="email") == 2
    assert seen.of("sluice_redactions_total", kind="card") == 1


async def test_a_model_without_a_price_is_said_to_have_none(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(ok())
    server = await sluice(chat_model="home-made")
    await server.chat()
    await server.record()

    seen = await scrape(server)
    assert seen.of("sluice_unpriced_calls_total", model="home-made") == 1
    assert "sluice_cost_usd_total" not in seen.names


# The server


async def test_how_the_server_stands_is_read_at_the_moment(
    sluice: StartSluice, upstream: Upstream
) -> None:
    go = asyncio.Event()
    upstream.will(error(503), held(go, ok()))
    server = await sluice(retry_budget_min=2, retry_budget_ratio=0)
    client = await server.send(chat())
    await upstream.request(2)

    seen = await scrape(server)
    assert seen.of("sluice_calls_in_flight") == 1
    assert seen.of("sluice_calls_in_flight_limit") == 200
    assert seen.of("sluice_retry_budget_left") == 1
    assert seen.of("sluice_circuit_state", provider="default", state="closed") == 1
    assert seen.of("sluice_circuit_state", provider="default", state="open") == 0
    assert seen.of("sluice_build_info", version="0.0.test", provider="live") == 1
    assert (seen.of("process_resident_memory_bytes") or 0) > 1_000_000
    assert "sluice_store_up" not in seen.names

    go.set()
    await client.reply()
    await server.record()
    assert (await scrape(server)).of("sluice_calls_in_flight") == 0


async def test_an_open_circuit_and_a_spent_budget_are_seen(
    sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(error(503))
    server = await sluice(retry_budget_min=0, retry_budget_ratio=0, circuit_min_calls=1)
    await server.chat()
    await server.record()

    seen = await scrape(server)
    assert seen.of("sluice_circuit_state", provider="default", state="open") == 1
    assert seen.of("sluice_circuit_state", provider="default", state="closed") == 0
    server = await sluice(retry_budget_min=0, retry_budget_ratio=0)
    await server.chat()
    assert (await scrape(server)).of("sluice_retries_denied_total") == 1


async def test_a_store_that_is_down_is_seen(
    sluice: StartSluice, upstream: Upstream, redis: RedisServer
) -> None:
    upstream.will(ok())
    server = await sluice(redis_url=redis.url)
    await server.chat(HELLO, ("Idempotency-Key", "a"))
    assert (await scrape(server)).of("sluice_store_up") == 1
    redis.kill()
    await server.chat(HELLO, ("Idempotency-Key", "b"))

    seen = await scrape(server)
    assert seen.of("sluice_store_up") == 0
    assert seen.sum("sluice_store_failures_total") >= 1


async def test_a_stalled_loop_is_measured() -> None:
    metrics = Metrics()
    now, late = 100.0, iter((0.0, 0.3, 0.0))

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds + next(late, 0)
        if now > 100.6:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await metrics.watch_loop(clock=lambda: now, sleep=sleep)

    seen = Scrape(metrics.page("", ())[0])
    lag = "sluice_event_loop_lag_seconds_bucket"
    assert (seen.of(lag, le="0.25"), seen.of(lag, le="0.5")) == (2, 3)


# Who may ask, and in which form


async def test_the_form_is_the_one_that_was_asked_for(sluice: StartSluice) -> None:
    server = await sluice()
    plain = await server.fetch("GET", "/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    asked = await server.fetch("GET", "/metrics", ("Accept", accept))
    assert asked.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert {f.name for f in open_metrics(asked.body.decode())} >= {"sluice_calls", "sluice_build"}


@pytest.mark.parametrize("version", ["abc", "1.x", "", "1.0.0.0.0"])
async def test_a_version_that_is_none_gets_some_form(sluice: StartSluice, version: str) -> None:
    server = await sluice()
    for kind in ("application/openmetrics-text", "text/plain"):
        asked = await server.fetch("GET", "/metrics", ("Accept", f"{kind}; version={version}"))
        assert (asked.status, b"sluice_build" in asked.body) == (200, True)


async def refused(server: Sluice, *headers: tuple[str, str]) -> None:
    (await server.fetch("GET", "/metrics", *headers)).assert_error(401, "unauthenticated")


async def test_a_token_is_asked_for(sluice: StartSluice, upstream: Upstream) -> None:
    server = await sluice(metrics_token=TOKEN, auth_mode="public")
    await refused(server)
    for wrong in ("Bearer nonsense", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \xe9\xe9"):
        await refused(server, ("Authorization", wrong))
    await scrape(server, ("Authorization", f"Bearer {TOKEN}"))


async def test_without_a_token_nobody_sees_it_from_elsewhere(sluice: StartSluice) -> None:
    server = await sluice(auth_mode="public")
    (await server.fetch("GET", "/metrics")).assert_error(404, "not_found")


async def test_behind_a_proxy_it_is_not_there_without_a_token(sluice: StartSluice) -> None:
    server = await sluice(server_trusted_hops=1)
    (await server.fetch("GET", "/metrics")).assert_error(404, "not_found")
    server = await sluice(server_trusted_hops=1, metrics_token=TOKEN)
    await scrape(server, ("Authorization", f"Bearer {TOKEN}"))


async def test_a_port_of_its_own_takes_it_off_the_main_one(sluice: StartSluice) -> None:
    server = await sluice(metrics_port=9)
    (await server.fetch("GET", "/metrics")).assert_error(404, "not_found")


async def test_a_foreign_method_is_405(sluice: StartSluice) -> None:
    reply: Reply = await (await sluice()).fetch("POST", "/metrics")
    reply.assert_error(405, "method_not_allowed")


def test_nothing_of_a_caller_is_a_label() -> None:
    labels = {
        label
        for collector in Metrics()._registry._collector_to_names
        for label in getattr(collector, "_labelnames", ())
    }
    assert labels == {
        *("route", "model", "code", "status", "stream", "kind", "counted_by", "provider"),
        *("outcome", "rule", "reason"),
    }
