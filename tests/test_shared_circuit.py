"""Circuits of several processes that share what they have counted, through a real Redis."""

import asyncio

import processes as servers
import pytest
from conftest import KEY, chat
from redis.asyncio import Redis
from upstream import error, ok

from config import CircuitConfig, StoreConfig
from errors import CallError
from provider.circuit import Circuit
from provider.shared_circuit import SharedCircuit
from store.redis import Store

start = servers.start
CONFIG = CircuitConfig(window_s=30, min_calls=6, failure_rate=0.5, open_s=5, open_max_s=10)
DOWN = CallError("provider_unavailable", unhealthy=True)
NEUTRAL = CallError("rate_limited")


class Process:
    """A circuit of its own, and its tie to the others."""

    def __init__(self, url):
        self.now = 100.0
        self.store_now = 0.0
        self.circuit = Circuit("default", CONFIG, lambda: self.now)
        self.store = Store(StoreConfig(url, 0.5, "open", "test"), clock=lambda: self.store_now)
        self.shared = SharedCircuit("default", self.circuit, self.store)

    async def fails(self, times=1, error=DOWN):
        for _ in range(times):
            with pytest.raises(CallError) as caught, await self.circuit.begin():
                raise error
            assert caught.value is error

    async def succeeds(self, times=1):
        for _ in range(times):
            with await self.circuit.begin():
                pass

    async def is_refused(self):
        with pytest.raises(CallError) as caught:
            await self.circuit.begin()
        assert (caught.value.code, caught.value.retry_after_s) == ("circuit_open", 1)

    async def is_half_open(self):
        await self.fails(6)
        self.now += 5
        assert self.circuit.state == "half_open"

    async def at_rest(self):
        """What ends a probe's lease has run."""
        await asyncio.gather(*self.shared._ending)


@pytest.fixture
def processes(io_loop, redis):
    made = [Process(redis.url) for _ in range(3)]
    yield made
    for process in made:
        io_loop.run_sync(process.at_rest)
        io_loop.run_sync(process.store.aclose)


async def step(*processes):
    for each in processes:
        await each.shared.step()
    return [each.circuit.state for each in processes]


async def test_few_failures_of_each_are_enough_together(processes):
    one, two, three = processes
    for each in processes:
        await each.fails(2)
    assert await step(*processes) == ["closed"] * 3
    assert await step(one, two) == ["closed"] * 2  # only a failure opens
    await one.fails()
    await two.fails()
    assert [each.circuit.state for each in processes] == ["open", "open", "closed"]
    await step(three)
    await three.fails()
    assert three.circuit.state == "open"


async def test_a_process_that_reaches_nothing_shuts_itself_alone(processes):
    cut_off, *others = processes
    await cut_off.fails(6)
    for each in others:
        await each.succeeds(4)
    await step(*processes)
    assert await step(*processes) == ["open", "closed", "closed"]
    for each in others:
        await each.fails()
    assert await step(*others) == ["closed", "closed"]


async def test_its_failed_probes_leave_room_for_those_of_others(processes):
    cut_off, well, _ = processes
    await cut_off.is_half_open()
    await well.is_half_open()
    await cut_off.fails()
    await cut_off.at_rest()
    await well.succeeds()
    assert [cut_off.circuit.state, well.circuit.state] == ["open", "closed"]


async def test_failures_elsewhere_do_not_shut_one_that_is_well(processes):
    well, *others = processes
    await well.succeeds(3)
    for each in others:
        await each.fails(5)
    await step(*others)
    await step(well)
    await well.fails()
    assert well.circuit.state == "closed"


async def test_successes_elsewhere_do_not_hide_that_all_fails_here(processes):
    cut_off, well, _ = processes
    await well.succeeds(100)
    await step(well, cut_off)
    await cut_off.fails(6)
    assert cut_off.circuit.state == "open"


async def test_a_new_process_learns_how_it_stands(processes):
    new, *others = processes
    for each in others:
        await each.fails(3)
    await step(*others, new)
    await new.fails()
    assert new.circuit.state == "open"


async def test_what_came_before_the_last_change_is_not_counted(processes):
    one, other, _ = processes
    await other.fails(5)
    await one.is_half_open()
    await step(other, one)
    await one.succeeds()
    await step(one)
    await one.fails()
    assert one.circuit.state == "closed"


async def test_what_is_older_than_the_window_is_forgotten(processes, redis):
    one, other, _ = processes
    await other.fails(5)
    await step(other)
    await one.store.run(MADE_OLDER, ["circuit:default:counts"], [30_000])
    await step(one)
    await one.fails()
    assert one.circuit.state == "closed"
    await step(one)
    assert await one.store.run("return redis.call('HLEN', KEYS[1])", [one.shared._counts], []) == 2


MADE_OLDER = """
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local began = string.format('%.0f', string.sub(field, 2) - ARGV[1])
  redis.call('HSET', KEYS[1], string.sub(field, 1, 1) .. began, redis.call('HGET', KEYS[1], field))
  redis.call('HDEL', KEYS[1], field)
end
"""


async def test_one_probe_at_a_time(processes):
    one, two, three = processes
    for each in processes:
        await each.is_half_open()
    with await one.circuit.begin():
        await two.is_refused()
        await one.is_refused()
        two.now += 0.9
        await two.is_refused()
    await one.at_rest()
    await two.is_refused()  # it does not ask again so soon
    await three.succeeds()
    await three.at_rest()
    two.now += 0.2
    await two.succeeds()
    assert [each.circuit.state for each in processes] == ["closed"] * 3


async def test_an_idle_process_holds_nobody_up(processes):
    idle, busy, _ = processes
    for each in (idle, busy):
        await each.is_half_open()
    await step(idle)
    await step(busy)
    await busy.succeeds()
    assert [idle.circuit.state, busy.circuit.state] == ["half_open", "closed"]


async def test_a_neutral_probe_gives_its_place_back(processes):
    one, two, _ = processes
    for each in (one, two):
        await each.is_half_open()
    await one.fails(error=NEUTRAL)
    await one.at_rest()
    await two.succeeds()
    assert two.circuit.state == "closed"


async def test_a_probe_that_hangs_makes_room_for_the_next(processes):
    one, two, three = processes
    for each in processes:
        await each.is_half_open()
    hangs = await one.circuit.begin()
    with hangs:
        assert 4500 < await one.store.run("return redis.call('PTTL', KEYS[1])", [PROBE], []) <= 5000
        await one.store.run("return redis.call('DEL', KEYS[1])", [PROBE], [])  # 5 s have passed
        one.now += 5
        with await two.circuit.begin():
            await one.is_refused()
        await two.at_rest()
        with await three.circuit.begin():
            pass
    # Its own lease was over, and that of another is not its to give back.
    assert [each.circuit.state for each in processes] == ["closed"] * 3


PROBE = "circuit:default:probe"


async def test_the_lease_of_another_is_left(processes):
    one, two, three = processes
    for each in processes:
        await each.is_half_open()
    with await one.circuit.begin():
        await one.store.run("return redis.call('DEL', KEYS[1])", [PROBE], [])
        place = await two.circuit.begin()
    await one.at_rest()
    await three.is_refused()
    with place:
        pass


async def test_without_redis_each_is_on_its_own(processes, redis):
    await processes[0].fails(5)
    await step(*processes)
    redis.kill()
    await step(*processes)
    await processes[1].fails()
    assert processes[1].circuit.state == "closed"  # what was collected is not believed for ever
    for each, times in zip(processes, (1, 5, 6), strict=True):
        await each.fails(times)
        each.now += 5
        await each.succeeds()
        assert each.circuit.state == "closed"


async def test_servers_add_up_their_failures_and_come_back(start, upstream, redis):
    upstream.will(error(500))
    variables = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": upstream.url,
        "REDIS_URL": redis.url,
        "SLUICE_LIMIT_IP_REQUESTS_PER_MINUTE": "0",
        "SLUICE_RETRY_MAX_ATTEMPTS": "1",
        "SLUICE_CIRCUIT_MIN_CALLS": "8",
        "SLUICE_CIRCUIT_OPEN_S": "0.05",
    }
    one, other = [await start(**variables) for _ in range(2)]
    async with Redis.from_url(redis.url) as client:
        for server, collected in ((other, 4), (one, 8)):
            for _ in range(4):
                (await server.ask(chat())).assert_error(502, "provider_unavailable")
            while await failures(client) < collected:
                pass
    while (await one.ask(chat())).status == 502:
        pass
    assert len(upstream.requests) < 12  # fewer than 8 of its own
    assert (await one.line("circuit_opened"))["provider"] == "default"

    upstream.will(ok())
    while (await one.ask(chat())).status != 200:
        pass
    assert (await one.line("circuit_closed"))["provider"] == "default"
    assert (await other.ask(chat())).status == 200
    assert not [line for line in other.lines if line["event"] == "circuit_opened"]


async def failures(client):
    """Those that all servers have counted."""
    found = [name async for name in client.scan_iter("*circuit:default:counts")]
    buckets = await client.hgetall(found[0]) if found else {}
    return sum(int(count) for name, count in buckets.items() if name.startswith(b"f"))
