"""Which attempts follow which, without any waiting."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from call import Call
from errors import CallError
from provider.circuit import Circuit
from provider.retry import Retry

RULES = config.RetryConfig(
    max_attempts=3,
    backoff_s=0.3,
    backoff_max_s=5,
    min_attempt_s=0.5,
    budget_ratio=0.2,
    budget_min=3,
)
CIRCUIT = config.CircuitConfig(
    window_s=30, min_calls=50, failure_rate=0.5, open_s=10, open_max_s=60
)


def down(retry_after_s=None):
    return CallError(
        "provider_unavailable", transient=True, unhealthy=True, retry_after_s=retry_after_s
    )


class World:
    """A clock that sleeping moves, and a provider that answers from a list."""

    def __init__(self, rules=RULES, random=1.0, deadline=28.0):
        self.now = 0.0
        self.waits = []
        self.circuit = Circuit(CIRCUIT, lambda: self.now)
        self.retry = Retry(
            rules, self.circuit, clock=lambda: self.now, sleep=self.sleep, random=lambda: random
        )
        self.call = Call("id", "/api/chat", 0.0, deadline)

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds

    def run(self, *results):
        answers = iter(results)

        async def attempt():
            with self.circuit.attempt():
                result = next(answers)
                if isinstance(result, BaseException):
                    raise result
                return result

        try:
            return asyncio.run(self.retry.run(self.call, attempt))
        finally:
            assert (self.retry.calls_in_flight, self.retry.retries_in_flight) == (0, 0)


def refused(world, *results):
    with pytest.raises(CallError) as caught:
        world.run(*results)
    return caught.value


def test_success_needs_one_attempt():
    world = World()
    assert world.run("answer") == "answer"
    assert (world.call.attempts, world.waits) == (1, [])


def test_backoff_doubles_under_its_ceiling():
    rules = config.RetryConfig(6, 0.3, 1.0, 0.5, 0.2, 3)
    world = World(rules)
    assert world.run(*[down() for _ in range(5)], "answer") == "answer"
    assert world.waits == pytest.approx([0.3, 0.6, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("random", [0.0, 0.25, 1.0])
def test_jitter_is_full(random):
    world = World(random=random)
    world.run(down(), down(), "answer")
    assert world.waits == pytest.approx([0.3 * random, 0.6 * random])


def test_the_last_failure_is_the_outcome():
    world, last = World(), down()
    assert refused(world, down(), down(), last) is last
    assert (world.call.attempts, len(world.waits)) == (3, 2)


@pytest.mark.parametrize("code", ["prompt_rejected", "provider_misconfigured", "internal"])
def test_what_is_not_transient_is_final(code):
    world = World()
    assert refused(world, CallError(code)).code == code
    assert (world.call.attempts, world.waits) == (1, [])


def test_the_latest_retry_after_is_obeyed_and_spread():
    world = World(random=0.5)
    world.run(down(2), down(3), "answer")
    assert world.waits == pytest.approx([2.15, 3.15])


def test_a_wait_that_does_not_fit_fails_now():
    world = World(deadline=5.0)
    assert refused(world, down(4.5)).retry_after_s == 4.5
    assert (world.now, world.waits) == (0.0, [])


def test_a_wait_must_leave_time_for_an_attempt():
    assert World(random=0.0, deadline=4.5).run(down(4.0), "answer") == "answer"
    refused(World(random=0.0, deadline=4.49), down(4.0))


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=1, max_size=4),
    st.floats(0, 1),
    st.floats(0, 60),
)
def test_no_wait_ever_passes_the_deadline(wishes, random, deadline):
    world = World(random=random, deadline=deadline)
    with suppress(CallError):
        world.run(*[down(wish) for wish in wishes], "answer")
    assert world.now <= deadline
    assert world.call.attempts <= 3


def test_a_circuit_that_is_open_ends_the_call_before_it_is_sent():
    world = World()
    for _ in range(50):
        with pytest.raises(CallError), world.circuit.attempt():
            raise down()
    assert refused(world, "unasked").code == "circuit_open"
    assert world.call.attempts == 0


def test_a_circuit_that_opens_meanwhile_leaves_the_failure_that_was_seen():
    world, seen = World(), down()
    for _ in range(49):
        with pytest.raises(CallError), world.circuit.attempt():
            raise down()
    assert refused(world, seen) is seen
    assert world.waits == []


def test_the_budget_is_a_share_of_the_calls_in_flight():
    async def storm(calls):
        retrying = 0

        async def sleep(seconds):
            nonlocal retrying
            retrying += 1
            await asyncio.Event().wait()

        all_begun = asyncio.Barrier(calls)

        async def attempt():
            await all_begun.wait()
            raise down()

        world = World()
        retry = Retry(RULES, world.circuit, clock=lambda: 0.0, sleep=sleep, random=lambda: 0.5)
        tasks = [
            asyncio.create_task(retry.run(Call(str(n), "/", 0.0, 28.0), attempt))
            for n in range(calls)
        ]
        for _ in range(20):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (retry.calls_in_flight, retry.retries_in_flight) == (0, 0)
        return retrying

    assert asyncio.run(storm(2)) == 2
    assert asyncio.run(storm(10)) == 3
    # The share is of the calls still there: each that gives up makes it smaller.
    assert 3 <= asyncio.run(storm(100)) <= 20


def test_cancellation_during_backoff_passes_and_leaves_nothing():
    async def scene():
        asleep = asyncio.Event()

        async def sleep(seconds):
            asleep.set()
            await asyncio.Event().wait()

        async def attempt():
            raise down()

        world = World()
        retry = Retry(RULES, world.circuit, clock=lambda: 0.0, sleep=sleep, random=lambda: 0.5)
        task = asyncio.create_task(retry.run(world.call, attempt))
        await asleep.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (retry.calls_in_flight, retry.retries_in_flight) == (0, 0)

    asyncio.run(scene())
