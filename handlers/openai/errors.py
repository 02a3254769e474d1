"""Errors as OpenAI's clients read them: their envelope, their types, their headers."""

import math
from typing import Any, Final

from errors import CallError
from handlers.base import BaseHandler, NotFoundHandler

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


class OpenAIErrors(BaseHandler):
    """A handler whose errors these are."""

    def error_document(self, error: CallError) -> dict[str, Any]:
        return envelope(error)

    def answer_error(self, error: CallError) -> None:
        if error.retry_after_s is not None:
            self.set_header("Retry-After-Ms", str(math.ceil(error.retry_after_s * 1000)))
        if not self.should_retry(error):
            # Their SDKs try 408, 409, 429 and every 5xx again by themselves.
            self.set_header("X-Should-Retry", "false")
        super().answer_error(error)

    def should_retry(self, error: CallError) -> bool:
        """Whether the client may try again by itself."""
        return error.outcome.retryable


class UnknownOpenAIHandler(OpenAIErrors, NotFoundHandler):
    """Every address under /v1 that is not in the route table."""
