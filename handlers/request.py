"""What the body of a call asks for, as far as all routes agree."""

import re
from collections.abc import Callable
from typing import Any, Final

from call import Call, Caller
from config import ModelConfig
from errors import CallError
from handlers.base import BaseHandler
from handlers.body import invalid, parse

# RFC 9110, 5.6.6: a parameter's value is a token, or a quoted string that may hold anything.
_PARAMETER: Final = re.compile(r';\s*([^\s=;"]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
# US-ASCII is a part of UTF-8, byte for byte.
_UTF_8: Final = frozenset(("", "utf-8", "utf8", "us-ascii", "ascii"))


class RequestHandler(BaseHandler):
    """A handler that pages of other origins may ask, and whose body is a call."""

    def options(self, *_: str) -> None:
        self.preflight()

    def single_header(self, name: str) -> str | None:
        """The value of a header that may stand there once."""
        values = self.request.headers.get_list(name)
        if len(values) > 1:
            raise invalid(f"{name} must not be given twice")
        return values[0] if values else None

    async def authenticate(self) -> Caller:
        """Who asks.

        Raises:
            CallError: 400 or 401.
        """
        return await self.services.gate.auth.authenticate(self.single_header("Authorization"))

    def read_body(self, call: Call) -> dict[str, Any]:
        """The body as a JSON object; it is let go of.

        Raises:
            CallError: 400, 413 or 415.
        """
        self._check_headers(call)
        if self.body_bytes > self.max_body_bytes:
            raise CallError("body_too_large")
        fields = parse(bytes(self.body))
        self.body.clear()
        return fields

    def choose_model(self, call: Call, named: str | None) -> ModelConfig:
        """Hold the model against those that this caller may ask; the first is the default.

        Raises:
            CallError: `model_not_found`.
        """
        allowed = self.services.gate.models_of(call.caller)
        if not allowed:
            raise CallError("model_not_found")
        if named is not None and named not in allowed:
            text = f"There is no such model; there are {', '.join(allowed)}"
            raise CallError("model_not_found", text=text, param="model")
        call.model = named or allowed[0]
        return self.config.models[call.model]

    def _check_headers(self, call: Call) -> None:
        headers = self.request.headers
        content_type = headers.get("Content-Type", "").lower()
        if content_type.partition(";")[0].strip() != "application/json":
            raise CallError("unsupported_media_type")
        if not _charsets(content_type) <= _UTF_8:
            raise CallError("unsupported_media_type", text="The body must be UTF-8")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise CallError("unsupported_media_type", text="Content-Encoding is not accepted")
        self.check_query()
        if self.services.scenarios and "X-Replay-Scenario" in headers:
            scenario = headers["X-Replay-Scenario"]
            if scenario not in self.services.scenarios:
                known = ", ".join(self.services.scenarios)
                raise invalid(f"X-Replay-Scenario must be one of {known}")
            call.replay_scenario = scenario

    def check_query(self) -> None:
        if self.request.query:
            raise invalid("Query parameters are not accepted")


def _charsets(content_type: str) -> set[str]:
    """Every charset that the value of a Content-Type header names, in lower case."""
    if ";" not in content_type:
        return set()
    parameters = _PARAMETER.findall(content_type)
    return {quoted or token for name, quoted, token in parameters if name == "charset"}


def without_system(
    messages: list[dict[str, Any]], policy: str, is_system: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    """The messages of a client, after the policy for its system messages.

    Raises:
        CallError: `invalid_request`, where they are refused.
    """
    if policy == "allow" or not any(map(is_system, messages)):
        return messages
    if policy == "refuse":
        raise invalid("System messages are not accepted from clients")
    return [message for message in messages if not is_system(message)]
