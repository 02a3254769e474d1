"""The shared store against a real Redis: scripts, time limits, failure and recovery."""

import asyncio
import logging

import pytest
from redis.exceptions import ResponseError

from config import StoreConfig
from guards.auth.single_use import SingleUse
from store.redis import Store, StoreDown

ECHO = "return ARGV[1]"
COUNT = "return redis.call('INCR', KEYS[1])"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(io_loop, redis, clock):
    one = make(redis, clock)
    yield one
    io_loop.run_sync(one.aclose)


def make(redis, clock, on_failure="open"):
    return Store(StoreConfig(redis.url, 0.2, on_failure, "test"), clock=clock)


async def down(store):
    with pytest.raises(StoreDown):
        await store.run(ECHO, [], ["x"])


async def test_a_script_gives_its_result(store):
    assert await store.run(ECHO, [], ["hi"]) == b"hi"
    assert [await store.run(COUNT, ["n"], []) for _ in range(3)] == [1, 2, 3]


async def test_a_server_that_forgot_the_script_is_told_again(store, redis, clock):
    await store.run(COUNT, ["n"], [])
    redis.kill()
    redis.start()
    await down(store)  # the connections are those of the server that died
    clock.now += 2
    assert await store.run(COUNT, ["n"], []) == 1


async def test_a_bad_script_is_our_bug_and_not_the_stores(store):
    with pytest.raises(ResponseError):
        await store.run("return redis.call('NONSENSE')", [], [])
    assert store.up


async def test_a_server_that_cannot_write_is_down(store):
    await store._redis.config_set("min-replicas-to-write", 1)
    with pytest.raises(StoreDown):
        await store.run(COUNT, ["n"], [])
    assert not store.up


async def test_many_at_once_share_the_connections(store):
    results = await asyncio.gather(*(store.run(COUNT, ["n"], []) for _ in range(500)))
    assert sorted(results) == list(range(1, 501))


async def test_a_dead_server_fails_fast_and_is_noticed_when_it_is_back(store, redis, clock, caplog):
    caplog.set_level(logging.INFO, "sluice.store")
    redis.kill()
    await down(store)
    assert not store.up
    redis.start()
    await down(store)  # not looked at again within a second
    clock.now += 1
    assert await store.run(ECHO, [], ["hi"]) == b"hi"
    assert store.up
    assert [record.msg for record in caplog.records] == ["store_down", "store_up"]


async def test_an_outage_is_logged_once_a_minute(store, redis, clock, caplog):
    redis.kill()
    for _ in range(150):
        await down(store)
        clock.now += 1
    assert len(caplog.records) == 3


async def test_a_frozen_server_costs_one_call_its_time(store, redis, clock):
    await store.run(ECHO, [], ["warm"])
    redis.freeze()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(100):
        await down(store)
    assert loop.time() - began < 5  # a hundred times 0.2 s would be twenty
    redis.thaw()
    clock.now += 1
    assert await store.run(ECHO, [], ["hi"]) == b"hi"


async def test_a_late_answer_is_nobody_elses(store, redis, clock):
    await store.run(ECHO, [], ["warm"])
    redis.freeze()
    await asyncio.gather(*(down(store) for _ in range(20)))
    redis.thaw()
    clock.now += 1
    words = [str(n) for n in range(100)]
    assert [await store.run(ECHO, [], [word]) for word in words] == [w.encode() for w in words]


@pytest.mark.parametrize("shared", [False, True], ids=["memory", "redis"])
async def test_what_was_used_once_is_used(store, clock, shared):
    once = SingleUse(store if shared else None, clock=clock)
    assert await once.first_use("a", 60)
    assert await once.first_use("b", 60)
    assert not await once.first_use("a", 60)
    if not shared:
        clock.now += 61
        assert await once.first_use("a", 60)


async def test_two_processes_share_what_was_used(store, redis, clock):
    other = make(redis, clock)
    assert await SingleUse(store, clock=clock).first_use("a", 60)
    assert not await SingleUse(other, clock=clock).first_use("a", 60)
    await other.aclose()


@pytest.mark.parametrize("policy", ["open", "closed"])
async def test_the_policy_decides_while_redis_is_down(redis, clock, policy):
    store = make(redis, clock, policy)
    redis.kill()
    once = SingleUse(store, clock=clock)
    if policy == "open":
        assert [await once.first_use("a", 60) for _ in range(2)] == [True, False]
    else:
        with pytest.raises(Exception, match="store_down"):
            await once.first_use("a", 60)
    await store.aclose()
