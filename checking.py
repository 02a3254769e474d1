"""`python server.py check`: what would go wrong is told before it does."""

import argparse
import asyncio
from collections.abc import Callable

import preflight
import probes
from config import Config
from errors import ConfigError
from preflight import Finding, Host
from wiring import live_router


def check(
    asked: argparse.Namespace,
    load: Callable[[], Config],
    host: Host,
) -> int:
    """Tell what would go wrong; the exit code."""
    try:
        found = asyncio.run(_findings(asked, load(), host))
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
        router = live_router(config)
        found += [each async for each in probes.live(config, router)]
        await router.aclose()
    return found
