"""The shared store against a real Redis: scripts, time limits, failure and recovery."""

import asyncio
import contextlib
import logging

import pytest
from redis.exceptions import ResponseError

from config import StoreConfig
from guards.auth.single_use import SingleUse
from store.redis import Store, StoreDown, connection

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


def make(redis, clock, on_failure="open", timeout_s=0.2):
    return Store(StoreConfig(redis.url, timeout_s, on_failure, "test"), clock=clock)


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


@pytest.mark.parametrize(
    ("script", "key", "reason"),
    [
        ("return redis.call('NONSENSE')", "n", "script_error"),
        ("return nil + 1", "n", "script_error"),
        ("not Lua", "n", "script_error"),
        (COUNT, "list", "wrongtype"),
        (COUNT, "word", "script_error"),
    ],
)
async def test_a_script_that_fails_alone_leaves_the_store_up(store, caplog, script, key, reason):
    await store.run("return redis.call('RPUSH', KEYS[1], 1)", ["list"], [])
    await store.run("return redis.call('SET', KEYS[1], 'x')", ["word"], [])
    for _ in range(2):
        with pytest.raises(StoreDown):
            await store.run(script, [key], [])
    assert store.up
    assert store.failures[reason] == 2
    (record,) = caplog.records  # the same again within a minute is counted
    assert (record.levelname, record.msg, record.reason) == ("ERROR", "store_script_failed", reason)
    assert record.exc_info[0] is ResponseError
    assert await store.run(ECHO, [], ["hi"]) == b"hi"


async def test_a_reply_that_means_nothing_is_a_failure(store, caplog):
    with pytest.raises(StoreDown):
        await store.run(ECHO, [], ["hi"], {b"yes": True}.__getitem__)
    assert store.failures == {"unexpected": 1}
    assert caplog.records[0].exc_info[0] is KeyError


async def without_scripts(redis, admin):
    await admin.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-@scripting")
    return redis.url.replace("redis://", "redis://u:p@")


async def without_counting(redis, admin):
    await admin.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-incr")
    return redis.url.replace("redis://", "redis://u:p@")


async def of_other_keys(redis, admin):
    await admin.execute_command("ACL", "SETUSER", "u", "on", ">p", "~other:*", "+@all")
    return redis.url.replace("redis://", "redis://u:p@")


async def wrong_password(redis, admin):
    await admin.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all")
    return redis.url.replace("redis://", "redis://u:wrong@")


async def without_password(redis, admin):
    await admin.config_set("requirepass", "secret")
    return redis.url


async def no_such_database(redis, admin):
    return redis.url.replace("/0", "/99")


async def full(redis, admin):
    await admin.config_set("maxmemory", 1)
    return redis.url


async def without_replicas(redis, admin):
    await admin.config_set("min-replicas-to-write", 1)
    return redis.url


async def replica(redis, admin):
    await admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    return redis.url


async def orphan(redis, admin):
    await admin.config_set("replica-serve-stale-data", "no")
    return await replica(redis, admin)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_scripts, "noperm"),
        (without_counting, "noperm"),
        (of_other_keys, "noperm"),
        (wrong_password, "wrongpass"),
        (without_password, "noauth"),
        (no_such_database, "wrong_db"),
        (full, "oom"),
        (without_replicas, "noreplicas"),
        (replica, "readonly"),
        (orphan, "masterdown"),
    ],
)
async def test_a_redis_that_refuses_is_down_and_says_why(redis, clock, caplog, spoil, reason):
    admin = connection(StoreConfig(redis.url, 5, "open", "test"))
    url = await spoil(redis, admin)
    store = Store(StoreConfig(url, 5, "open", "test"), clock=clock)
    with pytest.raises(StoreDown):
        await store.run(COUNT, ["n"], [])
    assert not store.up
    assert store.failures == {reason: 1}
    assert [(each.msg, each.reason) for each in caplog.records] == [("store_down", reason)]
    await store.aclose()
    await admin.aclose()


class Scripted:
    """Speaks enough of Redis' protocol to be connected to, and answers scripts with `reply`."""

    reply = b"$2\r\nhi\r\n"

    async def start(self):
        self.connections = []
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return StoreConfig(f"redis://127.0.0.1:{port}/0", 0.2, "open", "test")

    async def _serve(self, reader, writer):
        self.connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                count = int((await reader.readline())[1:] or 0)
                if not count:
                    break
                words = []
                for _ in range(count):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                if words[0] == b"HELLO":
                    writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                elif words[0] in (b"EVAL", b"EVALSHA"):
                    writer.write(self.reply)
                    if self.reply == b"":
                        break
                else:
                    writer.write(b"+OK\r\n")
        writer.close()

    async def stop(self):
        for writer in self.connections:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        self._server.close()
        await self._server.wait_closed()


@pytest.fixture
def scripted(io_loop):
    server = Scripted()
    yield server
    io_loop.run_sync(server.stop)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"-MASTERDOWN Link with MASTER is down\r\n", "masterdown"),
        (b"-CLUSTERDOWN The cluster is down\r\n", "clusterdown"),
        (b"-MOVED 866 127.0.0.1:6381\r\n", "moved"),
        (b"-ASK 866 127.0.0.1:6381\r\n", "ask"),
        (b"-CROSSSLOT Keys in request don't hash to the same slot\r\n", "crossslot"),
        (b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n", "tryagain"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        (b"-BUSY Redis is busy running a script\r\n", "busy"),
        (b"-MISCONF Redis is configured to save RDB snapshots\r\n", "misconf"),
        (b"-NOPERM this user has no permissions\r\n", "noperm"),
        (b"-MOVED\r\n", "unexpected"),
        (b"-\r\n", "script_error"),
        (b"-\xff\xfe\r\n", "script_error"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol"),
        (b"*-5\r\n", "protocol"),
        (b"$5\r\nhe", "timeout"),
        (b"*3\r\n:1\r\n", "timeout"),
        (b"", "connection"),
    ],
)
async def test_whatever_it_answers_is_its_failure_and_does_not_last(scripted, clock, reply, reason):
    store = Store(await scripted.start(), clock=clock)
    assert await store.run(ECHO, [], ["hi"]) == b"hi"
    scripted.reply = reply
    await down(store)
    assert store.failures == {reason: 1}
    scripted.reply = Scripted.reply
    clock.now += 1
    assert await store.run(ECHO, [], ["hi"]) == b"hi"
    assert store.up
    await store.aclose()


async def test_a_second_reply_is_not_that_of_the_next_script(scripted, clock):
    store = Store(await scripted.start(), clock=clock)
    scripted.reply = b"+one\r\n+another\r\n"
    assert [await store.run(ECHO, [], [""]) for _ in range(3)] == [b"one"] * 3
    assert len(scripted.connections) == 3
    await store.aclose()


async def test_many_at_once_share_the_connections(redis, clock):
    store = make(redis, clock, timeout_s=10)
    results = await asyncio.gather(*(store.run(COUNT, ["n"], []) for _ in range(500)))
    assert sorted(results) == list(range(1, 501))
    await store.aclose()


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
