"""What an operator has to fix when a provider refuses us, in one line.

    ERROR  provider_refused  reason=wrong_key  fault=the key was refused (401)  fix=OPENAI_API_KEY=…

A line for each target and reason once a minute at most, however many calls fail.
"""

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from config import ProviderConfig, Target
from errors import CallError

log: Final = logging.getLogger("sluice.provider")

_EVERY_S: Final = 60.0
_FOUND: Final = {
    "wrong_key": "the key was refused",
    "no_permission": "the key may not do this",
    "no_credit": "the account has no credit left",
    "unknown_model": "there is no such model",
    "wrong_url": "there is no API at this address",
    "status_404": "there is no such model, or no API at this address",
    "redirect": "the address redirects elsewhere",
    "dns": "the host's name does not resolve",
    "tls": "the host's certificate is not trusted, or it speaks no TLS",
    "connect": "nothing accepts connections at this address",
    "bad_json": "the answer is no chat completion",
    "not_a_stream": "the answer to a streamed request is no stream",
}
_FIX_OF_FIELD: Final = {"stream": "stream_usage = false", "stream_options": "stream_usage = false"}


class Diagnosis(NamedTuple):
    """What is wrong, and the variable or the line of config.ini that fixes it."""

    found: str
    fix: str


def diagnose(error: CallError, target: Target, config: ProviderConfig) -> Diagnosis | None:
    """The operator's part in this failure; None if he has none."""
    reason = error.reason
    if error.code != "provider_misconfigured" and reason not in _FOUND:
        return None
    section = "provider" if target.provider == "default" else f"provider:{target.provider}"
    url = f"[{section}] base_url"
    status = f" ({error.provider_status})" if error.provider_status else ""
    match reason:
        case "wrong_key" | "no_permission":
            fix = f"{config.api_key_variable}=…"
        case "no_credit":
            fix = f"the account of [{section}], whose key is in {config.api_key_variable}"
        case "unknown_model":
            fix = f"{target.model} in [chat] model, [chat] models or an upstream"
        case "status_404":
            fix = f"{url}, or the model's name ({target.model})"
        case "refused_parameter":
            line = _FIX_OF_FIELD.get(error.param or "", "max_tokens_field")
            return Diagnosis(f"the field {error.param} was refused{status}", f"[{section}] {line}")
        case _:
            fix = url
    return Diagnosis(_FOUND.get(reason, "the request was refused") + status, fix)


class Notices:
    """Writes the lines.

    Args:
        clock: seconds on a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: dict[tuple[Target, str], float] = {}

    def note(self, error: CallError, target: Target, config: ProviderConfig) -> None:
        """Write a line if there is something to fix, and it was not written just now."""
        diagnosis = diagnose(error, target, config)
        now = self._clock()
        if diagnosis is None or now < self._due.get((target, error.reason), now):
            return
        self._due[target, error.reason] = now + _EVERY_S
        log.log(
            logging.ERROR if error.code == "provider_misconfigured" else logging.WARNING,
            "provider_refused",
            extra={
                "provider": target.provider,
                "upstream_model": target.model,
                "reason": error.reason,
                "fault": diagnosis.found,
                "fix": diagnosis.fix,
            },
        )
