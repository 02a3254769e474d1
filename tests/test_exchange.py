"""An exchange without HTTP: a provider and a client that are lists."""

import asyncio
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
from conftest import make_settings

from app.wiring import build_services
from call import Attempt, Call, Usage
from calls.exchange import Exchange
from config import Target
from errors import CallError
from handlers.formats.plain_text import PlainText
from provider.dialects.openai_chat import Completion, Delta

HELLO = [{"role": "user", "content": "Hello"}]


@dataclass
class Listener:
    """A client that keeps what it gets."""

    sent: list[bytes] = field(default_factory=list)
    head: tuple[int, str] | None = None
    refusal: CallError | None = None
    has_started: bool = False
    ended: bool = False
    cut: bool = False
    leaves_after: int = 99

    def start(self, status, content_type, headers):
        self.head = status, content_type

    def write(self, data):
        self.sent.append(data)

    async def flush(self):
        self.has_started = True
        if len([piece for piece in self.sent if piece]) > self.leaves_after:
            raise CallError("client_gone", "disconnected")

    async def end(self):
        await self.flush()
        self.ended = True

    def heartbeats(self, comment):
        return nullcontext()

    def refuse(self, failure, headers):
        self.refusal = failure

    def disconnect(self):
        self.cut = True


class Answers:
    """A router whose provider says these words, and may fail after them."""

    def __init__(self, *words, failure=None):
        self._words = words
        self._failure = failure

    def _attempt(self, call):
        call.timeline.append(Attempt(Target("default", "gpt-4o-mini"), 0.0, state="ended"))
        call.timeline[-1].usage = Usage.of(9, 3)

    async def complete(self, call):
        self._attempt(call)
        if self._failure:
            raise self._failure
        text = "".join(self._words)
        document = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
        return Completion(document, "stop", text, False, Usage.of(9, 3))

    @asynccontextmanager
    async def stream(self, call):
        self._attempt(call)
        yield _Stream(self._words, self._failure)


class _Stream:
    usage = Usage.of(9, 3)
    finish_reasons: ClassVar = {0: "stop"}

    def __init__(self, words, failure):
        self._words = words
        self._failure = failure
        self.ended = failure is None

    async def __aiter__(self):
        for word in self._words:
            yield [Delta({"choices": [{"delta": {"content": word}}]}, word, [(0, None)], None)]
        if self._failure:
            raise self._failure


async def exchanged(router, client, *, stream):
    """The call after its exchange."""
    async with build_services(make_settings()) as services:
        services = replace(services, router=router)
        call = Call("id", "/test", 0.0, asyncio.get_running_loop().time() + 9)
        exchange = Exchange(services, call, client)
        async with exchange.settling():
            await exchange.admit(None)
            call.model, call.messages, call.stream = "gpt-4o-mini", list(HELLO), stream
            send = exchange.stream if stream else exchange.reply
            await send(PlainText())
        assert services.admission.in_flight == 0
        return call


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer(stream):
    client = Listener()
    call = await exchanged(Answers("Hi", " there"), client, stream=stream)
    assert b"".join(client.sent) == b"Hi there"
    assert (client.head, client.ended) == ((200, "text/plain; charset=utf-8"), True)
    assert (call.code, call.finish_reason, call.charged_tokens()) == ("completed", "stop", (9, 3))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_word_is_a_refusal(stream):
    client = Listener()
    failure = CallError("provider_unavailable", "status_503")
    call = await exchanged(Answers(failure=failure), client, stream=stream)
    assert (call.code, client.refusal) == ("provider_unavailable", failure)
    assert not client.ended


async def test_a_failure_after_it_breaks_what_cannot_express_it():
    client = Listener()
    failure = CallError("provider_unavailable", "truncated")
    call = await exchanged(Answers("Hi", failure=failure), client, stream=True)
    assert (call.code, client.cut, client.refusal) == ("provider_unavailable", True, None)
    assert b"".join(client.sent) == b"Hi"


async def test_a_client_that_leaves_ends_the_call():
    client = Listener(leaves_after=1)
    call = await exchanged(Answers("Hi", " there", "!"), client, stream=True)
    assert (call.code, client.ended) == ("client_gone", False)


async def test_what_is_no_failure_of_ours_to_foresee_is_internal():
    client = Listener()
    call = await exchanged(Answers(failure=ValueError()), client, stream=False)
    assert (call.code, client.refusal.code) == ("internal", "internal")
