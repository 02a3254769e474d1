"""Idempotency-Key: the same request again gets the same reply, without a second call.

    first request ──► ReplyBuffer ──► made, relayed, kept
    the same again ─► Reply     ──► what there is of it, then the rest as it comes

Draft: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/

Rules of this module:

- A key belongs to its caller and to one body; another body under it is a mistake.
- Only whole answers are kept. A provider's failure is that of all who follow the call: one round
  of attempts, however many they are. It is then forgotten, because a caller that tries again
  with the same key does so because of it.
- Kept replies are bounded in number, size and age. A reply too large to keep is forgotten
  once nobody follows it; where everything is in progress, a reply is not recorded at all.
- With Redis a reply that another process is making is waited for, and given in one piece.
- A claim ends by itself after the longest that a call may take, should its process die.
"""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import Any, Final, Literal

import orjson

from config import IdempotencyConfig
from errors import CallError
from store.redis import Store, StoreDown

# A string of RFC 8941, or, as most send it, the bare word.
_KEY: Final = re.compile(
    r'"([\x20\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x2b\x2d-\x7e]{1,255})'
)
_POLL_S: Final = 0.1
_POLL_MAX_S: Final = 1.0

# KEYS: the record. ARGV: fingerprint, owner, ms until the claim ends.
_CLAIM: Final = """
local record = redis.call('HMGET', KEYS[1], 'fingerprint', 'reply')
if not record[1] then
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'owner', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return 'mine'
end
if record[1] ~= ARGV[1] then return 'mismatch' end
return record[2] and {record[2]} or 'busy'
"""
# KEYS: the record. ARGV: owner, reply ('' forgets), ms to keep it.
_END: Final = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'reply', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""


def key_of(header: str | None) -> str | None:
    """The key in an Idempotency-Key header.

    Raises:
        CallError: `invalid_request`.
    """
    if header is None:
        return None
    match = _KEY.fullmatch(header)
    if match is None:
        raise CallError(
            "invalid_request",
            text="Idempotency-Key must be 1 to 255 visible ASCII characters, quoted or not",
        )
    return match[1] or match[2]


class ReplyFailed(Exception):
    """The call whose reply was followed has failed.

    Args:
        failure: the provider's, which who follows shares; None where the call came to an end of
            its own, as when its client left.
    """

    def __init__(self, failure: CallError | None) -> None:
        super().__init__(failure)
        self.failure = failure


class ReplyBuffer:
    """A reply while it is being made, by the request that was first."""

    def __init__(
        self,
        fingerprint: bytes,
        max_bytes: int,
        end: Callable[["ReplyBuffer"], Awaitable[None]],
    ) -> None:
        self.fingerprint = fingerprint
        self._max_bytes = max_bytes
        self.followers = 0
        self.on_last_left: Callable[[], None] | None = None
        """Called when the last follower leaves before the end."""
        self.state: Literal["open", "kept", "dropped"] = "open"
        self.status = 0
        self.content_type = ""
        self.failure: CallError | None = None
        self.chunks: list[bytes] = []
        self.size = 0
        self.changed = asyncio.Event()
        self._end = end

    def head(self, status: int, content_type: str) -> None:
        self.status, self.content_type = status, content_type
        self._wake()

    def append(self, chunk: bytes) -> None:
        """Add these bytes of the body, as they were sent."""
        self.size += len(chunk)
        if self.discarded:
            self.chunks.clear()
        else:
            self.chunks.append(chunk)
            self._wake()

    @property
    def discarded(self) -> bool:
        """Too large to keep, and nobody follows."""
        return self.size > self._max_bytes and not self.followers

    async def keep(self) -> None:
        """The reply is whole."""
        await self._finish("kept")

    async def drop(self, failure: CallError | None = None) -> None:
        """The reply came to nothing. Does nothing after `keep`.

        Args:
            failure: see `ReplyFailed`.
        """
        self.failure = failure
        await self._finish("dropped")

    async def _finish(self, state: Literal["kept", "dropped"]) -> None:
        if self.state == "open":
            self.state = state
            self._wake()
            await self._end(self)

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Reply:
    """Another request's reply, to be read inside `with`.

    Raises (from `head` and while iterating):
        ReplyFailed: it came to nothing.
    """

    def __init__(self, buffer: ReplyBuffer) -> None:
        self._buffer = buffer

    def __enter__(self) -> "Reply":
        self._buffer.followers += 1
        return self

    def __exit__(self, *_: object) -> None:
        buffer = self._buffer
        buffer.followers -= 1
        if not buffer.followers and buffer.state == "open" and buffer.on_last_left:
            buffer.on_last_left()

    async def head(self) -> tuple[int, str]:
        """Status and content type, once they are known."""
        buffer = self._buffer
        while not buffer.status:
            if buffer.state == "dropped":
                raise ReplyFailed(buffer.failure)
            await buffer.changed.wait()
        return buffer.status, buffer.content_type

    async def __aiter__(self) -> AsyncIterator[bytes]:
        buffer, read = self._buffer, 0
        while True:
            if read < len(buffer.chunks):
                chunks = buffer.chunks[read:]
                read += len(chunks)
                yield b"".join(chunks)
            elif buffer.state == "open":
                await buffer.changed.wait()
            elif buffer.state == "dropped":
                raise ReplyFailed(buffer.failure)
            else:
                return


class Replies:
    """The replies that are being made, and those that are kept.

    Args:
        clock: seconds on a monotonic clock.
    """

    def __init__(
        self,
        config: IdempotencyConfig,
        store: Store | None,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.config = config
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._buffers: dict[str, tuple[ReplyBuffer, float]] = {}

    async def claim(
        self, caller: str, key: str, fingerprint: bytes, claim_ttl_s: float
    ) -> ReplyBuffer | Reply:
        """Make the reply, or read another's.

        Args:
            caller: whose key it is.
            fingerprint: what must be the same for it to be the same request.
            claim_ttl_s: seconds after which this claim expires.

        Raises:
            CallError: `idempotency_mismatch`; `overloaded` where Redis is down and must not be.
        """
        name = sha256(f"{caller}\n{key}".encode()).hexdigest()
        wait_s = _POLL_S
        while True:
            if buffer := self._local(name):
                if buffer.fingerprint != fingerprint:
                    raise CallError("idempotency_mismatch")
                return Reply(buffer)
            owner = uuid.uuid4().hex
            match await self._claim_shared(name, fingerprint, owner, claim_ttl_s):
                case b"mine" if self._local(name) is None:
                    return self._open(name, owner, fingerprint, claim_ttl_s)
                case b"mine":
                    continue  # Redis is down, and another request here was quicker
                case b"mismatch":
                    raise CallError("idempotency_mismatch")
                case ReplyBuffer() as kept:
                    return Reply(kept)
                case _:
                    await self._sleep(wait_s)
                    wait_s = min(_POLL_MAX_S, wait_s * 2)

    def _local(self, name: str) -> ReplyBuffer | None:
        buffer, until = self._buffers.get(name, (None, 0.0))
        if buffer is not None and (self._clock() >= until or buffer.discarded):
            del self._buffers[name]
            return None
        return buffer

    async def _claim_shared(
        self, name: str, fingerprint: bytes, owner: str, claim_ttl_s: float
    ) -> bytes | ReplyBuffer:
        if self._store is None:
            return b"mine"
        try:
            return await self._store.run(
                _CLAIM,
                [f"reply:{name}"],
                [fingerprint, owner, int(claim_ttl_s * 1000)],
                partial(_claimed, fingerprint),
            )
        except StoreDown:
            if self._store.fail_open:
                return b"mine"
            raise

    def _open(self, name: str, owner: str, fingerprint: bytes, claim_ttl_s: float) -> ReplyBuffer:
        async def end(buffer: ReplyBuffer) -> None:
            await self._ended(name, owner, buffer)

        buffer = ReplyBuffer(fingerprint, self.config.max_reply_bytes, end)
        if self._make_room():
            self._buffers[name] = buffer, self._clock() + claim_ttl_s
        return buffer

    def _make_room(self) -> bool:
        """Whether one more fits, if need be in place of the oldest that is finished."""
        if len(self._buffers) < self.config.max_entries:
            return True
        now = self._clock()
        for name, (buffer, until) in self._buffers.items():
            if buffer.state != "open" or until <= now:
                del self._buffers[name]
                return True
        return False

    async def _ended(self, name: str, owner: str, buffer: ReplyBuffer) -> None:
        """Keep what came of it, in Redis if there is one, or forget it."""
        kept = buffer.state == "kept" and buffer.size <= self.config.max_reply_bytes
        listed = self._buffers.get(name, (None, 0.0))[0] is buffer
        if listed:
            del self._buffers[name]
        if self._store is not None:
            blob = _packed(buffer) if kept else b""
            keep_ms = int(self.config.keep_s * 1000)
            with suppress(StoreDown):
                await self._store.run(_END, [f"reply:{name}"], [owner, blob, keep_ms], bool)
                return
        if listed and kept and name not in self._buffers:
            self._buffers[name] = buffer, self._clock() + self.config.keep_s


def _packed(buffer: ReplyBuffer) -> bytes:
    head = orjson.dumps([buffer.status, buffer.content_type])
    return b"\n".join((head, b"".join(buffer.chunks)))


def _claimed(fingerprint: bytes, reply: Any) -> bytes | ReplyBuffer:
    """What Redis has under this key: a word about it, or the reply that was kept."""
    if isinstance(reply, list):
        return _unpacked(reply[0], fingerprint)
    return {word: word for word in (b"mine", b"mismatch", b"busy")}[reply]


def _unpacked(blob: bytes, fingerprint: bytes) -> ReplyBuffer:
    async def end(buffer: ReplyBuffer) -> None:
        """It is kept already."""

    buffer = ReplyBuffer(fingerprint, len(blob), end)
    head, _, body = blob.partition(b"\n")
    buffer.head(*orjson.loads(head))
    buffer.append(body)
    buffer.state = "kept"
    return buffer
