"""Serving: listen, answer until a signal comes, drain.

Rules of this module:

- SIGTERM and SIGINT end the server in order: it stops accepting, lets calls in flight finish, ends
  the others honestly, and writes down what is known of them. SIGHUP reloads.
- What is loaded by the time it listens stays for good: no collection walks it again.
"""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from app.reload import Reload
from app.wiring import build_services
from config import Config
from errors import ConfigError
from handlers import Services, make_app, make_metrics_app
from preflight.checks import Host, findings
from provider.replay.library import Library
from version import VERSION

if TYPE_CHECKING:
    from telemetry.tracing.spans import Traces

log: Final = logging.getLogger("sluice.server")

# After drain_s has passed, what is left gets this long to hear of it.
_FAREWELL_S: Final = 2.0
_GC_ALLOCATIONS: Final = 10_000


def make_server(services: Services, app: Application | None = None) -> HTTPServer:
    """The HTTP server, not yet listening, with the limits that Tornado leaves open."""
    server = services.config.server
    return HTTPServer(
        app or make_app(services),
        # Handlers count the body themselves, to answer 413 where Tornado would just close.
        max_body_size=sys.maxsize,
        max_header_size=16 * 1024,
        body_timeout=server.body_timeout_s,
        idle_connection_timeout=server.idle_connection_s,
    )


async def serve(
    config: Config,
    host: Host,
    *,
    load: Callable[[], Config],
    cassette: Path | None,
    traces_factory: "Callable[[str], Traces] | None",
) -> None:
    """Run the server until it is told to stop.

    Args:
        host: what it runs on.
        load: reads the settings anew.
        cassette: replay this one, or record into it where there is a provider.
        traces_factory: for this version, if there are to be any.

    Raises:
        ConfigError: with one line for the operator.
    """
    library = Library.open(cassette or config.replay.cassettes) if config.replays else None
    async with build_services(
        config, library, None if library else cassette, traces_factory
    ) as services:
        server = make_server(services)
        _settle_memory()
        metrics_server = make_server(services, make_metrics_app(services))
        port = _listen(server, config.host, config.server.port)
        if config.metrics.port:
            _listen(metrics_server, config.host, config.metrics.port)

        def swap(services: Services) -> None:
            server.request_callback = make_app(services)
            metrics_server.request_callback = make_metrics_app(services)

        stopped = asyncio.Event()
        reload = Reload(services, load=load, swap=swap, sleep=asyncio.sleep)
        _on_signals(stopped, reload)
        for each in findings(config, host):
            if each.level != "ok":
                log.warning("preflight", extra={"check": each.check, "fault": each.found})
        log.info(
            "listening",
            extra={
                "version": VERSION,
                "address": f"http://{config.host or '*'}:{port}",
                "mode": services.mode,
                "auth": config.auth.mode,
            },
        )
        async with reload.running():
            await stopped.wait()
            await drain(server, reload.services)
            metrics_server.stop()
            await metrics_server.close_all_connections()
    log.info("stopped")


def _listen(server: HTTPServer, host: str, port: int) -> int:
    """Listen there; the port."""
    try:
        sockets = bind_sockets(port, host or None)
    except OSError as fault:
        raise ConfigError(f"cannot listen on {host or '*'}:{port}: {fault.strerror}") from None
    server.add_sockets(sockets)
    bound: int = sockets[0].getsockname()[1]
    return bound


def _settle_memory() -> None:
    """What is loaded by now stays for good, and a call leaves few cycles behind: collect seldom,
    never walk the modules again, and give back what loading took besides."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS)
    with suppress(AttributeError, TypeError):  # glibc's own: 5 MB
        ctypes.CDLL(None).malloc_trim(0)


def _on_signals(stopped: asyncio.Event, reload: Reload) -> None:
    """SIGTERM and SIGINT drain. A second Ctrl-C means now; a second SIGTERM means nothing new,
    for platforms send it twice. SIGHUP reloads, unless it is our terminal that hangs up."""
    loop = asyncio.get_running_loop()
    at_terminal = sys.stdout.isatty()

    def stop(number: signal.Signals) -> None:
        if stopped.is_set() and number is signal.SIGINT:
            os._exit(130)
        log.info("signal", extra={"signal": number.name})
        stopped.set()

    def hang_up() -> None:
        if at_terminal and not sys.stdout.isatty():
            stop(signal.SIGHUP)
        else:
            reload.ask()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, hang_up)


async def drain(server: HTTPServer, services: Services) -> None:
    """Stop accepting, let calls in flight finish up to `drain_s`, end the others honestly."""
    admission = services.admission
    admission.draining = True
    server.stop()
    log.info("draining", extra={"in_flight": admission.in_flight})
    try:
        async with asyncio.timeout(services.config.server.drain_s):
            await admission.drained()
    except TimeoutError:
        admission.end_all()
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await admission.drained()
        except TimeoutError:
            log.warning("calls_left", extra={"in_flight": admission.in_flight})
    await server.close_all_connections()
