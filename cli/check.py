"""`python server.py check`: what would go wrong is told before it does."""

import argparse
import asyncio
from collections.abc import Callable, Mapping

from app.wiring import live_router
from config import Config
from errors import ConfigError
from preflight import checks as preflight
from preflight import probes
from preflight.checks import Finding, Host
from telemetry.tracing.env import tracing
from version import VERSION


def check(
    asked: argparse.Namespace,
    load: Callable[[], Config],
    host: Host,
    environment: Mapping[str, str],
) -> int:
    """Tell what would go wrong; the exit code.

    Args:
        load: reads the settings.
        environment: what OpenTelemetry's variables are in.
    """
    try:
        found = asyncio.run(_findings(asked, load(), host))
        found.append(_traces(environment))
    except ConfigError as fault:
        found = [Finding("fail", "configuration", str(fault))]
    print(preflight.as_json(found) if asked.json else preflight.as_table(found))
    return 1 if preflight.worst(found) == "fail" else 0


async def _findings(
    asked: argparse.Namespace,
    config: Config,
    host: Host,
) -> list[Finding]:
    found = [Finding("ok", "configuration", str(asked.config))]
    found += preflight.findings(config, host)
    found += [each async for each in probes.local(config)]
    if asked.live:
        router = None if config.replays else live_router(config)
        try:
            found += [each async for each in probes.live(config, router)]
        finally:
            if router is not None:
                await router.aclose()
    return found


def _traces(environment: Mapping[str, str]) -> Finding:
    try:
        made = tracing(environment)
        if made:
            made(VERSION).close()
    except ConfigError as fault:
        return Finding("fail", "traces", str(fault))
    return Finding("ok", "traces", "are sent as OTLP" if made else "none are asked for")
