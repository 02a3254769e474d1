"""Foreign exceptions, translated once, where they enter.

Rules of this module:

- Every exception of openai, aiohttp and httpx2 has a meaning here (a test walks openai's
  whole tree); everything else is a bug of ours and passes untouched.
- No foreign text crosses: only the type, the status, and what provider/refusal.py makes of an
  error's body.
- Out of descriptors or of memory for a socket is this machine's fault, never the provider's.
- `transient` follows the calling rules: connection errors, timeouts, `TRANSIENT_4XX` and every
  5xx may be tried again. A provider's `x-should-retry` header overrules the list.
"""

import email.utils
import errno
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import aiohttp
import httpx2
import openai

from errors import CallError
from provider.refusal import TRANSIENT_4XX, from_body, kind_of, read_error
from provider.refusal_codes import Kind

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

# What connect, or the lookup of the name, fails by where this machine has run out of something.
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

OWN_FIELDS: Final = frozenset(("max_tokens", "max_completion_tokens", "stream", "stream_options"))
"""What a request has by our settings, so that its caller is not to blame if it is refused."""
_TOO_LONG: Final = "The conversation is too long for this model"

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
def translating_errors() -> Iterator[None]:
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
        body = from_body(error.response.content)
        return status_error(error.status_code, error.response.headers, body, now)
    if isinstance(error, aiohttp.ClientOSError) and error.errno in _EXHAUSTED:
        reason = errno.errorcode[error.errno].lower()
        return CallError("overloaded", reason, retry_after_s=1)
    for kind, code, reason in _CONNECTION:
        if isinstance(error, kind):
            return CallError(code, reason, transient=True, unhealthy=True)
    if isinstance(error, _GARBAGE):
        return CallError("provider_unavailable", "bad_response", unhealthy=True)
    return None


def status_error(
    status: int,
    headers: Mapping[str, str],
    document: object,
    now: Callable[[], float] = time.time,
) -> CallError:
    """The meaning of an error status.

    Args:
        document: the error's body as JSON, or the error object in it.
        now: seconds since the epoch, to which a date in Retry-After is compared.
    """
    error = read_error(document)
    kind = kind_of(status, error)
    if kind is None:
        meaning = _unexplained(status, headers, now)
    else:
        meaning = _explained(kind, status, error.param)
    meaning.provider_status = status
    meaning.unbilled = True
    return meaning


def _explained(kind: Kind, status: int, param: str | None) -> CallError:
    match kind:
        case "refused":
            return CallError("prompt_rejected", f"status_{status}")
        case "moderation":
            return CallError("prompt_rejected", kind)
        case "context_length":
            return CallError("prompt_too_long", kind, text=_TOO_LONG)
        case "refused_parameter" if param not in OWN_FIELDS:
            text = f"The provider does not accept this {param} for this model"
            return CallError("invalid_request", kind, text=text, param=param)
        case "bad_tool_call":  # the model's own fault, which it may not make again
            return CallError("provider_unavailable", kind, transient=True)
        case _:
            return CallError("provider_misconfigured", kind, param=param)


def _unexplained(status: int, headers: Mapping[str, str], now: Callable[[], float]) -> CallError:
    if 300 <= status < 400:
        return CallError("provider_unavailable", "redirect")
    reason = f"status_{status}"
    if 400 <= status < 500 and status not in TRANSIENT_4XX:
        return CallError("provider_misconfigured", reason)
    return CallError(
        "provider_unavailable",
        reason,
        transient=headers.get("x-should-retry") != "false",
        unhealthy=status >= 500,
        retry_after_s=retry_after_s(headers, now),
    )


def body_error(document: object) -> CallError:
    """The meaning of an error object inside a 200, buffered or streamed.

    No answer was given, so the next attempt pays for nothing twice. Some gateways put the
    HTTP status that they would have sent into `code`.
    """
    fields = document if isinstance(document, dict) else {}
    code = str(fields.get("code"))
    if code.isdecimal() and 400 <= int(code[:4]) < 600:
        return status_error(int(code), {}, document)
    status = 400 if fields.get("type") == "invalid_request_error" else 500
    meaning = status_error(status, {}, document)
    meaning.provider_status = None
    if meaning.reason == f"status_{status}":
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
