"""Limits and quotas: all or none, given back exactly, and told in the draft's headers."""

import asyncio
from dataclasses import replace

import pytest
from conftest import make_settings

from call import Attempt, Call, Caller, Usage
from config import LimitConfig, StoreConfig, Target
from errors import CallError
from guards.limits.limits import Limits
from prices import Price, Prices
from store.redis import Store

NONE = LimitConfig(0, 0, 0, 0, 0)
MIDNIGHT = 20_000 * 86_400.0
ADA = Caller("ada")


class Limited:
    """Limits with a clock that a test sets, and calls to try them with."""

    store = None

    def __init__(self, caller=NONE, ip=NONE, total=NONE, price=None):
        self.now = MIDNIGHT
        settings = replace(make_settings(), limit_caller=caller, limit_ip=ip, limit_total=total)
        prices = Prices({})
        prices.of = lambda call: price
        self.limits = Limits(settings, self.store, clock=lambda: self.now, prices=prices)
        self.made = 0

    async def call(self, tokens=10, max_tokens=0, caller=ADA, address="203.0.113.7"):
        self.made += 1
        call = Call(f"call-{self.made}", "/api/chat", 0.0, 1.0, caller=caller, model="m")
        call.address, call.prompt_tokens, call.max_tokens = address, tokens, max_tokens
        try:
            await self.limits.count(call)
            await self.limits.reserve(call)
        except CallError:
            self.limits.settle(call)
            raise
        return call

    async def refused(self, **kwargs):
        with pytest.raises(CallError) as caught:
            await self.call(**kwargs)
        return caught.value

    async def settle(self, call, prompt=0, answer=0):
        answered = Attempt(Target("default", "m"), 0.0, state="ended")
        answered.usage = Usage.of(prompt, answer)
        call.timeline = [answered]
        self.limits.settle(call)
        await self.limits.aclose()


@pytest.fixture(params=["memory", "redis"], autouse=True)
def counted_in(request, io_loop, monkeypatch):
    """Every test twice: counted in memory and in a real Redis."""
    if request.param == "redis":
        url = request.getfixturevalue("redis").url
        store = Store(StoreConfig(url, 2.0, "open", "test"), clock=lambda: 0.0)
        monkeypatch.setattr(Limited, "store", store)
        yield "redis"
        io_loop.run_sync(store.aclose)
    else:
        yield "memory"


def limit(**limits):
    return replace(NONE, **limits)


async def test_no_limits_let_everything_pass():
    limited = Limited()
    for _ in range(100):
        assert (await limited.call()).reply_headers == {}


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"requests_per_minute": 1}, "The limit is 1 request a minute of one caller"),
        ({"in_flight": 1}, "The limit is 1 call at a time of one caller"),
    ],
)
async def test_a_limit_of_one_is_told_as_one(limits, told):
    limited = Limited(caller=limit(**limits))
    await limited.call()
    assert (await limited.refused()).text == told


async def test_requests_a_minute_then_the_wait_and_then_again():
    limited = Limited(caller=limit(requests_per_minute=3))
    for _ in range(3):
        await limited.call()
    error = await limited.refused()
    assert (error.code, error.outcome.status) == ("rate_limited", 429)
    assert error.text == "The limit is 3 requests a minute of one caller"
    limited.now += error.retry_after_s
    await limited.call()


async def test_a_burst_over_the_minutes_edge_does_not_pass():
    limited = Limited(caller=limit(requests_per_minute=10))
    limited.now += 59
    for _ in range(10):
        await limited.call()
    limited.now += 2
    assert (await limited.refused()).code == "rate_limited"
    limited.now += 30
    for _ in range(5):
        await limited.call()
    await limited.refused()


@pytest.mark.parametrize("second", [0, 1, 30, 59.9])
@pytest.mark.parametrize("spent", [[(0, 10)], [(0, 4), (20, 6)], [(55, 3), (20, 7)]])
async def test_the_wait_is_exact(second, spent):
    limited = Limited(caller=limit(tokens_per_minute=10))
    limited.now += second
    for later_s, tokens in spent:
        limited.now += later_s
        await limited.call(tokens=tokens)
    error = await limited.refused(tokens=5)
    limited.now += error.retry_after_s - 0.5
    await limited.refused(tokens=5)
    limited.now += 0.501
    await limited.call(tokens=5)


async def test_a_day_is_a_quota_and_ends_at_midnight():
    limited = Limited(caller=limit(tokens_per_day=100))
    limited.now += 3600
    await limited.call(tokens=100)
    error = await limited.refused()
    assert (error.code, error.retry_after_s) == ("quota_exceeded", 23 * 3600)
    limited.now = MIDNIGHT + 86_400
    await limited.call(tokens=100)


async def test_dollars_a_day():
    limited = Limited(
        total=limit(usd_per_day=0.01), price=Price(output_usd=2.0, input_usd=1.0, cached_usd=1.0)
    )
    await limited.call(tokens=4000, max_tokens=2500)  # 0.009
    error = await limited.refused(tokens=2000)
    assert error.code == "quota_exceeded"
    assert error.text == "The quota is used up"  # how the server stands is nobody's business
    await limited.call(tokens=1000)


async def test_dollars_are_not_counted_where_nobody_knows_the_price():
    limited = Limited(total=limit(usd_per_day=0.01), price=None)
    for _ in range(3):
        await limited.call(tokens=10**9)


async def test_calls_in_flight_give_their_place_back():
    limited = Limited(ip=limit(in_flight=2))
    first, _ = await limited.call(), await limited.call()
    error = await limited.refused()
    assert (error.code, error.retry_after_s) == ("rate_limited", 1)
    await limited.settle(first)
    await limited.call()
    await limited.refused()


async def test_a_settled_call_is_settled_once():
    limited = Limited(ip=limit(in_flight=2))
    first, _ = await limited.call(), await limited.call()
    await limited.settle(first)
    await limited.settle(first)
    await limited.call()
    await limited.refused()


async def test_what_was_not_used_is_given_back_to_its_minute():
    limited = Limited(caller=limit(tokens_per_minute=100))
    call = await limited.call(tokens=10, max_tokens=90)
    await limited.refused(tokens=1)
    await limited.settle(call, prompt=10, answer=20)
    await limited.call(tokens=70)
    await limited.refused(tokens=1)


async def test_what_was_used_beyond_the_reservation_is_charged():
    limited = Limited(caller=limit(tokens_per_minute=100))
    await limited.settle(await limited.call(tokens=10), prompt=15, answer=80)
    await limited.refused(tokens=6)
    await limited.call(tokens=5)


async def test_a_settlement_of_the_last_minute_corrects_the_last_minute():
    limited = Limited(caller=limit(tokens_per_minute=100))
    call = await limited.call(tokens=100)
    limited.now += 90  # half of the last minute still counts
    await limited.refused(tokens=51)
    await limited.settle(call)
    await limited.call(tokens=100)


async def test_a_settlement_after_its_window_changes_nothing():
    limited = Limited(caller=limit(tokens_per_minute=100))
    call = await limited.call(tokens=100)
    limited.now += 180
    await limited.settle(call)
    await limited.call(tokens=100)
    await limited.refused(tokens=1)


async def test_a_refused_reservation_takes_nothing_but_the_request():
    limited = Limited(
        caller=limit(requests_per_minute=100), ip=limit(tokens_per_minute=10, in_flight=2)
    )
    await limited.call(tokens=10)
    for _ in range(50):
        assert "one address" in (await limited.refused(tokens=1)).text
    for n in range(49):
        await limited.call(tokens=1, address=f"198.51.100.{n}")
    assert (await limited.refused(address="198.51.100.200")).text.endswith("of one caller")


async def test_a_refused_request_takes_nothing_anywhere():
    limited = Limited(caller=limit(requests_per_minute=2), ip=limit(requests_per_minute=1))
    await limited.call()
    for _ in range(10):
        assert "one address" in (await limited.refused()).text
    await limited.call(address="198.51.100.1")
    assert "one caller" in (await limited.refused(address="198.51.100.2")).text


async def test_a_stranger_is_held_against_its_address_alone():
    limited = Limited(ip=limit(requests_per_minute=2), total=limit(requests_per_minute=1))
    stranger = Call("call-1", "/api/chat", 0.0, 1.0, address="203.0.113.7")
    for _ in range(2):
        await limited.limits.count(stranger, known=False)
    with pytest.raises(CallError):
        await limited.limits.count(stranger, known=False)
    await limited.call(address="198.51.100.1")


async def test_nothing_is_kept_of_a_call_that_is_over():
    limited = Limited(caller=limit(requests_per_minute=1, in_flight=1))
    await limited.settle(await limited.call())
    await limited.refused()
    assert (limited.limits._rooms, limited.limits._reservations) == ({}, {})


async def test_callers_and_addresses_do_not_pay_for_each_other():
    limited = Limited(caller=limit(requests_per_minute=1), ip=limit(requests_per_minute=2))
    await limited.call(caller=ADA)
    await limited.call(caller=Caller("bob"))
    assert "one address" in (await limited.refused(caller=Caller("cyd"))).text
    assert "one caller" in (await limited.refused(caller=ADA, address="198.51.100.1")).text
    await limited.call(caller=Caller("cyd"), address="198.51.100.1")


async def test_a_caller_may_have_limits_of_its_own():
    limited = Limited(caller=limit(requests_per_minute=1))
    vip = Caller("vip", limits=limit(requests_per_minute=3))
    for _ in range(3):
        await limited.call(caller=vip)
    await limited.refused(caller=vip)


async def test_a_call_that_can_never_fit_is_not_told_to_wait():
    limited = Limited(caller=limit(tokens_per_minute=100))
    error = await limited.refused(tokens=50, max_tokens=51)
    assert (error.code, error.retry_after_s) == ("prompt_too_long", None)
    assert error.text.startswith(
        "Prompt and longest answer need 101 tokens; the limit is 100 tokens"
    )


async def test_the_headers_tell_the_policies_and_what_is_left_of_the_scarcest():
    limited = Limited(
        caller=limit(requests_per_minute=60, tokens_per_minute=1000),
        ip=limit(requests_per_minute=10, in_flight=5),
        total=limit(requests_per_minute=1000),
    )
    limited.now += 20
    headers = (await limited.call(tokens=100, max_tokens=400)).reply_headers
    assert headers == {
        "RateLimit-Policy": '"ip-requests-per-minute";q=10;w=60, '
        '"caller-requests-per-minute";q=60;w=60, "caller-tokens-per-minute";q=1000;w=60',
        "RateLimit": '"caller-tokens-per-minute";r=500;t=40',
    }


async def test_counts_of_long_ago_do_not_stay_for_ever(monkeypatch, counted_in):
    if counted_in == "redis":
        pytest.skip("Redis drops them by itself")
    monkeypatch.setattr("guards.limits.counters._MAX_COUNTERS", 50)
    limited = Limited(ip=limit(requests_per_minute=1))
    for n in range(500):
        await limited.call(address=f"2001:db8:{n:x}::/64")
    assert len(limited.limits._memory._windows) == 50
    await limited.refused(address="2001:db8:1f3::/64")


async def test_two_processes_share_one_limit(counted_in):
    if counted_in == "memory":
        pytest.skip("memory is one process's")
    one, other = (Limited(caller=limit(requests_per_minute=23, in_flight=7)) for _ in range(2))
    results = await asyncio.gather(
        *(each.call() for each in (one, other) * 10), return_exceptions=True
    )
    calls = [result for result in results if isinstance(result, Call)]
    assert len(calls) == 7
    for call in calls:
        await (one if call in one.limits._reservations else other).settle(call)
    results = await asyncio.gather(
        *(each.call() for each in (one, other) * 10), return_exceptions=True
    )
    assert sum(isinstance(result, Call) for result in results) == 3


async def test_counts_in_redis_end_by_themselves(counted_in, redis):
    if counted_in == "memory":
        pytest.skip("there is no Redis")
    limited = Limited(caller=limit(requests_per_minute=10, tokens_per_day=100, in_flight=7))
    await limited.call()
    script = """
        local least = 1e9
        for _, key in ipairs(redis.call('KEYS', '*')) do
          least = math.min(least, redis.call('PTTL', key))
        end
        return least"""
    assert await limited.store.run(script, [], []) > 0


async def test_without_redis_each_process_counts_for_itself(counted_in, redis):
    limited = Limited(caller=limit(requests_per_minute=2))
    redis.kill()
    for _ in range(2):
        await limited.settle(await limited.call())
    await limited.refused()


async def test_closed_means_no_call_without_redis(counted_in, redis):
    if counted_in == "memory":
        pytest.skip("there is no Redis")
    limited = Limited(caller=limit(requests_per_minute=2))
    limited.limits._fail_open = False
    redis.kill()
    error = await limited.refused()
    assert (error.code, error.reason) == ("overloaded", "store_down")
