"""What all routes of calls hold a request against."""

import re
from collections.abc import Callable
from typing import Any, Final

from tornado.httputil import HTTPHeaders

from errors import CallError
from handlers.body import invalid

# RFC 9110, 5.6.6: a parameter's value is a token, or a quoted string that may hold anything.
_PARAMETER: Final = re.compile(r';\s*([^\s=;"]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
# US-ASCII is a part of UTF-8, byte for byte.
_UTF_8: Final = frozenset(("", "utf-8", "utf8", "us-ascii", "ascii"))


def check_headers(headers: HTTPHeaders) -> None:
    """Whether the body is JSON in UTF-8, as it is.

    Raises:
        CallError: `unsupported_media_type`.
    """
    content_type = headers.get("Content-Type", "").lower()
    if content_type.partition(";")[0].strip() != "application/json":
        raise CallError("unsupported_media_type")
    if not _charsets(content_type) <= _UTF_8:
        raise CallError("unsupported_media_type", text="The body must be UTF-8")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise CallError("unsupported_media_type", text="Content-Encoding is not accepted")


def _charsets(content_type: str) -> set[str]:
    """Every charset that the value of a Content-Type header names, in lower case."""
    if ";" not in content_type:
        return set()
    parameters = _PARAMETER.findall(content_type)
    return {quoted or token for name, quoted, token in parameters if name == "charset"}


def apply_system_policy(
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
