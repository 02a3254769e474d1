"""One deadline per call, kept by an IOLoop timeout which cancels the upstream call.

Rules of this module:

- `run` holds the upstream work in a child task. The deadline, the client's leaving and the
  drain all end it the same way: `call.end(why)` notes the first reason and cancels the
  child, which closes its socket on the way out; `run` then raises that reason.
- Cancelling the handler itself would make Tornado answer 500 (measured), hence the child.
- `call.deadline` may be moved later while the work runs; the timer looks again when it fires.
- `timer` bounds one phase; `IdleTimer` each of many waits, with hardly any timers.
- A cancellation from outside always passes.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tornado.ioloop import IOLoop

from call import Call
from errors import CallError

T = TypeVar("T")


async def run(call: Call, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or the reason why it had to end.

    Raises:
        CallError: `call.ended_by` if the call was ended, else whatever `work` raises.
    """
    loop = asyncio.get_running_loop()
    io_loop = IOLoop.current()

    timeout: object = None

    def look() -> None:
        nonlocal timeout
        left_s = call.deadline - loop.time()
        if left_s > 0:
            timeout = io_loop.call_later(left_s, look)
        else:
            call.end(CallError("deadline_exceeded", "deadline"))

    child = loop.create_task(work)
    call.task = child
    if call.ended_by is not None:
        child.cancel()
    timeout = io_loop.call_later(max(0.0, call.deadline - loop.time()), look)
    try:
        return await child
    except BaseException:
        outer = asyncio.current_task()
        if call.ended_by is None or (outer is not None and outer.cancelling()):
            raise
        raise call.ended_by from None
    finally:
        io_loop.remove_timeout(timeout)
        call.task = None


@asynccontextmanager
async def timer(reason: str, timeout_s: float | None) -> AsyncIterator[None]:
    """Bound one phase of an attempt; None leaves it to the timers around it.

    Raises:
        CallError: `deadline_exceeded` with this reason; another attempt may be quicker.
    """
    try:
        async with asyncio.timeout(timeout_s) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise CallError("deadline_exceeded", reason, transient=True, unhealthy=True) from None


class IdleTimer:
    """Bounds every `with` block on it to `timeout_s` seconds.

    A stream waits a thousand times and is rarely kept waiting. So one timer of the loop looks
    now and then whether the present wait has lasted too long, instead of one being started
    and stopped for each. For one task; `close` it when no wait is to follow.

    Raises (leaving the block):
        CallError: `deadline_exceeded` with this reason.
    """

    def __init__(self, reason: str, timeout_s: float) -> None:
        self._reason = reason
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._due: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._expired = False

    def __enter__(self) -> None:
        self._due = self._loop.time() + self._timeout_s
        if self._watch is None:
            self._task = asyncio.current_task()
            self._watch = self._loop.call_at(self._due, self._look)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._due = None
        if not self._expired:
            return
        self._expired = False
        assert self._task is not None
        # Only a cancellation that nobody else has asked for, too, is ours to take back.
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise CallError("deadline_exceeded", self._reason, transient=True, unhealthy=True)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self) -> None:
        self._watch = None
        if self._due is None:
            return  # the next wait starts it anew
        if self._loop.time() < self._due:
            self._watch = self._loop.call_at(self._due, self._look)
        else:
            assert self._task is not None
            self._expired = True
            self._task.cancel()
