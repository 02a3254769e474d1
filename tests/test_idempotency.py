"""Idempotency-Key: one call for one key, in one process and in several."""

import asyncio

import pytest

from calls.idempotency import Replies, Reply, ReplyBuffer, ReplyFailed, key_of
from config import IdempotencyConfig, StoreConfig
from errors import CallError
from store.redis import Store

BODY, OTHER = b"body", b"other"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "redis"])
def replies(request, io_loop, clock):
    """`replies()`: one process; with Redis they share it."""
    stores = []

    def make(max_entries=10, max_reply_bytes=1000, on_failure="open"):
        store = None
        if request.param == "redis":
            redis = request.getfixturevalue("redis")
            store = Store(StoreConfig(redis.url, 0.2, on_failure, "test"), clock=clock)
            stores.append(store)
        config = IdempotencyConfig(max_entries, max_reply_bytes, 3600)
        return Replies(config, store, clock=clock, sleep=asyncio.sleep)

    make.shared = request.param == "redis"
    yield make
    for store in stores:
        io_loop.run_sync(store.aclose)


async def claim(replies, key="k", body=BODY, caller="ada"):
    return await replies.claim(caller, key, body, 60)


async def record(replies, *chunks, key="k"):
    buffer = await claim(replies, key)
    assert isinstance(buffer, ReplyBuffer)
    buffer.head(200, "text/plain")
    for chunk in chunks:
        buffer.append(chunk)
    return buffer


async def read(reply):
    assert isinstance(reply, Reply)
    with reply:
        head = await reply.head()
        return head, b"".join([chunk async for chunk in reply])


async def test_the_second_gets_what_the_first_made(replies):
    one = replies()
    await (await record(one, b"Hi ", b"there")).keep()
    for _ in range(3):
        assert await read(await claim(one)) == ((200, "text/plain"), b"Hi there")


async def test_the_second_joins_while_the_first_is_at_it(replies):
    one = replies()
    buffer = await record(one, b"Hi")
    reply = await claim(one)
    reading = asyncio.create_task(read(reply))
    await asyncio.sleep(0)
    assert buffer.followers == 1
    buffer.append(b" there")
    await buffer.keep()
    assert await reading == ((200, "text/plain"), b"Hi there")
    assert buffer.followers == 0


async def test_keys_belong_to_their_callers(replies):
    one = replies()
    await (await record(one, b"Ada's")).keep()
    assert isinstance(await claim(one, caller="bob"), ReplyBuffer)
    assert isinstance(await claim(one, key="other"), ReplyBuffer)


async def test_another_body_is_a_mistake_now_and_later(replies):
    one = replies()
    buffer = await record(one, b"Hi")
    for _ in range(2):
        with pytest.raises(CallError) as caught:
            await claim(one, body=OTHER)
        assert caught.value.code == "idempotency_mismatch"
        await buffer.keep()


async def test_a_failure_is_forgotten_and_its_followers_hear_of_it(replies):
    one = replies()
    buffer = await record(one, b"Hi")
    reading = asyncio.create_task(read(await claim(one)))
    await asyncio.sleep(0)
    await buffer.drop()
    with pytest.raises(ReplyFailed):
        await reading
    assert isinstance(await claim(one, body=OTHER), ReplyBuffer)


async def test_dropping_what_is_kept_does_nothing(replies):
    one = replies()
    buffer = await record(one, b"Hi")
    await buffer.keep()
    await buffer.drop()
    assert (await read(await claim(one)))[1] == b"Hi"


async def test_the_owner_hears_when_the_last_follower_leaves(replies):
    one = replies()
    left = []
    buffer = await record(one, b"Hi")
    buffer.on_last_left = lambda: left.append(True)
    first, second = await claim(one), await claim(one)
    with first, second:
        assert buffer.followers == 2
    assert left == [True]


async def test_a_reply_too_large_is_relayed_but_not_kept(replies):
    one = replies(max_reply_bytes=10)
    buffer = await record(one, b"12345")
    reading = asyncio.create_task(read(await claim(one)))
    await asyncio.sleep(0)
    buffer.append(b"67890ab")
    await buffer.keep()
    assert (await reading)[1] == b"1234567890ab"
    assert isinstance(await claim(one), ReplyBuffer)


async def test_a_reply_too_large_that_nobody_follows_takes_no_memory(replies):
    buffer = await record(replies(max_reply_bytes=10))
    for _ in range(1000):
        buffer.append(b"x" * 1000)
    assert len(buffer.chunks) == 0


async def test_a_claim_of_a_dead_process_ends():
    clock = Clock()
    one = Replies(IdempotencyConfig(10, 10, 10), None, clock=clock, sleep=asyncio.sleep)
    await one.claim("ada", "k", BODY, 60)
    assert isinstance(await one.claim("ada", "k", BODY, 60), Reply)
    clock.now += 61
    assert isinstance(await one.claim("ada", "k", BODY, 60), ReplyBuffer)


async def test_the_oldest_that_is_finished_makes_room():
    one = Replies(IdempotencyConfig(2, 100, 10), None, clock=Clock(), sleep=asyncio.sleep)
    first = await record(one, b"1", key="1")
    await (await record(one, b"2", key="2")).keep()
    await (await record(one, b"3", key="3")).keep()
    assert isinstance(await claim(one, "2"), ReplyBuffer)
    assert isinstance(await claim(one, "1"), Reply)
    await first.drop()


async def test_where_all_are_in_progress_one_more_is_not_recorded():
    one = Replies(IdempotencyConfig(1, 100, 10), None, clock=Clock(), sleep=asyncio.sleep)
    await record(one, b"1", key="1")
    await (await record(one, b"2", key="2")).keep()
    assert isinstance(await claim(one, "2"), ReplyBuffer)


async def test_a_reply_goes_from_process_to_process(replies):
    if not replies.shared:
        pytest.skip("memory is one process's")
    one, other = replies(), replies()
    buffer = await record(one, b"Hi\n", b"there")
    waiting = asyncio.create_task(claim(other))
    with pytest.raises(CallError):
        await claim(other, body=OTHER)
    await buffer.keep()
    assert await read(await waiting) == ((200, "text/plain"), b"Hi\nthere")


async def test_a_failure_in_one_process_lets_the_other_try(replies):
    if not replies.shared:
        pytest.skip("memory is one process's")
    one, other = replies(), replies()
    buffer = await record(one, b"Hi")
    waiting = asyncio.create_task(claim(other))
    await asyncio.sleep(0)
    await buffer.drop()
    assert isinstance(await waiting, ReplyBuffer)


async def test_redis_dying_between_claim_and_keep_leaves_the_reply_here(replies, request):
    if not replies.shared:
        pytest.skip("there is no Redis to die")
    one = replies()
    buffer = await record(one, b"Hi")
    request.getfixturevalue("redis").kill()
    await buffer.keep()
    assert (await read(await claim(one)))[1] == b"Hi"


async def test_closed_means_no_call_without_redis(replies, request):
    if not replies.shared:
        pytest.skip("there is no Redis to die")
    request.getfixturevalue("redis").kill()
    with pytest.raises(CallError) as caught:
        await claim(replies(on_failure="closed"))
    assert (caught.value.code, caught.value.reason) == ("overloaded", "store_down")


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (None, None),
        ("8e03978e-40d5", "8e03978e-40d5"),
        ('"8e03978e-40d5"', "8e03978e-40d5"),
        ('"two words"', "two words"),
        ("a" * 255, "a" * 255),
    ],
)
def test_a_key_is_a_string_or_a_word(header, key):
    assert key_of(header) == key


@pytest.mark.parametrize(
    "header", ["", '"', '""', '"a', "a b", "a,b", "é", "a" * 256, '"a"b', 'a"']
)
def test_anything_else_is_refused(header):
    with pytest.raises(CallError) as caught:
        key_of(header)
    assert caught.value.code == "invalid_request"
