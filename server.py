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
import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dotenv import dotenv_values

from cli import audit as audit_view
from cli import parser as commands
from config import Config, loader
from config.platforms import platform_of
from errors import ConfigError
from telemetry.logging import setup as logs
from telemetry.tracing.env import tracing
from version import VERSION

if TYPE_CHECKING:
    from preflight.checks import Host

HERE: Final = Path(__file__).parent
# tiktoken looks here before it would ask the network.
os.environ["TIKTOKEN_CACHE_DIR"] = str(HERE / "tokens")

_SWITCH_S: Final = 0.0005


def main(argv: list[str] | None = None) -> int:
    """Run a command; the process's exit code."""
    options = commands.options(argv, description=__doc__, version=VERSION, here=HERE)
    load = partial(_load, options)
    try:
        if options.command == "check":
            # Here and below, for the SDK alone takes longer to load than other commands to run.
            from cli.check import check

            return check(options, load, _host(), _environment(options))
        config = load()
        if options.command == "audit":
            return audit_view.show(config.audit, options)
        if options.command == "config":
            return commands.show(config)
        if options.command == "keys":
            return commands.manage_keys(config, options)
        traced = tracing(_environment(options))
        if options.command == "record":
            _check_recording(config, options.cassette)
        logs.configure(config.log.level, config.log.format, colour=not os.environ.get("NO_COLOR"))
        from app.serving import serve

        # A thread that redacts a long prompt holds Python's lock for so long at a time, and a call
        # waits for it at every read: by default 5 ms each.
        sys.setswitchinterval(_SWITCH_S)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(
                serve(config, _host(), load=load, cassette=options.cassette, traces_factory=traced)
            )
    except ConfigError as fault:
        print(f"sluice: {fault}", file=sys.stderr)
        return 1
    return 0


def _load(options: argparse.Namespace) -> Config:
    return loader.load(
        options.config, _environment(options), ignore_keys=options.command in ("replay", "audit")
    )


def _environment(options: argparse.Namespace) -> Mapping[str, str]:
    """The environment over .env."""
    environment = dict(os.environ)
    if platform_of(environment) is None:  # .env is for development, not for a platform
        file = {k: v for k, v in dotenv_values(options.config.parent / ".env").items() if v}
        environment = {**file, **environment}
        # OpenTelemetry's SDK reads the process's own.
        os.environ |= {k: v for k, v in environment.items() if k.startswith("OTEL_")}
    return environment


def _check_recording(config: Config, cassette: Path) -> None:
    if not config.provider.api_key:
        raise ConfigError("record needs a provider: set OPENAI_API_KEY (and OPENAI_BASE_URL)")
    if not cassette.parent.is_dir():
        raise ConfigError(f"{cassette.parent}: is not a folder")
    if cassette.exists():
        raise ConfigError(f"{cassette}: exists already; remove it to record anew")


def _host() -> "Host":
    from preflight.checks import Host

    return Host(
        on_platform=platform_of(os.environ) is not None,
        python=platform.python_version(),
        uvloop=_loop_factory() is not None,
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it installs; it has no wheel for Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
