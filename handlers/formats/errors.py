"""How an error looks on the wire: its body, and its headers."""

import math
from collections.abc import Iterator
from typing import Any, Protocol

from errors import CallError


class ErrorFormat(Protocol):
    """The form of errors on one wire."""

    def document(self, error: CallError, request_id: str) -> dict[str, Any]:
        """The body."""
        ...

    def headers(self, error: CallError, attempts: int) -> Iterator[tuple[str, str]]:
        """
        Args:
            attempts: how many were made at a provider.
        """
        ...


class JsonErrors:
    """`{"error": text, "code", "retryable", …}`, see schemas/error.json."""

    def document(self, error: CallError, request_id: str) -> dict[str, Any]:
        document: dict[str, Any] = {
            "error": error.text,
            "code": error.code,
            "retryable": error.outcome.retryable,
            "requestId": request_id,
        }
        if error.retry_after_s is not None:
            document["retry_after"] = _whole_seconds(error.retry_after_s)
        return document

    def headers(self, error: CallError, attempts: int) -> Iterator[tuple[str, str]]:
        if error.retry_after_s is not None:
            yield "Retry-After", str(_whole_seconds(error.retry_after_s))
        if error.code == "unauthenticated":
            yield "WWW-Authenticate", "Bearer"


def _whole_seconds(wait_s: float) -> int:
    return max(1, math.ceil(wait_s))
