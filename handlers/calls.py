"""A route of calls: read the request, choose the form of the answer, hand both to the exchange.

What happens to the call from then on is calls/exchange.py's; what it looks like on the wire, the
format's.
"""

from hashlib import sha256
from io import StringIO
from typing import Any

from call import Call
from calls.client import ReplyFormat, StreamFormat
from calls.exchange import Exchange, Repeatable
from calls.idempotency import key_of
from config import ModelConfig
from errors import CallError
from handlers.base import BaseHandler
from handlers.body import invalid, parse
from handlers.client import HttpClient
from handlers.request import check_headers


class CallHandler(BaseHandler):
    """A subclass says what is requested, and how it is answered."""

    query: tuple[str, ...] = ("",)
    """Queries that the route takes."""
    exchange: Exchange | None = None
    refusal: CallError | None = None
    """The error this request was answered with, if it never became more than a request."""
    _posting = False

    options = BaseHandler.preflight

    def read_request(self, call: Call) -> ReplyFormat | StreamFormat:
        """Fill the call from the request; the form of its answer, a StreamFormat where
        `call.stream` is set.

        Raises:
            CallError: 400, 404, 413 or 415.
        """
        raise NotImplementedError

    def initialize(self) -> None:
        super().initialize()
        # Here, for foreign origins are refused before `prepare`.
        if self.request.method in self.SUPPORTED_METHODS and self.request.method != "OPTIONS":
            self.max_body_bytes = self.config.server.max_body_bytes
            self._client = HttpClient(self)
            self.exchange = Exchange(self.services, self._new_call(), self._client)

    def _new_call(self) -> Call:
        """The call, as far as its headers tell."""
        now, headers = self.services.clock(), self.request.headers
        call = Call(
            request_id=self.request_id,
            route=self.route,
            started=now,
            deadline=now + self.config.provider.deadline_s,
        )
        if self.services.begin_trace is not None and self.request.method == "POST":
            parent = headers.get("Traceparent", ""), headers.get("Tracestate", "")
            call.trace = self.services.begin_trace(*parent)
        if self.config.audits_content and headers.get("X-Audit-Consent") == "true":
            call.audit_buffer = StringIO()
        return call

    async def post(self) -> None:
        exchange = self.exchange
        assert exchange is not None  # initialize made it
        self._posting = True
        self._auto_finish = False
        async with exchange.settling():
            exchange.call.address = self.client_address()
            await exchange.admit(self.single_header("Authorization"))
            repeatable = self._repeatable()
            form = self.read_request(exchange.call)
            if exchange.call.stream:
                await exchange.stream(form, repeatable)  # type: ignore[arg-type]
            else:
                await exchange.reply(form, repeatable)  # type: ignore[arg-type]

    def _repeatable(self) -> Repeatable | None:
        if not self.config.idempotency.max_entries:
            return None
        key = key_of(self.single_header("Idempotency-Key"))
        return Repeatable(key, sha256(self.body).digest()) if key else None

    def read_body(self, call: Call) -> dict[str, Any]:
        """The body as a JSON object; it is let go of.

        Raises:
            CallError: 400, 413 or 415.
        """
        check_headers(self.request.headers)
        self._check_query()
        self._read_scenario(call)
        if self.body_bytes > self.max_body_bytes:
            raise CallError("body_too_large")
        fields = parse(bytes(self.body))
        self.body.clear()
        return fields

    def _check_query(self) -> None:
        if self.request.query not in self.query:
            taken = ", ".join(filter(None, self.query))
            but = f", but for {taken}" if taken else ""
            raise invalid(f"Query parameters are not accepted{but}")

    def _read_scenario(self, call: Call) -> None:
        known = self.services.scenarios
        if known and "X-Replay-Scenario" in self.request.headers:
            call.replay_scenario = self.request.headers["X-Replay-Scenario"]
            if call.replay_scenario not in known:
                raise invalid(f"X-Replay-Scenario must be one of {', '.join(known)}")

    def resolve_model(self, call: Call, named: str | None) -> ModelConfig:
        """Hold the model against those that this caller may ask; the first is the default.

        Raises:
            CallError: `model_not_found`.
        """
        allowed = self.services.gate.models_for(call.caller)
        if not allowed:
            raise CallError("model_not_found")
        if named is not None and named not in allowed:
            text = f"There is no such model; there are {', '.join(allowed)}"
            raise CallError("model_not_found", text=text, param="model")
        call.model = named or allowed[0]
        return self.config.models[call.model]

    @property
    def attempts(self) -> int:  # type: ignore[override]
        return self.exchange.call.attempts if self.exchange else 0

    def answer_error(self, error: CallError) -> None:
        self.refusal = error
        super().answer_error(error)

    def on_finish(self) -> None:
        if self.exchange is None:  # OPTIONS, or a method nobody knows
            super().on_finish()
        elif not self._posting:
            self.exchange.refused(self.refusal or CallError("internal"))

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self.exchange is None:
            return
        self._client.left()
        self.exchange.client_left()
        if not self._posting:
            self.exchange.refused(CallError("client_gone", "disconnected"))
