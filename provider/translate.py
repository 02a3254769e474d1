"""Foreign exceptions, translated once, where they enter.

Rules of this module:

- Every exception of openai, aiohttp and httpx2 has a meaning here (a test walks openai's
  whole tree); everything else is a bug of ours and passes untouched.
- No foreign text crosses: only the type, the status, and a few machine-readable fields.
- `transient` follows the calling rules: connection errors, timeouts, 429, 500, 502, 503
  and 504 may be tried again. A provider's `x-should-retry` header overrules the list.
"""

import email.utils
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import httpx2
import openai

from errors import CallError

_TRANSIENT: Final = frozenset((429, 500, 502, 503, 504))

# The most specific type first: the first match decides. Each value is (code, reason).
_CONNECTION: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (aiohttp.ConnectionTimeoutError, "deadline_exceeded", "connect_timeout"),
    (aiohttp.ServerTimeoutError, "deadline_exceeded", "read_timeout"),
    (openai.APITimeoutError, "deadline_exceeded", "timeout"),
    (httpx2.TimeoutException, "deadline_exceeded", "timeout"),
    (aiohttp.ClientConnectorDNSError, "provider_unavailable", "dns"),
    (aiohttp.ClientSSLError, "provider_unavailable", "tls"),
    (aiohttp.ClientConnectorError, "provider_unavailable", "connect"),
    (aiohttp.ClientConnectionError, "provider_unavailable", "disconnected"),
    (aiohttp.ClientPayloadError, "provider_unavailable", "truncated_body"),
    (aiohttp.ClientError, "provider_unavailable", "bad_http"),
    (openai.APIConnectionError, "provider_unavailable", "connection"),
    (httpx2.TransportError, "provider_unavailable", "connection"),
)

# What a provider says with status 200: the answer is not what was promised. It may have
# been paid for already, so it is not asked for again.
_GARBAGE: Final = (
    openai.OpenAIError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.StreamError,
    json.JSONDecodeError,
    UnicodeDecodeError,
    RecursionError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise every foreign exception of the block as the `CallError` it means."""
    try:
        yield
    except Exception as error:
        meaning = translate(error)
        if meaning is None:
            raise
        raise meaning from None


def translate(error: Exception, now: Callable[[], float] = time.time) -> CallError | None:
    """What a foreign exception means, or None if it is not foreign (`CallError` included)."""
    if isinstance(error, openai.APIStatusError):
        fields = error.body if isinstance(error.body, dict) else {}
        return status_error(error.status_code, error.response.headers, fields, now)
    for kind, code, reason in _CONNECTION:
        if isinstance(error, kind):
            return CallError(code, reason, transient=True, unhealthy=True)
    if isinstance(error, _GARBAGE):
        return CallError("provider_unavailable", "bad_response", unhealthy=True)
    return None


def status_error(
    status: int,
    headers: Mapping[str, str],
    fields: Mapping[str, Any],
    now: Callable[[], float] = time.time,
) -> CallError:
    """The meaning of an error status.

    Args:
        fields: the provider's error object (`type`, `code`); its `message` is never read.
        now: seconds since the epoch, to which a date in Retry-After is compared.
    """
    if "insufficient_quota" in (fields.get("code"), fields.get("type")):
        return CallError("provider_misconfigured", "insufficient_quota")
    reason = f"status_{status}"
    if status in (400, 413, 422):
        return CallError("prompt_rejected", reason)
    if 300 <= status < 400:
        return CallError("provider_unavailable", "redirect")
    # 408 and 409 are the two 4xx which say "not now" rather than "not you".
    if 400 <= status < 500 and status not in (408, 409, 429):
        return CallError("provider_misconfigured", reason)
    wish = headers.get("x-should-retry")
    return CallError(
        "provider_unavailable",
        reason,
        transient=wish == "true" or (status in _TRANSIENT and wish != "false"),
        unhealthy=status >= 500,
        retry_after_s=retry_after_s(headers, now),
    )


def body_error(fields: object) -> CallError:
    """The meaning of an error object inside a 200, buffered or streamed.

    No answer was given, so the next attempt pays for nothing twice. Some gateways put the
    HTTP status that they would have sent into `code`.
    """
    fields = fields if isinstance(fields, dict) else {}
    code = fields.get("code")
    if isinstance(code, str) and code.isdecimal() and len(code) == 3:
        code = int(code)
    if isinstance(code, int) and 400 <= code < 600:
        return status_error(code, {}, fields)
    if code == "content_filter":
        return CallError("prompt_rejected", "content_filter")
    if fields.get("type") == "invalid_request_error":
        return CallError("prompt_rejected", "error_in_body")
    meaning = status_error(500, {}, fields)
    if meaning.code == "provider_unavailable":
        meaning.reason = "error_in_body"
    return meaning


def retry_after_s(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    """Seconds the provider asks us to wait, or None. Garbage and the past mean None.

    Reads `retry-after-ms`, then `Retry-After` as seconds or as an HTTP date (RFC 9110 10.2.3).
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            wait = float(value) * scale
        except ValueError:
            try:
                wait = email.utils.parsedate_to_datetime(value).timestamp() - now()
            except (ValueError, OverflowError):
                continue
        if math.isfinite(wait) and wait >= 0:
            return wait
    return None
