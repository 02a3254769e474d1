"""POST /api/chat: admit, call, answer, settle.

Rules of this module:

- The call exists from its first header on, so that a refused one is settled too.
- Everything that needs the provider runs in the child task of `provider.deadline.run`: the
  upstream read and the client's flush take turns there, so a slow reader holds back the
  provider, and one cancellation closes both.
- A stream's headers leave with its first content. Until then a failure is a status; after
  that it is one error event, and never a `finish`.
"""

import sys
import time
import uuid
from functools import partial
from hashlib import sha256

import orjson

from call import ANONYMOUS, Call
from errors import CallError
from guards.idempotency import Dropped, Recording, Reply, key_of
from guards.redaction import Restorer
from guards.tokens import AnswerMeter, weigh_answer
from handlers import ui_stream
from handlers.request import ChatRequestHandler
from handlers.stream import StreamHandler
from provider.deadline import run
from provider.stream import ChatStream


class ChatHandler(ChatRequestHandler, StreamHandler):
    """One call of the route."""

    route = "/api/chat"
    call: Call | None = None
    refusal: CallError | None = None
    """The error this request was answered with, if it never became more than a request."""
    _posting = False

    def prepare(self) -> None:
        if self.request.method != "OPTIONS":
            self.max_body_bytes = self.config.server.max_body_bytes
            now = self.services.clock()
            self.call = Call(
                request_id=self.request_id,
                route=self.route,
                started=now,
                deadline=now + self.config.provider.deadline_s,
            )
        super().prepare()

    def options(self) -> None:
        self.preflight()

    async def post(self) -> None:
        call = self.call
        assert call is not None  # prepare made it
        self._posting = True
        self._auto_finish = False
        failure: CallError | None = CallError("internal")
        try:
            failure = await self._serve(call)
        finally:
            self.services.settlement.settle(call, failure)
            self.services.gate.leave(call)
            if self.recording is not None:
                await self.recording.drop()

    async def _serve(self, call: Call) -> CallError | None:
        """Make the call and tell the client; None if it completed, else why not."""
        gate = self.services.gate
        try:
            call.address = self.client_address()
            call.caller = await gate.auth.authenticate(self.single_header("Authorization"))
            key = self._idempotency_key()
            body = sha256(self.body).digest() if key else b""
            self.read_request(call)
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
        key = key_of(self.single_header("Idempotency-Key"))
        return key if self.config.idempotency.max_entries else None

    async def _answered_before(self, call: Call, key: str, body: bytes) -> bool:
        """Whether another request with this key had the answer; then it is given."""
        whose = call.address if call.caller is ANONYMOUS else call.caller.name
        longest_s = self.config.provider.deadline_s + self.config.provider.stream_s
        fingerprint = body + (b"stream" if call.stream else b"whole")
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

    async def _answer(self, call: Call, restorer: Restorer | None) -> None:
        """Make the call and give its answer."""
        if call.stream:
            await run(call, self._relay(call, restorer))
        else:
            completion = await run(call, self.services.provider.complete(call))
            call.usage, call.finish_reason = completion.usage, completion.finish_reason
            if call.usage is None:
                await weigh_answer(call, completion.text)
            text = restorer.whole(completion.text) if restorer else completion.text
            self._begin(call, 200, "application/json")
            usage = call.usage.as_json() if call.usage else None
            self.say(orjson.dumps({"text": text, "usage": usage}, option=orjson.OPT_APPEND_NEWLINE))
        if self.recording is not None:
            await self.recording.keep()

    def _begin(self, call: Call, status: int, content_type: str) -> None:
        """Set status and headers of an answer; they leave with its first words."""
        self.set_status(status)
        self.set_header("Content-Type", content_type)
        if content_type == ui_stream.CONTENT_TYPE:
            for name, value in ui_stream.HEADERS.items():
                self.set_header(name, value)
        for name, value in call.reply_headers.items():
            self.set_header(name, value)
        if self.recording is not None:
            self.recording.head(status, content_type)

    async def _relay(self, call: Call, restorer: Restorer | None) -> None:
        """Hand the provider's stream on, as fast as both sides allow."""
        async with self.services.provider.stream(call) as stream:
            call.first_token_at = self.services.clock()
            call.deadline = call.started + self.config.provider.stream_s
            self._begin(call, 200, ui_stream.CONTENT_TYPE)
            # Written, not yet flushed: it leaves together with the first words.
            self.say(ui_stream.begin(uuid.uuid4().hex, call.model, int(time.time() * 1000)))
            meter = AnswerMeter(call.model, call.max_tokens)
            try:
                with self.heartbeats():
                    await self._relay_words(call, stream, meter, restorer)
            finally:
                call.usage = stream.usage
                call.finish_reason = "length" if call.cut else stream.finish_reason
                if call.usage is None:
                    call.answer_tokens = meter.tokens()
            self.say(ui_stream.finish(call.finish_reason, call.usage, cut=call.cut))
            await self.bounded_flush()

    async def _relay_words(
        self, call: Call, stream: ChatStream, meter: AnswerMeter, restorer: Restorer | None
    ) -> None:
        async for texts in stream:
            call.cut = not meter.passes(texts)
            if restorer is not None:
                texts = restorer.feed(texts)
            if texts:
                self.say(ui_stream.deltas(texts))
                await self.bounded_flush()
            if call.cut:
                break
        if restorer is not None and (rest := restorer.end()):
            self.say(ui_stream.deltas([rest]))

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
        try:
            self.write(ui_stream.error(failure))
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
