"""Sluice: a safe route from your front end to a large-language-model provider.

    serve     (the default) run the server: a page at /, POST /api/chat, GET /healthz, GET /readyz
    check     tell what would go wrong in production; --live asks the provider, too
    config    print the settings in force
    keys      add NAME, list, revoke NAME: the keys of [auth] mode = keys
    audit     show the samples of calls that [audit] keeps
    record    run the server in front of [provider] and write what it answers to a
              cassette
    replay    run the server on a cassette, without key or network

Without OPENAI_API_KEY `serve` replays the recordings in cassettes/. Try it with
    curl localhost:8000/api/chat -H 'Content-Type: application/json' -d '{"userMessage": "Hello"}'
"""

import argparse
import asyncio
import ctypes
import gc
import logging
import os
import platform
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dotenv import dotenv_values
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

import audit_view
import commands
import config_loader
from config import Config
from errors import ConfigError
from handlers import Services, make_app, make_metrics_app
from preflight import Host, findings
from provider.embedded import Library
from reload import Reload
from telemetry import log as logs
from telemetry.tracing import tracing
from wiring import VERSION, live_router, wired

if TYPE_CHECKING:
    from telemetry.traces import Traces

HERE: Final = Path(__file__).parent
# tiktoken looks here before it would ask the network.
os.environ["TIKTOKEN_CACHE_DIR"] = str(HERE / "tokens")
log: Final = logging.getLogger("sluice.server")

# After drain_s has passed, what is left gets this long to hear of it.
_FAREWELL_S: Final = 2.0
_GC_ALLOCATIONS: Final = 10_000


def main(argv: list[str] | None = None) -> int:
    """Run a command; the process's exit code."""
    options = commands.options(argv, description=__doc__, version=VERSION, here=HERE)
    try:
        if options.command == "check":
            load = partial(_load, options)
            return commands.check(options, load, _host(), live_router)
        config = _load(options)
        if options.command == "audit":
            return audit_view.show(config.audit, options)
        if options.command == "config":
            return commands.show(config)
        traced = tracing(_environment(options))
        if options.command == "keys":
            return commands.manage_keys(config, options)
        library = _library(config, options)
        colour = not os.environ.get("NO_COLOR")
        logs.configure(config.log.level, config.log.format, colour=colour)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(config, library, options, traced))
    except ConfigError as fault:
        print(f"sluice: {fault}", file=sys.stderr)
        return 1
    return 0


def _load(options: argparse.Namespace) -> Config:
    return config_loader.load(
        options.config, _environment(options), keyless=options.command in ("replay", "audit")
    )


def _host() -> Host:
    return Host(
        on_platform="DYNO" in os.environ,
        python=platform.python_version(),
        uvloop=_loop_factory() is not None,
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def _environment(options: argparse.Namespace) -> Mapping[str, str]:
    """The environment over .env."""
    environment = dict(os.environ)
    if "DYNO" not in environment:  # .env is for development, not for a platform
        file = {k: v for k, v in dotenv_values(options.config.parent / ".env").items() if v}
        environment = {**file, **environment}
        # OpenTelemetry's SDK reads the process's own.
        os.environ |= {k: v for k, v in environment.items() if k.startswith("OTEL_")}
    return environment


def _library(config: Config, options: argparse.Namespace) -> Library | None:
    """The recordings to answer from, or None where a real provider answers."""
    if options.command == "record":
        if not config.provider.api_key:
            raise ConfigError("record needs a provider: set OPENAI_API_KEY (and OPENAI_BASE_URL)")
        if not options.cassette.parent.is_dir():
            raise ConfigError(f"{options.cassette.parent}: is not a folder")
        if options.cassette.exists():
            raise ConfigError(f"{options.cassette}: exists already; remove it to record anew")
    if not config.replays:
        return None
    return Library.open(options.cassette or config.replay.cassettes)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it installs; it has no wheel for Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


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


async def _serve(
    config: Config,
    library: Library | None,
    options: argparse.Namespace,
    make_traces: "Callable[[str], Traces] | None",
) -> None:
    async with wired(config, library, options.cassette, make_traces) as services:
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
        reload = Reload(services, load=partial(_load, options), swap=swap, sleep=asyncio.sleep)
        _on_signals(stopped, reload)
        for each in findings(config, _host()):
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
    admission = services.gate.admission
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


if __name__ == "__main__":
    sys.exit(main())
