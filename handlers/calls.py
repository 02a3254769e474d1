"""One call, whatever it looks like on the wire: admit, call, answer, settle.

Rules of this module:

- The call exists from its first header on, so that a refused one is settled too.
- Everything that needs the provider runs in the child task of `provider.deadline.run`: the
  upstream read and the client's flush take turns there, so a slow reader holds back the
  provider, and one cancellation closes both.
- A stream's headers leave with its first content. Until then a failure is a status; after
  that it is one error event, and never a finish.
"""

import sys
from collections.abc import Iterable
from functools import partial
from hashlib import sha256
from io import StringIO

from call import ANONYMOUS, Call
from calls.idempotency import Dropped, Recording, Reply, key_of
from errors import CallError
from guards.redaction.restorer import AnswerRestorer
from guards.tokens import AnswerMeter, weigh_answer
from handlers.formats.base import Format
from handlers.request import RequestHandler
from handlers.stream import StreamHandler
from provider.deadline import run
from provider.dialects.openai_chat import said
from provider.stream import ChatStream
from telemetry.audit import MAX_CONTENT


class CallHandler(RequestHandler, StreamHandler):
    """A route of calls. A subclass says what is asked, and how it is answered."""

    call: Call | None = None
    refusal: CallError | None = None
    """The error this request was answered with, if it never became more than a request."""
    format: Format
    """Known once the request was read."""
    _posting = False

    def read_request(self, call: Call) -> Format:
        """Fill the call from the request; the form of its answer.

        Raises:
            CallError: 400, 404, 413 or 415.
        """
        raise NotImplementedError

    def initialize(self) -> None:
        super().initialize()
        # Here, for Tornado refuses foreign origins before `prepare`.
        if self.request.method in self.SUPPORTED_METHODS and self.request.method != "OPTIONS":
            self.max_body_bytes = self.config.server.max_body_bytes
            now = self.services.clock()
            self.call = Call(
                request_id=self.request_id,
                route=self.route,
                started=now,
                deadline=now + self.config.provider.deadline_s,
            )
            self.services.gate.admission.arrive(self.call)
            headers = self.request.headers
            if self.services.begin_trace is not None and self.request.method == "POST":
                parent = headers.get("Traceparent", ""), headers.get("Tracestate", "")
                self.call.trace = self.services.begin_trace(*parent)
            if self.config.audits_content and headers.get("X-Audit-Consent") == "true":
                self.call.kept_answer = StringIO()

    async def post(self) -> None:
        call = self.call
        assert call is not None  # initialize made it
        self._posting = True
        self._auto_finish = False
        failure: CallError | None = CallError("internal")
        try:
            failure = await self._serve(call)
        finally:
            self.services.settlement.settle(call, failure)
            if self.recording is not None:
                await self.recording.drop()

    async def _serve(self, call: Call) -> CallError | None:
        """Make the call and tell the client; None if it completed, else why not."""
        gate = self.services.gate
        try:
            call.address = self.client_address()
            call.caller = await self.authenticate()
            key = self._idempotency_key()
            body = sha256(self.body).digest() if key else b""
            self.format = self.read_request(call)
            gate.admission.enter(call)
            if key is None or not await self._answered_before(call, key, body):
                await self._answer(call, await gate.admit(call))
            await self.bounded_finish()
            return None
        except CallError as error:
            failure = error
        except Exception:
            self.log_exception(*sys.exc_info())
            failure = CallError("internal")
        await self._tell(call, failure)
        return failure

    def _idempotency_key(self) -> str | None:
        if not self.config.idempotency.max_entries:
            return None
        return key_of(self.single_header("Idempotency-Key"))

    async def _answered_before(self, call: Call, key: str, body: bytes) -> bool:
        """Whether another request with this key had the answer; then it is given."""
        whose = call.address if call.caller is ANONYMOUS else call.caller.name
        longest_s = self.config.provider.deadline_s + self.config.provider.stream_s
        form = f"{self.route} {type(self.format).__name__} {call.stream}"
        fingerprint = body + sha256(form.encode()).digest()
        replies = self.services.gate.replies
        while True:
            claim = await run(call, replies.claim(whose, key, fingerprint, longest_s))
            if isinstance(claim, Recording):
                self.recording = claim
                return False
            try:
                with claim as reply:
                    await run(call, self._repeat(call, reply))
                return True
            except Dropped:
                if self._headers_written:
                    raise CallError("provider_unavailable", "joined_call_failed") from None

    async def _repeat(self, call: Call, reply: Reply) -> None:
        """Give the answer that another request has, or is about to get."""
        status, content_type = await reply.head()
        call.replayed = True
        call.deadline = call.started + self.config.provider.stream_s
        self._begin(call, status, content_type)
        self.set_header("Idempotency-Replayed", "true")
        async for chunk in reply:
            self.say(chunk)
            await self.bounded_flush()

    async def _answer(self, call: Call, restorer: AnswerRestorer | None) -> None:
        """Make the call and give its answer."""
        if call.stream:
            await run(call, self._relay(call, restorer))
        else:
            completion = await run(call, self.services.router.complete(call))
            call.usage, call.finish_reason = completion.usage, completion.finish_reason
            if call.usage is None or call.kept_answer is not None:
                words = said(completion.document["choices"], "message")
                _keep(call, [words])
                if call.usage is None:
                    await weigh_answer(call, call.upstream_model, words)
            if restorer is not None:
                restorer.whole(completion.document)
            self._begin(call, 200, self.format.content_type)
            self.say(self.format.whole(call, completion))
        if self.recording is not None:
            await self.recording.keep()

    def _begin(self, call: Call, status: int, content_type: str) -> None:
        """Set status and headers of an answer; they leave with its first words."""
        self.set_status(status)
        self.set_header("Content-Type", content_type)
        headers = {**self.format.headers, **call.reply_headers}
        if call.target is not None:
            headers["X-Sluice-Provider"] = call.target.provider
        for name, value in headers.items():
            self.set_header(name, value)
        if self.recording is not None:
            self.recording.head(status, content_type)

    async def _relay(self, call: Call, restorer: AnswerRestorer | None) -> None:
        """Hand the provider's stream on, as fast as both sides allow."""
        async with self.services.router.stream(call) as stream:
            call.first_token_at = self.services.clock()
            call.deadline = call.started + self.config.provider.stream_s
            self._begin(call, 200, self.format.content_type)
            # Written, not yet flushed: it leaves together with the first words.
            self.say(self.format.begin(call))
            sent = call.max_tokens
            meter = AnswerMeter(call.upstream_model, sent and sent * call.choices)
            try:
                with self.heartbeats(self.format.heartbeat):
                    await self._relay_words(call, stream, meter, restorer)
            finally:
                call.usage = stream.usage
                call.finish_reason = "length" if call.cut else stream.finish_reasons.get(0)
                if call.usage is None:
                    call.answer_tokens = meter.tokens()
            self.say(self.format.finish(call))
            await self.bounded_flush()

    async def _relay_words(
        self,
        call: Call,
        stream: ChatStream,
        meter: AnswerMeter,
        restorer: AnswerRestorer | None,
    ) -> None:
        async for deltas in stream:
            documents = [delta.document for delta in deltas]
            words = [delta.said for delta in deltas]
            _keep(call, words)
            if not meter.passes(words):
                call.cut = True
                documents.append(stream.cut())
            if restorer is not None:
                for document in documents:
                    restorer.feed(document)
            if data := self.format.deltas(call, documents):
                self.say(data)
                await self.bounded_flush()
            if call.cut:
                break

    async def _tell(self, call: Call, failure: CallError) -> None:
        """Answer with this error in the form that is still possible."""
        if failure.code == "client_gone" or self._finished:
            return
        if not self._headers_written:
            self.clear()  # the headers of a stream that did not begin
            for name, value in call.reply_headers.items():
                self.set_header(name, value)
            self.answer_error(failure)
            return
        event = self.format.error(call, failure)
        if event is None:
            self._close_connection()
            return
        try:
            self.write(event)
            await self.bounded_finish()
        except CallError:
            pass  # the client went before it could be told; `failure` stays the outcome

    def answer_error(self, error: CallError) -> None:
        self.refusal = error
        super().answer_error(error)

    def on_finish(self) -> None:
        if self.call is None:  # OPTIONS, or a method nobody knows
            super().on_finish()
        elif not self._posting:
            self.services.settlement.settle(self.call, self.refusal)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self.call is None:
            return
        gone = CallError("client_gone", "disconnected")
        if self.recording is not None and self.leave_to_followers():
            self.recording.on_last_left = partial(self.call.end, gone)
            return
        self.call.end(gone)
        if not self._posting:
            self.services.settlement.settle(self.call, gone)


def _keep(call: Call, words: Iterable[str]) -> None:
    """Put the provider's own words aside, where that is agreed on; of a long answer the first."""
    if call.kept_answer is not None and call.kept_answer.tell() <= MAX_CONTENT:
        call.kept_answer.writelines(words)
