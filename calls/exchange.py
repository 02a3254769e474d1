"""One call from its first header to its settlement, with no HTTP in it.

    authenticate ► admit ► read ► redact ► weigh ► reserve ► ask ► relay ► settle

    async with exchange.settling():                what it raises is the outcome
        await exchange.admit(authorization)
        …                                          the handler fills in the call, chooses a format
        await exchange.reply(format)               or exchange.stream(format)

Rules of this module:

- The call exists from its first header on, so that a refused one is settled, too. It is settled
  once, whatever happens.
- Everything that needs the provider runs in the child task of `provider.deadline.run`: the
  upstream read and the client's flush take turns there, so a slow reader holds back the
  provider, and one cancellation closes both.
- A stream's headers leave with its first content. Until then a failure is a status; after
  that it is one error event, and never a finish.
- What is written goes to the reply buffer, too, if there is one: others may be following it. A
  client that leaves ends the call, unless others follow. Then the call goes on for them.
"""

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Final, NamedTuple

from call import ANONYMOUS, Call
from calls.client import Client, Form, ReplyFormat, StreamFormat
from calls.idempotency import Reply, ReplyBuffer, ReplyFailed
from calls.services import Services
from errors import CallError
from guards.redaction.restorer import AnswerRestorer
from guards.tokens import AnswerMeter, count_answer
from provider.deadline import run
from provider.stream import ChatStream
from telemetry.audit import MAX_CONTENT

log: Final = logging.getLogger("sluice.calls")

_NONE: Final[Mapping[str, str]] = {}


class Repeatable(NamedTuple):
    """What makes two requests the same: the caller's Idempotency-Key, and the body's digest."""

    key: str
    body: bytes


class Exchange:
    """One call and its client.

    Args:
        call: as far as it is known from the first header.
    """

    def __init__(self, services: Services, call: Call, client: Client) -> None:
        self.call = call
        self._services = services
        self._client = client
        self._stream_form: StreamFormat | None = None
        self._buffer: ReplyBuffer | None = None
        self._detached = False
        services.admission.arrive(call)

    async def admit(self, authorization: str | None) -> None:
        """Find out who is calling, take a place, and count the request, whatever its body may hold.

        Raises:
            CallError: `unauthenticated`, `rate_limited`, `draining`, `overloaded`.
        """
        gate = self._services.gate
        try:
            self.call.caller = await gate.auth.authenticate(authorization)
        except CallError:
            await gate.limits.count(self.call, known=False)
            raise
        self._services.admission.enter(self.call)
        await gate.limits.count(self.call)

    async def reply(self, form: ReplyFormat, repeatable: Repeatable | None = None) -> None:
        """Make the call, or repeat the reply to an earlier request with the same key.

        Raises:
            CallError: see `errors.OUTCOMES`.
        """
        await self._answer(form, repeatable, partial(self._relay_whole, form))

    async def stream(self, form: StreamFormat, repeatable: Repeatable | None = None) -> None:
        """The same, piece by piece."""
        self._stream_form = form
        await self._answer(form, repeatable, partial(self._relay, form))

    @asynccontextmanager
    async def settling(self) -> AsyncIterator[None]:
        """Run the call inside; its failure is sent to the client, and it is settled."""
        failure: CallError | None = CallError("internal")
        try:
            try:
                yield
                failure = None
            except CallError as error:
                failure = error
            except Exception:
                extra = {"request_id": self.call.request_id, "route": self.call.route}
                log.exception("exception", extra=extra)
            if failure is not None:
                await self._send_error(failure)
        finally:
            self._services.settlement.settle(self.call, failure)
            if self._buffer is not None:
                await self._buffer.drop(_shared(self.call, failure))

    def refused(self, failure: CallError) -> None:
        """The request was refused before it could become a call."""
        self._services.settlement.settle(self.call, failure)

    def client_left(self) -> None:
        """The client's connection is gone: the call ends, unless others follow its reply."""
        gone = CallError("client_gone", "disconnected")
        if self._detach():
            assert self._buffer is not None
            self._buffer.on_last_left = partial(self.call.end, gone)
        else:
            self.call.end(gone)

    async def _answer(
        self,
        form: Form,
        repeatable: Repeatable | None,
        relay: Callable[[AnswerRestorer | None], Coroutine[None, None, None]],
    ) -> None:
        if repeatable is None or not await self._replay_if_known(form, repeatable):
            restorer = await self._services.gate.redact_and_reserve(self.call)
            await run(self.call, relay(restorer))
            if self._buffer is not None:
                await self._buffer.keep()
        if not self._detached:
            await self._client.end()

    # One reply for several requests

    async def _replay_if_known(self, form: Form, repeatable: Repeatable) -> bool:
        """Whether another request with this key has the answer; then it is given."""
        call, config = self.call, self._services.config
        whose = call.address if call.caller is ANONYMOUS else call.caller.name
        claim_ttl_s = config.provider.deadline_s + config.provider.stream_s
        kind = f"{call.route} {form.wire_name} {call.stream}"
        fingerprint = repeatable.body + sha256(kind.encode()).digest()
        replies, limits = self._services.replies, self._services.gate.limits
        # Whoever waits for a reply or reads along takes a place as every call does.
        await run(call, limits.reserve(call, costs=False))
        while True:
            claim = await run(call, replies.claim(whose, repeatable.key, fingerprint, claim_ttl_s))
            if isinstance(claim, ReplyBuffer):
                self._buffer = claim
                limits.release(call)  # it is taken again together with the tokens
                return False
            try:
                with claim as reply:
                    await run(call, self._replay(form, reply))
                return True
            except ReplyFailed as followed:
                if followed.failure is not None:
                    raise followed.failure from None
                if self._client.has_started:
                    raise CallError("provider_unavailable", "joined_call_failed") from None

    async def _replay(self, form: Form, reply: Reply) -> None:
        """Give the answer that another request has, or is about to get."""
        status, content_type = await reply.head()
        self.call.replayed = True
        self.call.deadline = self.call.started + self._services.config.provider.stream_s
        self._start(form, status, content_type, {"Idempotency-Replayed": "true"})
        async for chunk in reply:
            self._write(chunk)
            await self._flush()

    # One call of the provider

    async def _relay_whole(self, form: ReplyFormat, restorer: AnswerRestorer | None) -> None:
        """Give the provider's answer in one piece."""
        call = self.call
        completion = await self._services.router.complete(call)
        call.finish_reason = completion.finish_reason
        _capture_for_audit(call, [completion.words])
        if call.usage is None:
            tokens = await count_answer(call.upstream_model, completion.words)
            call.timeline[-1].answer_tokens = tokens
        if restorer is not None:
            restorer.whole(completion.document)
        self._start(form, 200, form.content_type)
        self._write(form.reply(call, completion))

    async def _relay(self, form: StreamFormat, restorer: AnswerRestorer | None) -> None:
        """Hand the provider's stream on, as fast as both sides allow."""
        call, services = self.call, self._services
        async with services.router.stream(call) as stream:
            call.first_token_at = services.clock()
            call.deadline = call.started + services.config.provider.stream_s
            self._start(form, 200, form.content_type)
            # Written, not yet flushed: it leaves together with the first words.
            self._write(form.begin(call))
            sent = call.max_tokens
            meter = AnswerMeter(call.upstream_model, sent and sent * call.choices)
            try:
                with self._client.heartbeats(form.heartbeat):
                    await self._relay_deltas(form, stream, meter, restorer)
            finally:
                _count(call, stream, meter)
            self._write(form.finish(call))
            await self._flush()

    async def _relay_deltas(
        self,
        form: StreamFormat,
        stream: ChatStream,
        meter: AnswerMeter,
        restorer: AnswerRestorer | None,
    ) -> None:
        call = self.call
        async for deltas in stream:
            documents = [delta.document for delta in deltas]
            words = [delta.said for delta in deltas]
            _capture_for_audit(call, words)
            if not meter.within_limit(words):
                call.cut = True
                documents.append(stream.cut())
            if restorer is not None:
                for document in documents:
                    restorer.feed(document)
            if data := form.deltas(call, documents):
                self._write(data)
                await self._flush()
            if call.cut:
                break

    # The client, and who follows its reply

    def _start(
        self, form: Form, status: int, content_type: str, further: Mapping[str, str] = _NONE
    ) -> None:
        call = self.call
        headers = {**form.headers, **call.reply_headers, **further}
        if call.target is not None:
            headers["X-Sluice-Provider"] = call.target.provider
        self._client.start(status, content_type, headers)
        if self._buffer is not None:
            self._buffer.head(status, content_type)

    def _write(self, data: bytes) -> None:
        if self._buffer is not None:
            self._buffer.append(data)
        if not self._detached:
            self._client.write(data)

    async def _flush(self) -> None:
        if self._detached:
            return
        try:
            await self._client.flush()
        except CallError:
            if not self._detach():
                raise

    def _detach(self) -> bool:
        """Go on without the client where others follow its reply; whether there are any."""
        self._detached = self._buffer is not None and self._buffer.followers > 0
        return self._detached

    async def _send_error(self, failure: CallError) -> None:
        """Tell the client in the form that is still possible."""
        if failure.code == "client_gone" or self._detached:
            return
        if not self._client.has_started:
            self._client.refuse(failure, self.call.reply_headers)
            return
        form = self._stream_form
        event = form.error(self.call, failure) if form else None
        if event is None:
            self._client.disconnect()
            return
        try:
            self._client.write(event)
            await self._client.end()
        except CallError:
            pass  # the client left before it could hear of it; `failure` stays the outcome


def _shared(call: Call, failure: CallError | None) -> CallError | None:
    """The failure, if it is the provider's, and would be that of the same call made again."""
    own = failure is None or failure.code in ("client_gone", "draining", "internal")
    return None if own or not call.attempts else failure


def _count(call: Call, stream: ChatStream, meter: AnswerMeter) -> None:
    """Note how the stream ended, and what it has cost."""
    attempt = call.timeline[-1]
    attempt.usage = call.believed(stream.usage, has_answer=not meter.is_empty)
    if stream.ended and not call.cut:
        attempt.state = "ended"
    if attempt.usage is None or attempt.state != "ended":
        attempt.answer_tokens = meter.tokens()
    call.finish_reason = "length" if call.cut else stream.finish_reasons.get(0)


def _capture_for_audit(call: Call, words: Iterable[str]) -> None:
    """Keep the provider's own words, where that is agreed on; of a long answer the first."""
    if call.audit_buffer is not None and call.audit_buffer.tell() <= MAX_CONTENT:
        call.audit_buffer.writelines(words)
