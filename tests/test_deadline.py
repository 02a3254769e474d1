"""The deadline, the phase timers, and whose cancellation it was. No test waits long."""

import asyncio

import pytest

from call import Call
from errors import CallError
from provider.deadline import IdleTimer, run, timer


def call(left_s=60.0):
    now = asyncio.get_running_loop().time()
    return Call("id", "/api/chat", now, now + left_s)


async def for_ever():
    await asyncio.Event().wait()


async def turns(number=5):
    for _ in range(number):
        await asyncio.sleep(0)


async def test_run_gives_the_result():
    async def work():
        return 42

    assert await run(call(), work()) == 42


async def test_run_passes_an_error_on():
    async def work():
        raise CallError("prompt_rejected")

    with pytest.raises(CallError, match="prompt_rejected"):
        await run(call(), work())


async def test_a_deadline_that_has_passed_cancels_the_work():
    the_call, cancelled = call(left_s=0), asyncio.Event()

    async def work():
        try:
            await for_ever()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(CallError) as caught:
        await run(the_call, work())
    assert (caught.value.code, caught.value.reason) == ("deadline_exceeded", "deadline")
    assert cancelled.is_set()
    assert the_call.task is None


async def test_the_first_reason_wins():
    the_call = call()

    async def work():
        the_call.end(CallError("client_gone"))
        the_call.end(CallError("draining"))
        await for_ever()

    with pytest.raises(CallError, match="client_gone"):
        await run(the_call, work())


async def test_a_call_that_ended_before_its_work_began_does_not_begin():
    the_call, begun = call(), False
    the_call.end(CallError("client_gone"))

    async def work():
        nonlocal begun
        begun = True

    with pytest.raises(CallError, match="client_gone"):
        await run(the_call, work())
    assert not begun


async def test_a_cancellation_from_outside_passes():
    the_call = call()
    task = asyncio.create_task(run(the_call, for_ever()))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns()
    assert the_call.task is None


async def test_a_deadline_moved_later_holds():
    the_call = call(left_s=0.01)

    async def work():
        the_call.deadline += 60
        await asyncio.sleep(0.03)
        return "whole"

    assert await run(the_call, work()) == "whole"


async def test_a_phase_that_lasts_too_long_may_be_tried_again():
    with pytest.raises(CallError) as caught:
        async with timer("attempt_timeout", 0):
            await for_ever()
    error = caught.value
    assert (error.code, error.reason) == ("deadline_exceeded", "attempt_timeout")
    assert error.transient
    assert error.unhealthy


async def test_a_timeout_of_somebody_else_is_not_the_phases():
    with pytest.raises(TimeoutError):
        async with timer("attempt_timeout", 60):
            raise TimeoutError


class FakeLoop:
    """A clock with timers, which the test moves."""

    def __init__(self):
        self.now = 0.0
        self.timers = []

    def time(self):
        return self.now

    def call_at(self, when, callback):
        handle = asyncio.TimerHandle(when, callback, (), asyncio.get_running_loop())
        self.timers.append(handle)
        return handle

    async def advance(self, seconds):
        self.now += seconds
        due = [handle for handle in self.timers if handle.when() <= self.now]
        self.timers = [handle for handle in self.timers if handle not in due]
        for handle in due:
            if not handle.cancelled():
                handle._run()
        await asyncio.sleep(0)


@pytest.fixture
def loop():
    return FakeLoop()


def idle_timer(loop):
    idle = IdleTimer("idle_timeout", 10)
    idle._loop = loop
    return idle


async def test_idle_raises_in_the_wait_that_lasts_too_long(loop):
    idle = idle_timer(loop)
    with pytest.raises(CallError, match="idle_timeout"), idle:
        await loop.advance(10)
    assert asyncio.current_task().cancelling() == 0
    idle.close()


async def test_idle_counts_each_wait_by_itself(loop):
    idle = idle_timer(loop)
    for _ in range(50):
        with idle:
            await loop.advance(6)
    assert len(loop.timers) == 1
    with pytest.raises(CallError, match="idle_timeout"), idle:
        await loop.advance(10)


async def test_idle_does_not_count_between_waits(loop):
    idle = idle_timer(loop)
    for _ in range(3):
        with idle:
            await loop.advance(9)
        await loop.advance(1_000)
    assert loop.timers == []


async def test_idle_leaves_a_cancellation_from_outside_alone(loop):
    idle = idle_timer(loop)

    async def wait():
        with idle:
            await for_ever()

    task = asyncio.create_task(wait())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_idle_and_a_cancellation_at_once_is_a_cancellation(loop):
    idle = idle_timer(loop)

    async def wait():
        with idle:
            asyncio.current_task().cancel()
            await loop.advance(10)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait())


async def test_idle_closed_leaves_no_timer(loop):
    idle = idle_timer(loop)
    with idle:
        await loop.advance(1)
    idle.close()
    assert all(handle.cancelled() for handle in loop.timers)
