"""The breaker's states, on a clock that the test moves."""

import asyncio

import pytest

import config
from errors import CallError
from provider.circuit import Circuit

DOWN = CallError("provider_unavailable", "status_503", transient=True, unhealthy=True)
NEUTRAL = CallError("prompt_rejected")


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def circuit(clock):
    settings = config.CircuitConfig(
        window_s=30, min_calls=4, failure_rate=0.5, open_s=10, open_max_s=25
    )
    return Circuit("default", settings, clock)


async def attempt(circuit, error=None):
    """One attempt that ends so."""
    try:
        with await circuit.begin() as generation:
            if error is not None:
                raise error
            return generation
    except CallError as raised:
        if raised is not error:
            raise


async def opened(circuit):
    for _ in range(4):
        await attempt(circuit, DOWN)
    assert circuit.state == "open"


async def test_it_opens_at_the_rate_and_not_before_the_least_number(circuit):
    for error in (None, DOWN, DOWN):
        await attempt(circuit, error)
        assert circuit.state == "closed"
    await attempt(circuit)
    assert circuit.state == "closed"  # only a failure opens
    await attempt(circuit, DOWN)
    assert circuit.state == "open"


async def test_below_the_rate_it_stays_closed(circuit):
    for error in (None, None, None, DOWN, DOWN, None, None, DOWN):
        await attempt(circuit, error)
    assert circuit.state == "closed"


async def test_what_is_older_than_the_window_is_forgotten(circuit, clock):
    for _ in range(3):
        await attempt(circuit, DOWN)
    clock.now += 31
    await attempt(circuit, DOWN)
    assert circuit.state == "closed"


async def test_neutral_results_are_not_counted(circuit):
    for _ in range(20):
        await attempt(circuit, NEUTRAL)
    assert circuit.state == "closed"
    await opened(circuit)  # the four failures alone are the window


async def test_open_refuses_and_says_for_how_long(circuit, clock):
    await opened(circuit)
    clock.now += 4
    with pytest.raises(CallError) as refused, await circuit.begin():
        pytest.fail("no attempt may begin")
    assert (refused.value.code, refused.value.retry_after_s) == ("circuit_open", 6)


async def test_one_probe_at_a_time(circuit, clock):
    await opened(circuit)
    clock.now += 10
    assert circuit.state == "half_open"
    with await circuit.begin():
        with pytest.raises(CallError, match="circuit_open"), await circuit.begin():
            pytest.fail("a second probe")
        assert circuit.state == "half_open"
    assert circuit.state == "closed"
    assert circuit.open_for_s == 0


async def test_a_failed_probe_opens_for_longer_up_to_the_limit(circuit, clock):
    await opened(circuit)
    waits = []
    for _ in range(3):
        clock.now += circuit.open_for_s
        await attempt(circuit, DOWN)
        waits.append(circuit.open_for_s)
    assert waits == [20, 25, 25]


@pytest.mark.parametrize("error", [NEUTRAL, CallError("client_gone")])
async def test_a_neutral_probe_gives_its_place_back(circuit, clock, error):
    await opened(circuit)
    clock.now += 10
    await attempt(circuit, error)
    assert circuit.state == "half_open"
    await attempt(circuit)
    assert circuit.state == "closed"


async def test_a_cancelled_probe_gives_its_place_back(circuit, clock):
    await opened(circuit)
    clock.now += 10
    with pytest.raises(KeyboardInterrupt), await circuit.begin():
        raise KeyboardInterrupt
    await attempt(circuit)
    assert circuit.state == "closed"


async def test_after_closing_the_past_is_forgotten(circuit, clock):
    await opened(circuit)
    clock.now += 10
    await attempt(circuit)
    for _ in range(3):
        await attempt(circuit, DOWN)
    assert circuit.state == "closed"


async def test_a_result_from_an_earlier_state_changes_nothing(circuit, clock):
    late = await circuit.begin()
    late.__enter__()
    await opened(circuit)
    clock.now += 10
    late.__exit__(None, None, None)
    assert circuit.state == "half_open"


async def test_a_stream_that_broke_turns_its_success_into_a_failure(circuit):
    generations = [await attempt(circuit) for _ in range(4)]
    circuit.record_late_failure(generations[0])
    assert circuit.state == "closed"
    circuit.record_late_failure(generations[1])
    assert circuit.state == "open"
    circuit.record_late_failure(generations[2])  # from before it opened
    assert circuit.open_for_s == 10


async def test_a_probe_that_takes_long_no_longer_excludes_the_next(circuit, clock):
    await opened(circuit)
    clock.now += 10
    first = await circuit.begin()
    clock.now += 4.9
    with pytest.raises(CallError, match="circuit_open"):
        await circuit.begin()
    clock.now += 0.1
    second = await circuit.begin()
    with pytest.raises(CallError, match="client_gone"), first:
        raise CallError("client_gone")
    with pytest.raises(CallError, match="circuit_open"):  # the second is still at it
        await circuit.begin()
    with second:
        pass
    assert circuit.state == "closed"


async def test_a_refused_lease_is_not_asked_for_again_within_a_second(circuit, clock):
    asked = 0

    async def taken():
        nonlocal asked
        asked += 1

    circuit.lease = taken
    await opened(circuit)
    clock.now += 10
    for _ in range(3):
        with pytest.raises(CallError) as refused:
            await circuit.begin()
        assert (refused.value.code, refused.value.retry_after_s) == ("circuit_open", 1)
    assert asked == 1
    clock.now += 1
    with pytest.raises(CallError):
        await circuit.begin()
    assert asked == 2


async def test_a_call_that_is_cancelled_before_its_probe_gives_its_place_back(circuit, clock):
    async def cancelled():
        raise asyncio.CancelledError

    usual, circuit.lease = circuit.lease, cancelled
    await opened(circuit)
    clock.now += 10
    with pytest.raises(asyncio.CancelledError):
        await circuit.begin()
    circuit.lease = usual
    await attempt(circuit)
    assert circuit.state == "closed"


async def test_opening_and_closing_are_logged_once_each(circuit, clock, caplog):
    caplog.set_level("INFO")
    await opened(circuit)
    for error in (DOWN, NEUTRAL, None, None):
        clock.now += circuit.open_for_s
        await attempt(circuit, error)
    circuit.reset()
    assert [(each.levelname, each.msg, each.provider) for each in caplog.records] == [
        ("WARNING", "circuit_opened", "default"),
        ("INFO", "circuit_closed", "default"),
    ]


async def test_what_is_played_neither_counts_nor_opens(circuit):
    apart = circuit.apart()
    for _ in range(100):
        await attempt(apart, DOWN)
    assert apart.state == circuit.state == "closed"
    assert circuit.collect() == (0, 0)
