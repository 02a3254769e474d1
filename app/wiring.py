"""The wiring: every part of the server, made from the settings and put together.

Rules of this module:

- Parts are made in order and closed in reverse, whatever happens in between.
- Nothing here decides; clock, sleep and random source are handed in to whatever does.
- The clock is time.monotonic: the one of uvloop's loop runs on the same base, but in whole
  milliseconds, and stands still while a callback runs.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx2

from calls.admission import Admission
from calls.idempotency import Replies
from config import Config, ProviderConfig
from guards.gate import Gate
from handlers import Services
from prices import Prices
from provider.circuit import Circuit
from provider.client import Provider
from provider.replay.cassette import Provenance
from provider.replay.library import Library
from provider.replay.recorder import RecordingTransport
from provider.replay.server import EmbeddedProvider
from provider.router import Router
from provider.shared_circuit import share
from provider.transport import AiohttpTransport
from store.redis import Store
from telemetry.audit import Audit
from telemetry.call_result import CallResult
from telemetry.dropped import report_dropped
from telemetry.logging.call_line import log_call
from telemetry.metrics import Metrics
from telemetry.recent import RecentCalls
from telemetry.settlement import Settlement, Sink
from telemetry.window import Window
from version import VERSION

if TYPE_CHECKING:
    from telemetry.tracing.spans import Traces

log: Final = logging.getLogger("sluice.server")

MakeTransport = Callable[[str, ProviderConfig], httpx2.AsyncBaseTransport]


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the parts take from the world: clocks, sleep and chance. Tests bring their own."""

    clock: Callable[[], float] = time.monotonic
    """Seconds on a monotonic clock, the base of the event loop's."""
    wall_clock: Callable[[], float] = time.time
    """Seconds since the epoch."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random
    """A number from 0 to 1, uniformly."""
    version: str = VERSION


REAL: Final = Runtime()


@asynccontextmanager
async def build_services(
    config: Config,
    library: Library | None = None,
    cassette: Path | None = None,
    traces_factory: "Callable[[str], Traces] | None" = None,
    *,
    runtime: Runtime = REAL,
    transport: MakeTransport | None = None,
) -> AsyncIterator[Services]:
    """All parts of the server, made in order and closed in reverse.

    Args:
        library: answer from these recordings; None: from the configured provider.
        cassette: record the provider's answers into this file.
        traces_factory: for this version, if there are to be any.
        transport: makes the HTTP layer of the provider with this name; None: the usual one.
    """
    clock, sleep = runtime.clock, runtime.sleep
    async with AsyncExitStack() as stack:
        window = Window(clock=clock, wall_clock=runtime.wall_clock)
        recent = RecentCalls(wall_clock=runtime.wall_clock)
        metrics = Metrics()
        # It measures the real loop by the real clock, whatever the others go by.
        watching = metrics.watch_loop(clock=time.monotonic, sleep=asyncio.sleep)
        stack.callback(asyncio.create_task(watching).cancel)
        sinks: list[Sink] = [metrics.record, window.add, recent.add]
        if config.audit.destination:
            audit = Audit(config.audit)
            stack.callback(audit.close)
            sinks.append(audit)
        traces = traces_factory(runtime.version) if traces_factory else None
        if traces:
            stack.callback(traces.close)
            sinks.append(traces)
        embedded = None
        if library is not None:
            embedded = EmbeddedProvider(library, config.replay.chunk_interval_s)
            stack.push_async_callback(embedded.stop)
        router = make_router(
            config,
            transport or partial(_transport, cassette=cassette, config=config, metrics=metrics),
            embedded_url=embedded.start() if embedded else None,
            runtime=runtime,
        )
        stack.push_async_callback(router.aclose)
        store = _make_store(config, clock, replays=embedded is not None)
        prices = Prices(config.models)
        gate = Gate.build(
            config,
            store,
            clock=clock,
            wall_clock=runtime.wall_clock,
            prices=prices,
        )
        stack.push_async_callback(gate.aclose)
        if store is not None:
            sharing = share(lambda: router.retry.circuits, store, sleep=asyncio.sleep)
            stack.callback(asyncio.create_task(sharing).cancel)
        admission = Admission(config.server.max_in_flight)
        yield Services(
            config=config,
            router=router,
            gate=gate,
            admission=admission,
            replies=Replies(config.idempotency, store, clock=clock, sleep=sleep),
            prices=prices,
            settlement=make_settlement(gate, admission, prices, sinks, clock=clock),
            window=window,
            recent=recent,
            metrics=metrics,
            clock=clock,
            version=runtime.version,
            mode="replay" if embedded else "record" if cassette else "live",
            scenarios=embedded.scenarios if embedded else (),
            begin_trace=traces.begin if traces else None,
        )


def _make_store(config: Config, clock: Callable[[], float], *, replays: bool) -> Store | None:
    if not config.store.redis_url:
        return None
    # What is replayed is neither counted with real calls nor opens their circuits.
    prefix = config.store.prefix + (":replay" if replays else "")
    return Store(replace(config.store, prefix=prefix), clock=clock)


def make_settlement(
    gate: Gate,
    admission: Admission,
    prices: Prices,
    sinks: Iterable[Sink] = (),
    *,
    clock: Callable[[], float],
) -> Settlement:
    """Where everything learns of a call that has ended. Its place is given back first."""

    def leave(result: CallResult) -> None:
        gate.limits.settle(result.call)
        admission.leave(result.call)

    return Settlement(clock, prices, [leave, log_call, *sinks])


def make_router(
    config: Config,
    transport: MakeTransport,
    *,
    embedded_url: str | None = None,
    runtime: Runtime = REAL,
) -> Router:
    """The providers, each with its own connections and circuit.

    Args:
        transport: makes the HTTP layer of the provider with this name.
        embedded_url: stands in for all of them.
    """

    def make(name: str, provider: ProviderConfig, circuit: Circuit) -> Provider:
        return Provider(
            provider,
            circuit,
            base_url=embedded_url or provider.base_url,
            api_key="none-needed" if embedded_url else provider.api_key,
            transport=transport(name, provider),
            replays=embedded_url is not None,
        )

    return Router(config, make, clock=runtime.clock, sleep=runtime.sleep, random=runtime.random)


def live_router(config: Config) -> Router:
    """The providers as they are asked where nothing is recorded or replayed."""
    return make_router(
        config,
        partial(_transport, cassette=None, config=config, metrics=Metrics()),
    )


def _transport(
    name: str,
    provider: ProviderConfig,
    *,
    cassette: Path | None,
    config: Config,
    metrics: Metrics,
) -> httpx2.AsyncBaseTransport:
    network = AiohttpTransport(
        connect_s=provider.connect_s,
        max_response_bytes=provider.max_response_bytes,
        max_stream_bytes=provider.max_stream_bytes,
        on_dropped=partial(report_dropped, metrics, name),
    )
    if cassette is None or name != "default":
        return network
    provenance = Provenance(
        engine=f"{config.chat.model} at {urlsplit(provider.base_url).netloc}",
        recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        recorded_by=f"sluice {VERSION}",
    )
    return RecordingTransport(
        network,
        cassette,
        provenance,
        lambda count: log.info("recorded", extra={"exchanges": count}),
    )
