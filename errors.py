"""Every way a call can end, in one place: code → status, fixed text, retryability.

Rules of this module:

- A call ends with exactly one code of `OUTCOMES`. Replies, stream events, log lines and
  metrics all take their status and words from here.
- A `CallError` never holds foreign text. `reason` is one of our own short words and may be
  logged; `text` and `param` name a JSON path, a rule or a header, never a caller's value. They
  may hold the name of an unknown field, which may be anything: they go to the caller alone.
- `transient`, `unhealthy`, `unbilled` and `retry_after_s` are for the provider's rooms: whether
  another attempt may help, whether the circuit breaker counts it, whether this one cost nothing
  although it was sent, and what the provider asked for.
"""

from typing import Final, NamedTuple


class Outcome(NamedTuple):
    """How one code looks from outside."""

    status: int
    """HTTP status of the reply."""
    text: str
    """Fixed sentence for the caller; a `CallError.text` may be more precise."""
    retryable: bool = False
    """Whether the same request may succeed later. Sent in the stream's error event."""


OUTCOMES: Final[dict[str, Outcome]] = {
    "completed": Outcome(200, "Completed"),
    "invalid_request": Outcome(400, "The request is not valid"),
    "unauthenticated": Outcome(401, "Authentication is required"),
    "forbidden": Outcome(403, "This request is not allowed"),
    "model_not_found": Outcome(404, "There is no such model"),
    "not_found": Outcome(404, "There is nothing at this address"),
    "method_not_allowed": Outcome(405, "This address does not accept that method"),
    "body_too_large": Outcome(413, "The request body is too large"),
    "prompt_too_long": Outcome(413, "The prompt is too long"),
    "unsupported_media_type": Outcome(415, "Content-Type must be application/json"),
    "idempotency_mismatch": Outcome(422, "This Idempotency-Key was used with another body"),
    "prompt_rejected": Outcome(422, "The provider refused this prompt"),
    "rate_limited": Outcome(429, "Too many requests", True),
    "quota_exceeded": Outcome(429, "The quota is used up", True),
    # nginx's number for a client that closed first; it is logged, nobody receives it.
    "client_gone": Outcome(499, "The client closed the connection"),
    "provider_misconfigured": Outcome(500, "Unexpected provider error"),
    "internal": Outcome(500, "Unexpected server error"),
    "provider_unavailable": Outcome(502, "Upstream provider unavailable", True),
    "circuit_open": Outcome(503, "Upstream provider unavailable, try again later", True),
    "draining": Outcome(503, "The server is restarting, try again", True),
    "overloaded": Outcome(503, "Too many calls in flight, try again", True),
    "deadline_exceeded": Outcome(504, "Request timed out", True),
}


class CallError(Exception):
    """The call, or one attempt of it, failed with `code`.

    Args:
        code: a key of `OUTCOMES`.
        reason: our own short word for the log, such as ``status_503`` or ``idle_timeout``.
        text: replaces the outcome's fixed sentence; never a caller's or a provider's words.
        transient: another attempt may succeed.
        unhealthy: the provider is to blame, so the circuit breaker counts it.
        unbilled: the provider answered with an error, and bills nothing for that.
        retry_after_s: seconds to wait before the next try, as `Retry-After`.
        param: which field of the request is at fault, as a path.
    """

    def __init__(
        self,
        code: str,
        reason: str | None = None,
        *,
        text: str | None = None,
        transient: bool = False,
        unhealthy: bool = False,
        unbilled: bool = False,
        retry_after_s: float | None = None,
        param: str | None = None,
    ) -> None:
        self.code = code
        self.outcome = OUTCOMES[code]
        self.reason = reason or code
        self.text = text or self.outcome.text
        self.transient = transient
        self.unhealthy = unhealthy
        self.unbilled = unbilled
        self.retry_after_s = retry_after_s
        self.param = param
        self.provider_status: int | None = None
        """HTTP status of the provider's answer, where it was an error's."""
        super().__init__(f"{code}: {self.reason}")


class ConfigError(Exception):
    """A setting cannot be used. Its text is the one line shown to the operator."""
