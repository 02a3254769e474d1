"""Circuits of several processes in step, through a real Redis."""

import pytest

from config import CircuitConfig, StoreConfig
from errors import CallError
from provider.circuit import Circuit
from provider.shared_circuit import SharedCircuit
from store.redis import Store

CONFIG = CircuitConfig(window_s=30, min_calls=1, failure_rate=0.5, open_s=30, open_max_s=300)


async def no_sleep(seconds):
    raise AssertionError("a step does not wait")


class Process:
    """A circuit of its own, and its tie to the others."""

    def __init__(self, url):
        self.now = 0.0
        self.store_now = 0.0
        self.circuit = Circuit(CONFIG, lambda: self.now)
        self.store = Store(StoreConfig(url, 0.5, "open", "test"), clock=lambda: self.store_now)
        self.shared = SharedCircuit("default", self.circuit, self.store)

    async def step(self):
        await self.shared.step()
        return self.circuit.state

    def fail(self):
        with pytest.raises(CallError), self.circuit.attempt():
            raise CallError("provider_unavailable", unhealthy=True)

    def succeed(self):
        with self.circuit.attempt():
            pass


@pytest.fixture
def processes(io_loop, redis):
    made = [Process(redis.url) for _ in range(3)]
    yield made
    for process in made:
        io_loop.run_sync(process.store.aclose)


async def test_one_process_warns_all_others(processes):
    one, *others = processes
    one.fail()
    assert [await each.step() for each in processes] == ["open"] * 3
    for other in others:
        with pytest.raises(CallError) as caught:
            other.succeed()
        assert caught.value.code == "circuit_open"
        assert 29 < caught.value.retry_after_s <= 30


async def half_open(processes, redis_passes):
    processes[0].fail()
    for each in processes:
        await each.step()
        each.now += 31
    await processes[0].store.run(redis_passes, ["circuit:default"], [])
    return [await each.step() for each in processes]


PASSED = "return redis.call('HSET', KEYS[1], 'until', 0)"


async def test_one_probe_for_all(processes):
    assert await half_open(processes, PASSED) == ["half_open"] * 3
    assert [each.circuit.may_probe for each in processes] == [True, False, False]
    with pytest.raises(CallError):
        processes[1].succeed()


async def test_a_good_probe_closes_all(processes):
    await half_open(processes, PASSED)
    processes[0].succeed()
    assert [await each.step() for each in processes] == ["closed"] * 3


async def test_a_bad_probe_opens_all_again_for_longer(processes):
    await half_open(processes, PASSED)
    processes[0].fail()
    assert [await each.step() for each in processes] == ["open"] * 3
    assert all(each.circuit.open_for_s > 55 for each in processes)


async def test_a_new_process_learns_how_it_stands(processes, redis):
    processes[0].fail()
    await processes[0].step()
    late = Process(redis.url)
    assert await late.step() == "open"
    await late.store.aclose()


async def test_without_redis_each_is_on_its_own(processes, redis):
    await half_open(processes, PASSED)
    redis.kill()
    for each in processes:
        await each.step()
        each.succeed()
        assert each.circuit.state == "closed"
