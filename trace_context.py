"""W3C trace context: which trace a call belongs to, as its headers say and ours tell on.

    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
    tracestate: vendor=value,…

https://www.w3.org/TR/trace-context/ ; what does not keep to it is as if it were not there.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Final, NamedTuple

# A version that is not ours may say more behind a dash, but never ff.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_MEMBER: Final = r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_TRACESTATE: Final = re.compile(rf"{_MEMBER}([ \t]*,[ \t]*{_MEMBER}){{0,31}}")
_MAX_LENGTH: Final = 512


class Parent(NamedTuple):
    """The caller's span."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str
    """What vendors have to say, passed on as it is; empty: nothing."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The server's span of a call; ids are lower-case hexadecimal."""

    trace_id: str
    span_id: str
    parent: Parent | None
    sampled: bool
    """Whether the spans of this call are exported."""

    def headers(self, span_id: str) -> dict[str, str]:
        """What a request that is made within the span `span_id` carries."""
        headers = {"traceparent": f"00-{self.trace_id}-{span_id}-{self.sampled:02d}"}
        if self.parent and self.parent.state:
            headers["tracestate"] = self.parent.state
        return headers


def parent_of(traceparent: str, tracestate: str) -> Parent | None:
    """The caller's span, as its headers name it, if they do."""
    found = _TRACEPARENT.fullmatch(traceparent) if len(traceparent) <= _MAX_LENGTH else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "00" and more:
        return None
    whole = len(tracestate) <= _MAX_LENGTH and _TRACESTATE.fullmatch(tracestate)
    return Parent(trace_id, span_id, bool(int(flags, 16) & 1), tracestate if whole else "")


def new_span_id() -> str:
    return secrets.token_hex(8)


def new_trace_id() -> str:
    return secrets.token_hex(16)
