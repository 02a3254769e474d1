"""Every foreign exception has one meaning, and none of its words."""

import asyncio
import errno
import json
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import httpx2
import openai
import pytest
from aiohttp.client_reqrep import ConnectionKey

from errors import OUTCOMES, CallError
from provider.failures import retry_after_s, status_error, translate, translating_errors

CANARY = "canary-77aa"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = ConnectionKey("canary-77aa.example", 443, True, True, None, None, None)


def now():
    return NOW.timestamp()


def tree(root):
    return {root}.union(*(tree(child) for child in root.__subclasses__()))


def bare(kind):
    """One of its kind, whatever its constructor wants; with a text to be kept out."""
    error = kind.__new__(kind, CANARY)
    error.args = (CANARY,)
    error.message = CANARY
    error._conn_key, error._os_error = KEY, OSError(1, CANARY)
    error.response, error.status_code, error.body = answer(500), 500, {"message": CANARY}
    return error


def answer(status, headers=None, body=None):
    request = httpx2.Request("POST", "http://provider.example/v1")
    return httpx2.Response(status, headers=headers, json=body or {}, request=request)


def kinds(root, module):
    return sorted(
        (kind for kind in tree(root) if kind.__module__.partition(".")[0] == module),
        key=lambda kind: kind.__qualname__,
    )


@pytest.mark.parametrize("kind", kinds(openai.OpenAIError, "openai"))
def test_every_exception_of_openai_is_known(kind):
    meaning = translate(bare(kind))
    assert isinstance(meaning, CallError)
    assert meaning.code in ("provider_unavailable", "deadline_exceeded")
    assert CANARY not in repr(meaning) + meaning.text


@pytest.mark.parametrize(
    "kind",
    [
        *kinds(aiohttp.ClientError, "aiohttp"),
        *kinds(httpx2.HTTPError, "httpx2"),
        *kinds(httpx2.StreamError, "httpx2"),
        httpx2.InvalidURL,
    ],
)
def test_every_exception_of_the_http_layers_is_known(kind):
    meaning = translate(bare(kind))
    assert isinstance(meaning, CallError)
    assert meaning.unhealthy
    assert CANARY not in repr(meaning) + meaning.text


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (aiohttp.ConnectionTimeoutError(), "deadline_exceeded", "connect_timeout"),
        (aiohttp.SocketTimeoutError(), "deadline_exceeded", "read_timeout"),
        (bare(openai.APITimeoutError), "deadline_exceeded", "timeout"),
        (bare(aiohttp.ClientConnectorDNSError), "provider_unavailable", "dns"),
        (bare(aiohttp.ClientConnectorCertificateError), "provider_unavailable", "tls"),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "")), "provider_unavailable", "tls"),
        (aiohttp.ClientConnectorError(KEY, OSError(111, "")), "provider_unavailable", "connect"),
        (aiohttp.ServerDisconnectedError(), "provider_unavailable", "disconnected"),
        (aiohttp.ClientPayloadError(), "provider_unavailable", "truncated_body"),
    ],
)  # fmt: skip
def test_what_broke_is_named(error, code, reason):
    meaning = translate(error)
    assert (meaning.code, meaning.reason) == (code, reason)
    assert meaning.transient
    assert meaning.unhealthy


@pytest.mark.parametrize("kind", [aiohttp.ClientConnectorError, aiohttp.ClientConnectorDNSError])
@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_what_this_machine_has_run_out_of_is_not_the_providers_fault(kind, name):
    meaning = translate(kind(KEY, OSError(getattr(errno, name), CANARY)))
    assert (meaning.code, meaning.reason) == ("overloaded", name.lower())
    assert (meaning.transient, meaning.unhealthy, meaning.retry_after_s) == (False, False, 1)


def test_garbage_is_not_paid_for_twice():
    for error in (json.JSONDecodeError("", "", 0), bare(openai.APIResponseValidationError)):
        assert not translate(error).transient


@pytest.mark.parametrize(
    "error",
    [ValueError("ours"), KeyError("ours"), AssertionError(), CallError("internal")],
)
def test_our_own_errors_are_not_foreign(error):
    assert translate(error) is None
    with pytest.raises(type(error)) as caught, translating_errors():
        raise error
    assert caught.value is error


def test_cancellation_passes():
    with pytest.raises(asyncio.CancelledError), translating_errors():
        raise asyncio.CancelledError


def test_nothing_of_the_foreign_exception_stays():
    with pytest.raises(CallError) as caught, translating_errors():
        raise aiohttp.ClientPayloadError(CANARY)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("status", "code", "transient", "unhealthy"),
    [
        (400, "prompt_rejected", False, False),
        (401, "provider_misconfigured", False, False),
        (403, "provider_misconfigured", False, False),
        (404, "provider_misconfigured", False, False),
        (408, "provider_unavailable", True, False),
        (409, "provider_unavailable", True, False),
        (413, "prompt_rejected", False, False),
        (418, "provider_misconfigured", False, False),
        (422, "prompt_rejected", False, False),
        (429, "provider_unavailable", True, False),
        (500, "provider_unavailable", True, True),
        (501, "provider_unavailable", True, True),
        (502, "provider_unavailable", True, True),
        (503, "provider_unavailable", True, True),
        (504, "provider_unavailable", True, True),
        (529, "provider_unavailable", True, True),
        (302, "provider_unavailable", False, False),
    ],
)
def test_status(status, code, transient, unhealthy):
    error = status_error(status, {}, {"message": CANARY})
    assert (error.code, error.transient, error.unhealthy) == (code, transient, unhealthy)
    assert CANARY not in repr(error) + error.text


@pytest.mark.parametrize("field", ["code", "type"])
@pytest.mark.parametrize("status", [403, 429])
def test_a_used_up_quota_is_never_transient(status, field):
    error = status_error(status, {"retry-after": "1"}, {field: "insufficient_quota"})
    assert (error.code, error.transient) == ("provider_misconfigured", False)
    assert error.outcome is OUTCOMES["provider_misconfigured"]


def test_the_provider_may_overrule_the_list():
    assert status_error(529, {"x-should-retry": "true"}, {}).transient
    assert not status_error(503, {"x-should-retry": "false"}, {}).transient


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=30), usegmt=True)}, 30),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=30), usegmt=True)}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"}, None),
        ({"retry-after": "Wed, 99 Jan 2026 00:00:00 GMT"}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after_s(headers, now) == (None if seconds is None else pytest.approx(seconds))


def test_retry_after_is_read_from_the_response():
    error = translate(
        openai.RateLimitError("", response=answer(429, {"Retry-After": "7"}), body=None)
    )
    assert error.retry_after_s == 7
