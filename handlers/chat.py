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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tornado.ioloop import IOLoop

from call import Call
from errors import CallError
from handlers import ui_stream
from handlers.base import BaseHandler
from handlers.body import compiled, invalid, parse
from provider.deadline import run

_REQUEST: Final = compiled("chat.request.json")


class ChatHandler(BaseHandler):
    """One call of the route."""

    route = "/api/chat"
    call: Call | None = None
    refusal: CallError | None = None
    """The error this request was answered with, if it never became more than a request."""
    _posting = False
    _last_flush = 0.0
    _flushing = False

    def prepare(self) -> None:
        services = self.services
        self.max_body_bytes = services.config.server.max_body_bytes
        now = services.clock()
        self.call = Call(
            request_id=self.request_id,
            route=self.route,
            started=now,
            deadline=now + services.config.provider.deadline_s,
        )
        super().prepare()

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
            self.services.admission.leave(call)

    async def _serve(self, call: Call) -> CallError | None:
        """Make the call and tell the client; None if it completed, else why not."""
        try:
            self._read_request(call)
            self.services.admission.enter(call)
            if call.stream:
                await run(call, self._relay(call))
                await self.bounded_finish()
            else:
                await self._answer_whole(call)
            return None
        except CallError as error:
            failure = error
        except Exception:
            self.log_exception(*sys.exc_info())
            failure = CallError("internal")
        await self._tell(failure)
        return failure

    def _read_request(self, call: Call) -> None:
        """Fill the call from the request.

        Raises:
            CallError: 400, 413 or 415.
        """
        self._check_headers()
        if self.body_bytes > self.max_body_bytes:
            raise CallError("body_too_large")
        fields = parse(bytes(self.body), _REQUEST)
        self.body.clear()
        chat = self.services.config.chat

        call.model = fields.get("model", chat.model)
        if call.model != chat.model and call.model not in chat.models:
            call.model = ""
            allowed = ", ".join(dict.fromkeys((chat.model, *chat.models)))
            raise invalid(f"model must be one of {allowed}")
        call.max_tokens = int(fields.get("maxTokens", chat.max_tokens))
        if call.max_tokens > chat.max_tokens_limit:
            raise invalid(f"maxTokens must be at most {chat.max_tokens_limit}")
        accepts_events = "text/event-stream" in self.request.headers.get("Accept", "").lower()
        call.stream = fields.get("stream", accepts_events)
        if chat.system_prompt:
            call.messages.append({"role": "system", "content": chat.system_prompt})
        call.messages += fields.get("messages", ())
        call.messages.append({"role": "user", "content": fields["userMessage"].strip()})

    def _check_headers(self) -> None:
        headers = self.request.headers
        kind, _, parameters = headers.get("Content-Type", "").lower().partition(";")
        if kind.strip() != "application/json":
            raise CallError("unsupported_media_type")
        charset = parameters.partition("charset=")[2].strip(' "')
        if charset not in ("", "utf-8", "utf8"):
            raise CallError("unsupported_media_type", text="The body must be UTF-8")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise CallError("unsupported_media_type", text="Content-Encoding is not accepted")
        if self.request.query:
            raise invalid("Query parameters are not accepted")
        if self.services.scenarios and "X-Replay-Scenario" in headers:
            scenario = headers["X-Replay-Scenario"]
            if scenario not in self.services.scenarios:
                known = ", ".join(self.services.scenarios)
                raise invalid(f"X-Replay-Scenario must be one of {known}")
            assert self.call is not None
            self.call.replay_scenario = scenario

    async def _answer_whole(self, call: Call) -> None:
        completion = await run(call, self.services.provider.complete(call))
        call.usage = completion.usage
        call.finish_reason = completion.finish_reason
        usage = completion.usage.as_json() if completion.usage else None
        self.answer({"text": completion.text, "usage": usage})
        await self.bounded_finish()

    async def _relay(self, call: Call) -> None:
        """Hand the provider's stream on, as fast as both sides allow."""
        async with self.services.provider.stream(call) as stream:
            call.first_token_at = self.services.clock()
            call.deadline = call.started + self.services.config.provider.stream_s
            for name, value in ui_stream.HEADERS.items():
                self.set_header(name, value)
            # Written, not yet flushed: it leaves together with the first words.
            self.write(ui_stream.begin(uuid.uuid4().hex, call.model, int(time.time() * 1000)))
            try:
                with self._heartbeats():
                    async for texts in stream:
                        self.write(ui_stream.deltas(texts))
                        await self._flush()
            finally:
                call.usage, call.finish_reason = stream.usage, stream.finish_reason
            self.write(ui_stream.finish(stream.finish_reason, stream.usage))
            await self._flush()

    async def _flush(self) -> None:
        self._flushing = True
        await self.bounded_flush()
        self._flushing = False
        self._last_flush = self.services.clock()

    @contextmanager
    def _heartbeats(self) -> Iterator[None]:
        """Write a comment whenever the stream has been quiet for `heartbeat_s`.

        Never while a flush is pending: that client has bytes to read already, and Tornado
        keeps the completion of one flush at a time.
        """
        io_loop, clock = IOLoop.current(), self.services.clock
        interval_s = self.services.config.server.heartbeat_s
        self._last_flush = clock()

        timeout: object = None

        def look() -> None:
            nonlocal timeout
            quiet_s = clock() - self._last_flush
            if quiet_s >= interval_s and not self._flushing:
                self.write(ui_stream.HEARTBEAT)
                self.flush()
                self._last_flush, quiet_s = clock(), 0.0
            timeout = io_loop.call_later(max(0.01, interval_s - quiet_s), look)

        timeout = io_loop.call_later(interval_s, look)
        try:
            yield
        finally:
            io_loop.remove_timeout(timeout)

    async def _tell(self, failure: CallError) -> None:
        """Answer with this error in the form that is still possible."""
        if failure.code == "client_gone" or self._finished:
            return
        if not self._headers_written:
            self.clear()  # the headers of a stream that did not begin
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
        if self.call is None:  # a method nobody knows never reached prepare
            super().on_finish()
        elif not self._posting:
            self.services.settlement.settle(self.call, self.refusal)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self.call is None:
            return
        gone = CallError("client_gone", "disconnected")
        self.call.end(gone)
        if not self._posting:
            self.services.settlement.settle(self.call, gone)
