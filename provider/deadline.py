"""One deadline per call, kept by an IOLoop timeout which cancels the upstream call.

Rules of this module:

- `run` holds the upstream work in a child task. The deadline, the client's leaving and the
  drain all end it the same way: `call.end(why)` notes the first reason and cancels the
  child, which closes its socket on the way out; `run` then raises that reason.
- Cancelling the handler itself would make Tornado answer 500 (measured), hence the child.
- `call.deadline` may be moved later while the work runs; the timer looks again when it fires.
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
