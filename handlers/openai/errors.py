"""Errors as OpenAI's clients read them: their envelope, their types, their headers."""

import math
from collections.abc import Iterator
from typing import Any, Final

from errors import CallError
from handlers.base import NotFoundHandler
from handlers.formats.errors import JsonErrors

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
# By reason: codes of OpenAI's on which its clients act, here by shortening the conversation.
_CODES: Final = {"context_length": "context_length_exceeded"}


def envelope(failure: CallError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    status = failure.outcome.status
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {
        "error": {
            "message": failure.text,
            "type": kind,
            "param": failure.param,
            "code": _CODES.get(failure.reason, failure.code),
        }
    }


class OpenAIErrors(JsonErrors):
    """Their envelope, and what keeps their SDKs from retrying in vain."""

    def document(self, error: CallError, request_id: str) -> dict[str, Any]:
        return envelope(error)

    def headers(self, error: CallError, attempts: int) -> Iterator[tuple[str, str]]:
        yield from super().headers(error, attempts)
        if error.retry_after_s is not None:
            yield "Retry-After-Ms", str(math.ceil(error.retry_after_s * 1000))
        # Their SDKs try 408, 409, 429 and every 5xx again by themselves. Once the provider was
        # called this call has had its retries: theirs would multiply them, and might buy an
        # answer twice.
        if attempts or not error.outcome.retryable:
            yield "X-Should-Retry", "false"


OPENAI_ERRORS: Final = OpenAIErrors()


class UnknownOpenAIHandler(NotFoundHandler):
    """Every address under /v1 that is not in the route table."""

    errors = OPENAI_ERRORS
