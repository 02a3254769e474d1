"""The operations page and what it shows: `GET /ops` and `GET /api/ops`.

Rules of this module:

- The page is a shell without data, and open; the data are the operator's. Who that is says the
  rule of [ops] in config.ini.
- One document, made anew each time: of this process alone, and without any content of calls.
"""

import logging
import re
from contextlib import suppress
from typing import Any, Final

from calls.services import Services
from errors import OUTCOMES, CallError
from guards.auth.operator_token import is_operator
from handlers.base import BaseHandler
from handlers.body import invalid
from handlers.page import PageHandler
from telemetry.call_result import to_ms
from telemetry.recent import KEPT, RecentCall
from telemetry.tally import Percentiles, Tally
from telemetry.window import NANO_USD, OTHERS, SLOT_S, SLOTS, Point

_QUERY: Final = re.compile(r"(?:after=(\d{1,15}))?")
_SPENDERS: Final = 20
"""Callers and models told by name; the others are told together."""
_CHART_SLOTS: Final = {**SLOTS, "day": SLOTS["hour"]}
_STATUSES: Final = {code: outcome.status for code, outcome in OUTCOMES.items()}


class OpsPageHandler(PageHandler):
    """`GET /ops`. What it shares with the chat page is served with that."""

    address = "/ops"
    document = "ops/index.html"
    loads = (
        "ops/style.css",
        "ops/calls.css",
        "ops/main.js",
        "ops/charts.js",
        "ops/panels.js",
        "ops/calls.js",
        "ops/text.js",
    )


class OpsHandler(BaseHandler):
    """`GET /api/ops`: how the server is doing, see schemas/ops.json.

    `?after=NUMBER` leaves out the calls up to that one.
    """

    route = "/api/ops"

    async def get(self) -> None:
        token, config = self.request.headers.get("Authorization"), self.config
        if not config.ops_open and not is_operator(token, config.ops.token):
            raise CallError("unauthenticated")
        query = _QUERY.fullmatch(self.request.query)
        if query is None:
            raise invalid("Query parameters are not accepted, but for after=NUMBER")
        self.answer(ops_document(self.services, after=int(query[1] or 0)))
        with suppress(CallError):  # it has left; there is nobody to tell
            await self.finish_or_abort()

    def on_finish(self) -> None:
        # The page asks every other second.
        self.log_reply(logging.DEBUG if self.get_status() == 200 else logging.INFO)


def ops_document(services: Services, *, after: int) -> dict[str, Any]:
    """The whole of it.

    Args:
        after: number of the last call that is known already.
    """
    gate, retry = services.gate, services.router.retry
    snapshot = services.window.snapshot()
    return {
        "version": services.version,
        "mode": services.mode,
        "startedAt": services.window.started_at,
        "now": snapshot.now,
        "uptimeS": round(snapshot.uptime_s, 1),
        "draining": services.admission.draining,
        "store": gate.store_state,
        "inFlight": services.admission.in_flight,
        "maxInFlight": services.config.server.max_in_flight,
        "retries": {"inFlight": retry.retries_in_flight, "left": int(retry.budget_left)},
        "circuits": [
            {"provider": name, "state": circuit.state, "openForS": round(circuit.open_for_s, 1)}
            for name, circuit in services.router.circuits.items()
        ],
        "limits": [
            {"rule": name, "used": round(used, 6), "maximum": maximum}
            for name, used, maximum in gate.limits.server_usage()
        ],
        "callsPerS": round(snapshot.calls_per_s, 3),
        "slotS": SLOT_S,
        "chartSlots": _CHART_SLOTS,
        "slots": [_slot(point, snapshot.number) for point in snapshot.points],
        "spans": {name: _span(tally) for name, tally in snapshot.spans.items()},
        "statuses": _STATUSES,
        "maxCalls": KEPT,
        "lastCall": services.recent.last,
        "calls": [_call(call) for call in services.recent.after(after)],
    }


def _slot(point: Point, now: int) -> list[float | None]:
    """A row, for there are many: slots ago, calls by class, p50 and p95 in ms."""
    latency = point.latency
    classes = (point.completed, point.client_errors, point.server_errors)
    return [now - point.number, *classes, to_ms(latency.p50), to_ms(latency.p95)]


def _span(tally: Tally) -> dict[str, Any]:
    classes = {name: count for name, _, count in tally.all_of("class")}
    return {
        "completed": classes.get("completed", 0),
        "clientErrors": classes.get("client_errors", 0),
        "serverErrors": classes.get("server_errors", 0),
        "latencyMs": _percentiles(tally.latency.percentiles()),
        "firstTokenMs": _percentiles(tally.first_token.percentiles()),
        "codes": _counts(tally, "code"),
        "routes": _counts(tally, "route"),
        "callers": _spending(tally, "caller"),
        "models": _spending(tally, "model"),
        "attempts": tally.of("attempt", "first") + tally.of("attempt", "retry"),
        "retries": tally.of("attempt", "retry"),
        "faults": [
            {"provider": provider, "reason": reason, "attempts": count}
            for provider, reason, count in sorted(tally.all_of("fault"), key=_most)
        ],
        "redactions": _counts(tally, "redaction"),
        "limits": _counts(tally, "limit"),
    }


def _most(count: tuple[str, str, int]) -> tuple[int, str, str]:
    return -count[2], count[0], count[1]


def _counts(tally: Tally, kind: str) -> dict[str, int]:
    return {name: count for name, _, count in sorted(tally.all_of(kind), key=_most)}


def _percentiles(found: Percentiles) -> dict[str, float | None]:
    return {
        "measured": found.measured,
        "p50": to_ms(found.p50),
        "p95": to_ms(found.p95),
        "p99": to_ms(found.p99),
    }


def _spending(tally: Tally, kind: str) -> list[dict[str, Any]]:
    """Who has spent what, the dearest first; the last is all others together."""
    spent: dict[str, dict[str, int]] = {}
    for name, what, count in tally.all_of(kind):
        spent.setdefault(name, {})[what] = count
    others = [spent.pop(OTHERS)] if OTHERS in spent else []
    ranked = sorted(spent.items(), key=lambda item: _weight(item[1]), reverse=True)
    others += [counts for _, counts in ranked[_SPENDERS:]]
    rows = [_spender(name, counts) for name, counts in ranked[:_SPENDERS]]
    if others:
        measures = {what for counts in others for what in counts}
        sums = {what: sum(counts.get(what, 0) for counts in others) for what in measures}
        rows.append(_spender(None, sums))
    return rows


def _weight(counts: dict[str, int]) -> tuple[int, int, int]:
    tokens = counts.get("prompt_tokens", 0) + counts.get("answer_tokens", 0)
    return counts.get("nano_usd", 0), tokens, counts["calls"]


def _spender(name: str | None, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "name": name,
        "calls": counts["calls"],
        "serverErrors": counts.get("server_errors", 0),
        "promptTokens": counts.get("prompt_tokens", 0),
        "answerTokens": counts.get("answer_tokens", 0),
        "usd": counts.get("nano_usd", 0) / NANO_USD,
        "unpriced": counts.get("unpriced", 0),
    }


def _call(call: RecentCall) -> dict[str, Any]:
    """What there is to say of the call; fields without a value are left out."""
    facts = call.facts
    fields = {
        "number": call.number,
        "requestId": facts.request_id,
        "endedAt": round(call.ended_at, 3),
        "route": facts.route,
        "model": facts.model or None,
        "caller": facts.caller,
        "stream": facts.stream or None,
        "status": facts.status,
        "code": facts.code,
        "reason": facts.reason,
        "latencyMs": facts.latency_ms,
        "firstTokenMs": facts.first_token_ms,
        "attempts": [
            {
                "provider": attempt.provider,
                "model": attempt.model,
                "beganMs": to_ms(attempt.began_s),
                "tookMs": to_ms(attempt.took_s),
            }
            | ({"reason": attempt.reason} if attempt.reason else {})
            for attempt in facts.timeline
        ],
        "promptTokens": facts.charged_prompt_tokens or None,
        "answerTokens": facts.charged_answer_tokens or None,
        "countedBy": facts.counted_by,
        "usd": facts.cost_usd,
        "finishReason": facts.finish_reason,
        "cut": facts.cut or None,
        "replayed": facts.replayed or None,
        "redactions": sum(facts.redactions.values()) or None,
        "providerRequestId": facts.provider_request_id,
    }
    return {name: value for name, value in fields.items() if value is not None}
