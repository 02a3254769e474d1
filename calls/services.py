"""The parts of a running server, as calls and handlers see them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from calls.admission import Admission
from calls.idempotency import Replies
from config import Config
from guards.gate import Gate
from prices import Prices
from provider.router import Router
from telemetry.logging.throttle import ThrottledLog
from telemetry.metrics import Metrics
from telemetry.recent import RecentCalls
from telemetry.settlement import Settlement
from telemetry.window import Window
from trace_context import TraceContext


@dataclass(frozen=True, slots=True)
class Services:
    """What calls and handlers work with; wired in app/wiring.py."""

    config: Config
    router: Router
    gate: Gate
    admission: Admission
    replies: Replies
    prices: Prices
    settlement: Settlement
    window: Window
    recent: RecentCalls
    metrics: Metrics
    clock: Callable[[], float]
    """Seconds on a monotonic clock, the base of the event loop's."""
    version: str
    mode: str
    """Where answers come from: live, record or replay."""
    scenarios: tuple[str, ...] = ()
    """Names that X-Replay-Scenario may have; empty outside replay."""
    begin_trace: Callable[[str, str], TraceContext] | None = None
    """From traceparent and tracestate, where calls are traced."""
    throttled_log: ThrottledLog = field(default_factory=ThrottledLog)
