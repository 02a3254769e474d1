"""What every address has in common: request ids, JSON errors, bounded bodies and writes.

Rules of this module:

- Every reply is JSON (or an event stream, a page, or metrics), carries X-Request-Id, and says
  nothing of the software behind it.
- A body over the limit is read to its end and thrown away, so that the client can read its
  413; past a hard cap it is answered at once and the connection closed. Tornado's own
  limit would close it without a word.
- Nothing is written without a bound: a client that does not read is closed.
"""

import asyncio
import logging
import math
import re
import uuid
from types import TracebackType
from typing import Any, Final

import orjson
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from call import Caller
from calls.services import Services
from config import Config
from errors import CallError
from guards.address import client_address
from handlers import browser
from handlers.body import invalid
from handlers.formats.errors import ErrorFormat, JsonErrors
from handlers.senders import FOREIGN_NAME, THROUGH_PROXY, header_of_proxy, is_this_machine
from telemetry.call_result import to_ms

log: Final = logging.getLogger("sluice.http")

HARD_BODY_CAP: Final = 16 * 1024 * 1024
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CODE_OF_STATUS: Final = {
    400: "invalid_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
}


@stream_request_body
class BaseHandler(RequestHandler):
    """A JSON address. Bodies are read and discarded beyond `max_body_bytes`."""

    services: Services
    request_id: str = ""
    max_body_bytes = 0
    """How much of a body is kept."""
    serves_proxies = False
    """Whether a proxy may ask without authentication, too."""
    errors: ErrorFormat = JsonErrors()
    """How errors look on this route's wire."""
    attempts = 0
    """Attempts that were made at a provider for this request."""

    @property
    def config(self) -> Config:
        # Tornado asks for headers before a handler is initialized; the settings are there.
        config: Config = self.settings["services"].config
        return config

    def initialize(self) -> None:
        self.services = self.settings["services"]
        self.body = bytearray()
        self.body_bytes = 0
        if (origin := browser.foreign_origin(self.request, self.config)) is not None:
            self._warn(
                "origin_refused",
                f"a page of {origin} may not call; SLUICE_BROWSER_ALLOWED_ORIGINS={origin} "
                "([browser] allowed_origins) would allow it",
            )

    def set_default_headers(self) -> None:
        if not self.request_id:
            given = self.request.headers.get("X-Request-Id", "")
            self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.clear_header("Server")
        self.set_header("X-Request-Id", self.request_id)
        for name, value in browser.headers_for(self.request, self.config):
            self.set_header(name, value)

    def prepare(self) -> None:
        if self.config.auth.mode == "none":
            self._check_sender()
        declared = self.request.headers.get("Content-Length", "0")
        if declared.isdecimal() and int(declared) > HARD_BODY_CAP:
            self.set_header("Connection", "close")
            self.answer_error(CallError("body_too_large"))

    def _check_sender(self) -> None:
        """Without authentication only this machine is served, as far as a request shows it.

        Raises:
            CallError: `forbidden`.
        """
        if not is_this_machine(self.request.host_name):
            # A page may have given its own name our address (DNS rebinding).
            raise CallError("forbidden", "host", text=FOREIGN_NAME)
        header = header_of_proxy(self.request.headers)
        if header is not None and not self.serves_proxies:
            self._warn("proxy_refused", f"{THROUGH_PROXY} (it has {header})")
            raise CallError("forbidden", "proxy", text=THROUGH_PROXY)

    def _warn(self, event: str, fault: str, every_s: float = 60.0) -> None:
        services = self.services
        services.throttled_log.warn(event, fault, now=services.clock(), every_s=every_s)

    def data_received(self, chunk: bytes) -> None:
        self.body_bytes += len(chunk)
        if self.body_bytes <= self.max_body_bytes:
            self.body += chunk
        elif self.body_bytes > HARD_BODY_CAP and not self._finished:
            self.set_header("Connection", "close")
            self.answer_error(CallError("body_too_large"))

    def answer(self, document: dict[str, Any], status: int = 200) -> None:
        """Write this JSON as the reply; the caller finishes."""
        body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        self.answer_bytes(body, "application/json", status)

    def answer_bytes(self, body: bytes, content_type: str, status: int = 200) -> None:
        """Write these bytes as the reply; the caller finishes."""
        if self.services.admission.draining:
            # The listening socket is closed already; this asks the client to come back anew.
            self.set_header("Connection", "close")
        self.set_status(status)
        self.set_header("Content-Type", content_type)
        self.write(body)

    def answer_error(self, error: CallError) -> None:
        """Write and finish the reply to an error. Small, so it needs no bound."""
        for name, value in self.errors.headers(error, self.attempts):
            self.set_header(name, value)
        if error.code == "method_not_allowed":
            self.set_header("Allow", ", ".join(self._implemented()))
        self.answer(self.errors.document(error, self.request_id), error.outcome.status)
        self.finish()

    def finish(self, chunk: Any = None) -> "asyncio.Future[None]":
        written = super().finish(chunk)
        if self._headers.get("Connection") == "close":
            # Tornado sends the header but keeps the connection (RFC 9112, 9.6: must close).
            written.add_done_callback(lambda _: self.close_connection())
        return written

    async def flush_or_abort(self) -> None:
        """Hand what was written to the client, or give the client up.

        Raises:
            CallError: `client_gone`.
        """
        await self._bounded(self.flush())

    async def finish_or_abort(self) -> None:
        """The same for the end of the reply."""
        await self._bounded(self.finish())

    async def _bounded(self, written: "asyncio.Future[None]") -> None:
        try:
            if written.done():  # the socket took it all: no timer for the usual case
                written.result()
                return
            async with asyncio.timeout(self.config.server.flush_timeout_s):
                await written
        except TimeoutError:
            self.close_connection()
            raise CallError("client_gone", "not_reading") from None
        except StreamClosedError:
            raise CallError("client_gone", "disconnected") from None

    def close_connection(self) -> None:
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        connection.close()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if not isinstance(error, CallError):
            error = CallError(_CODE_OF_STATUS.get(status_code, "internal"))
        self.answer_error(error)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if not isinstance(value, HTTPError | CallError):
            log.error(
                "exception",
                exc_info=value,
                extra={"request_id": self.request_id, "route": self.route},
            )

    def on_finish(self) -> None:
        self.log_reply(logging.INFO)

    def log_reply(self, level: int) -> None:
        """The line of a request that is no call."""
        log.log(
            level,
            "request",
            extra={
                "request_id": self.request_id,
                "method": self.request.method if self._known_method() else "_OTHER",
                "route": self.route,
                "status": self.get_status(),
                "latency_ms": to_ms(self.request.request_time()),
            },
        )

    def client_address(self) -> str:
        """Whose requests these are, for limits."""
        forwarded = self.request.headers.get_list("X-Forwarded-For")
        hops = self.config.server.trusted_hops
        if forwarded and not hops:
            self._warn(
                "forwarded_for_ignored",
                "a request has X-Forwarded-For and [server] trusted_hops = 0: if a proxy adds it, "
                "limits count the proxy's address; set SLUICE_SERVER_TRUSTED_HOPS=1",
                math.inf,
            )
        return client_address(self.request.remote_ip or "", forwarded, hops)

    @property
    def route(self) -> str:
        """The address as the route table has it: a caller's own path may hold anything."""
        return "unknown"

    def single_header(self, name: str) -> str | None:
        """The value of a header that may stand there once.

        Raises:
            CallError: `invalid_request`.
        """
        values = self.request.headers.get_list(name)
        if len(values) > 1:
            raise invalid(f"{name} must not be given twice")
        return values[0] if values else None

    async def authenticate(self) -> Caller:
        """Who is calling.

        Raises:
            CallError: 400 or 401.
        """
        return await self.services.gate.auth.authenticate(self.single_header("Authorization"))

    def preflight(self, *_: str) -> None:
        """Reply to OPTIONS; without the headers of `browser.headers_for` it is a no. Routes that
        pages of other origins may call have it as their `options`."""
        for name, value in browser.PREFLIGHT.items():
            self.set_header(name, value)
        self.set_status(204)

    def check_xsrf_cookie(self) -> None:
        """Refuse what a foreign page sends: Tornado asks before every method that may change
        something, and before the body is read."""
        if browser.needs_token(self.request, self.config):
            try:
                super().check_xsrf_cookie()
            except HTTPError:
                raise CallError("forbidden", "xsrf", text=browser.XSRF_TEXT) from None

    def set_cookie(self, name: str, value: str | bytes, *args: Any, **kwargs: Any) -> None:
        secure = browser.is_https(self.request, self.config)
        kwargs |= {"httponly": True, "samesite": "Strict", "secure": secure}
        super().set_cookie(name, value, *args, **kwargs)

    def _known_method(self) -> bool:
        return self.request.method in self.SUPPORTED_METHODS

    def _implemented(self) -> list[str]:
        own = type(self)
        return [
            name
            for name in self.SUPPORTED_METHODS
            if getattr(own, name.lower()) is not getattr(RequestHandler, name.lower())
        ]


class NotFoundHandler(BaseHandler):
    """Every address that is not in the route table."""

    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            raise CallError("not_found")
