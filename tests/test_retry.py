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


ONE = [config.Target("default", "m")]


def down(retry_after_s=None):
    return CallError(
        "provider_unavailable", transient=True, unhealthy=True, retry_after_s=retry_after_s
    )


def failed(circuit, times=50):
    async def once():
        with await circuit.begin():
            raise down()

    for _ in range(times):
        with pytest.raises(CallError):
            asyncio.run(once())


class World:
    """A clock that sleeping moves, and a provider that answers from a list."""

    def __init__(self, rules=RULES, random=1.0, deadline=28.0):
        self.now = 0.0
        self.waits = []
        self.circuit = Circuit("default", CIRCUIT, lambda: self.now)
        self.retry = Retry(
            rules,
            {"default": self.circuit},
            clock=lambda: self.now,
            sleep=self.sleep,
            random=lambda: random,
        )
        self.call = Call("id", "/api/chat", 0.0, deadline)

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds

    def run(self, *results):
        answers = iter(results)

        async def attempt(target, within_s):
            with await self.circuit.begin():
                result = next(answers)
                if isinstance(result, BaseException):
                    raise result
                return result

        try:
            return asyncio.run(self.retry.run(self.call, ONE, attempt))
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
    failed(world.circuit)
    assert refused(world, "unasked").code == "circuit_open"
    assert world.call.attempts == 0


def test_a_circuit_that_opens_meanwhile_leaves_the_failure_that_was_seen():
    world, seen = World(), down()
    failed(world.circuit, 49)
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

        async def attempt(target, within_s):
            await all_begun.wait()
            raise down()

        world = World()
        retry = Retry(
            RULES, {"default": world.circuit}, clock=lambda: 0.0, sleep=sleep, random=lambda: 0.5
        )
        tasks = [
            asyncio.create_task(retry.run(Call(str(n), "/", 0.0, 28.0), ONE, attempt))
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

        async def attempt(target, within_s):
            raise down()

        world = World()
        retry = Retry(
            RULES, {"default": world.circuit}, clock=lambda: 0.0, sleep=sleep, random=lambda: 0.5
        )
        task = asyncio.create_task(retry.run(world.call, ONE, attempt))
        await asleep.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (retry.calls_in_flight, retry.retries_in_flight) == (0, 0)

    asyncio.run(scene())


# Several providers


A, B, C = (config.Target(name, "m") for name in "abc")


class Several:
    """Providers that answer from a list each, and a clock that sleeping moves."""

    def __init__(self, rules=RULES, deadline=28.0, **results):
        self.now = 0.0
        self.asked = []
        self.waits = []
        self.circuits = {name: Circuit(name, CIRCUIT, lambda: self.now) for name in "abc"}
        self.results = {name: iter(answers) for name, answers in results.items()}
        self.call = Call("id", "/api/chat", 0.0, deadline)
        self.retry = Retry(
            rules, self.circuits, clock=lambda: self.now, sleep=self.sleep, random=lambda: 0.0
        )

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds

    async def attempt(self, target, within_s):
        with await self.circuits[target.provider].begin():
            self.asked.append((target.provider, within_s))
            result = next(self.results[target.provider])
            if isinstance(result, BaseException):
                raise result
            return result

    def run(self, *targets):
        try:
            return asyncio.run(self.retry.run(self.call, targets, self.attempt))
        finally:
            assert (self.retry.calls_in_flight, self.retry.retries_in_flight) == (0, 0)

    @property
    def order(self):
        return "".join(name for name, _ in self.asked)


@pytest.mark.parametrize(
    "failure",
    [down(), CallError("provider_misconfigured"), CallError("provider_unavailable", "bad_json")],
    ids=["down", "refuses us", "garbage"],
)
def test_one_that_fails_is_passed_over_at_once(failure):
    world = Several(a=[failure], b=["answer"])
    assert world.run(A, B) == "answer"
    assert (world.order, world.waits, world.call.target) == ("ab", [], B)
    assert world.call.attempts == 2


def test_an_open_circuit_is_passed_over_and_is_no_attempt():
    world = Several(b=["answer"])
    failed(world.circuits["a"])
    assert world.run(A, B) == "answer"
    assert (world.order, world.call.attempts, world.call.target) == ("b", 1, B)


def test_where_all_circuits_are_open_the_sooner_is_told():
    world = Several()
    failed(world.circuits["b"])
    world.now = 4.0
    failed(world.circuits["a"])
    with pytest.raises(CallError) as caught:
        world.run(A, B)
    assert (caught.value.code, caught.value.retry_after_s) == ("circuit_open", 6)
    assert (world.call.attempts, world.call.target) == (0, None)


def test_a_refused_prompt_is_refused():
    world = Several(a=[down()], b=[CallError("prompt_rejected")])
    with pytest.raises(CallError) as caught:
        world.run(A, B, C)
    assert (caught.value.code, world.order) == ("prompt_rejected", "ab")


def test_each_is_asked_once_even_where_retries_are_off():
    rules = config.RetryConfig(1, 0.3, 5, 0.5, 0.2, 3)
    world = Several(rules, a=[down()], b=[down()], c=["answer"])
    assert world.run(A, B, C) == "answer"
    assert world.order == "abc"


def test_after_the_first_round_the_soonest_is_asked_again():
    world = Several(a=[down(9)], b=[down(2), "answer"])
    assert world.run(A, B) == "answer"
    assert (world.order, world.waits) == ("abb", [2.0])


def test_one_that_refuses_us_is_not_asked_again():
    world = Several(a=[CallError("provider_misconfigured")], b=[down(), down()])
    with pytest.raises(CallError) as caught:
        world.run(A, B)
    assert (caught.value.code, world.order) == ("provider_unavailable", "abb")


def test_a_failure_that_may_pass_is_told_rather_than_one_that_will_not():
    rules = config.RetryConfig(1, 0.3, 5, 0.5, 0.2, 3)
    world = Several(rules, a=[down()], b=[CallError("provider_misconfigured")])
    with pytest.raises(CallError) as caught:
        world.run(A, B)
    assert caught.value.code == "provider_unavailable"


def test_each_has_its_share_of_the_time_that_is_left():
    class Slow(Several):
        async def attempt(self, target, within_s):
            self.now += 9.0
            return await super().attempt(target, within_s)

    world = Slow(deadline=27.0, a=[down()], b=[down()], c=["answer"])
    assert world.run(A, B, C) == "answer"
    assert world.asked == [("a", 9.0), ("b", 9.0), ("c", float("inf"))]


def test_no_other_is_asked_without_time_for_it():
    world = Several(deadline=0.4, a=[down()], b=["unasked"])
    with pytest.raises(CallError):
        world.run(A, B)
    assert world.order == "a"
