"""The log line of a call: one for each, whatever happened to it."""

import logging
from operator import attrgetter
from typing import Final

from telemetry.call_result import CallFacts, CallResult
from telemetry.logging.format import FIELDS

log: Final = logging.getLogger("sluice.call")

# Every field that is a fact of a call, so that a new one has to be named in FIELDS alone.
_NAMES: Final = tuple(name for name in FIELDS if hasattr(CallFacts, name))
_VALUES: Final = attrgetter(*_NAMES)
_LEFT_OUT_IF_EMPTY: Final = ("model", "cost_unknown", "redactions", "cut", "replayed")


def log_call(result: CallResult) -> None:
    """Write the line."""
    facts = result.facts
    fields = dict(zip(_NAMES, _VALUES(facts), strict=True))
    for name in _LEFT_OUT_IF_EMPTY:
        fields[name] = fields[name] or None
    status = facts.status
    level = logging.ERROR if status == 500 else logging.WARNING if status > 500 else logging.INFO
    log.log(level, "call", extra=fields)
