"""The breaker's states, on a clock that the test moves."""

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
    return Circuit(settings, clock)


def attempt(circuit, error=None):
    """One attempt that ends so."""
    try:
        with circuit.attempt() as generation:
            if error is not None:
                raise error
            return generation
    except CallError as raised:
        if raised is not error:
            raise


def opened(circuit):
    for _ in range(4):
        attempt(circuit, DOWN)
    assert circuit.state == "open"


def test_it_opens_at_the_rate_and_not_before_the_least_number(circuit):
    for error in (None, DOWN, DOWN):
        attempt(circuit, error)
        assert circuit.state == "closed"
    attempt(circuit)
    assert circuit.state == "closed"  # only a failure opens
    attempt(circuit, DOWN)
    assert circuit.state == "open"


def test_below_the_rate_it_stays_closed(circuit):
    for error in (None, None, None, DOWN, DOWN, None, None, DOWN):
        attempt(circuit, error)
    assert circuit.state == "closed"


def test_what_is_older_than_the_window_is_forgotten(circuit, clock):
    for _ in range(3):
        attempt(circuit, DOWN)
    clock.now += 31
    attempt(circuit, DOWN)
    assert circuit.state == "closed"


def test_neutral_results_are_not_counted(circuit):
    for _ in range(20):
        attempt(circuit, NEUTRAL)
    assert circuit.state == "closed"
    opened(circuit)  # the four failures alone are the window


def test_open_refuses_and_says_for_how_long(circuit, clock):
    opened(circuit)
    clock.now += 4
    with pytest.raises(CallError) as refused, circuit.attempt():
        pytest.fail("no attempt may begin")
    assert (refused.value.code, refused.value.retry_after_s) == ("circuit_open", 6)


def test_one_probe_at_a_time(circuit, clock):
    opened(circuit)
    clock.now += 10
    assert circuit.state == "half_open"
    with circuit.attempt():
        with pytest.raises(CallError, match="circuit_open"), circuit.attempt():
            pytest.fail("a second probe")
        assert circuit.state == "half_open"
    assert circuit.state == "closed"
    assert circuit.open_for_s == 0


def test_a_failed_probe_opens_for_longer_up_to_the_limit(circuit, clock):
    opened(circuit)
    waits = []
    for _ in range(3):
        clock.now += circuit.open_for_s
        attempt(circuit, DOWN)
        waits.append(circuit.open_for_s)
    assert waits == [20, 25, 25]


@pytest.mark.parametrize("error", [NEUTRAL, CallError("client_gone")])
def test_a_neutral_probe_gives_its_place_back(circuit, clock, error):
    opened(circuit)
    clock.now += 10
    attempt(circuit, error)
    assert circuit.state == "half_open"
    attempt(circuit)
    assert circuit.state == "closed"


def test_a_cancelled_probe_gives_its_place_back(circuit, clock):
    opened(circuit)
    clock.now += 10
    with pytest.raises(KeyboardInterrupt), circuit.attempt():
        raise KeyboardInterrupt
    attempt(circuit)
    assert circuit.state == "closed"


def test_after_closing_the_past_is_forgotten(circuit, clock):
    opened(circuit)
    clock.now += 10
    attempt(circuit)
    for _ in range(3):
        attempt(circuit, DOWN)
    assert circuit.state == "closed"


def test_a_result_from_an_earlier_state_changes_nothing(circuit, clock):
    late = circuit.attempt()
    late.__enter__()
    opened(circuit)
    clock.now += 10
    late.__exit__(None, None, None)
    assert circuit.state == "half_open"


def test_a_stream_that_broke_turns_its_success_into_a_failure(circuit):
    generations = [attempt(circuit) for _ in range(4)]
    circuit.broke(generations[0])
    assert circuit.state == "closed"
    circuit.broke(generations[1])
    assert circuit.state == "open"
    circuit.broke(generations[2])  # from before it opened
    assert circuit.open_for_s == 10
