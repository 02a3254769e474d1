"""Preflight: what would go wrong in production, told before it does.

    ok    descriptors   1048576; 200 calls in flight need about 500
    warn  limits        everybody may call, and no limit is set
                        → SLUICE_LIMIT_TOTAL_USD_PER_DAY=20

Rules of this module:

- A check is a function of the settings and of what is known of the host; it asks nobody. What
  has to be tried out is in probes.py.
- fail: the server would not start, or not work. warn: it would, but hardly as was meant.
- Who is told of a fault is told the line that mends it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final, Literal

from config import Config, Target
from prices import known_price

_ROUTER_KEEPS_S: Final = 90
_ROUTER_SILENCE_S: Final = 55
_KILLED_AFTER_S: Final = 30
# At worst: 2 to hear of the end, 2 for the audit, 1 for traces, 1 for the log.
_FAREWELL_S: Final = 6
# Listening, logs, Redis, the event loop, and clients between two calls.
_OTHER_DESCRIPTORS: Final = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check."""

    level: Literal["ok", "warn", "fail"]
    check: str
    found: str
    mend: str = ""
    """The line to change."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where the server runs."""

    on_platform: bool
    """Behind the router of one of `platforms.PLATFORMS`."""
    python: str
    uvloop: bool
    descriptors: int
    """The soft limit of open files."""


def findings(config: Config, host: Host) -> Iterator[Finding]:
    """What the settings alone tell."""
    yield _provider_key(config, host)
    yield from _timers(config, host)
    yield _access(config)
    yield _router(config, host)
    yield _limits(config)
    yield _prices(config)
    yield _descriptors(config, host)
    yield _runtime(host)


def targets(config: Config) -> list[Target]:
    """Every model of a provider that calls may come to."""
    return list(dict.fromkeys(each for model in config.models.values() for each in model.upstream))


def _provider_key(config: Config, host: Host) -> Finding:
    if not config.replays:
        names = dict.fromkeys(target.provider for target in targets(config))
        return Finding("ok", "provider", ", ".join(f"{name} has a key" for name in names))
    found = f"no key: the recordings in {config.replay.cassettes.name} answer"
    if host.on_platform:
        return Finding("warn", "provider", found, "OPENAI_API_KEY=…")
    return Finding("ok", "provider", found)


def _timers(config: Config, host: Host) -> Iterator[Finding]:
    server, provider = config.server, config.provider
    yield Finding(
        "ok",
        "deadline",
        f"{provider.deadline_s:g} s; the router gives up after {server.platform_timeout_s:g} s",
    )
    found = f"{server.heartbeat_s:g} s; routers cut a stream silent for {_ROUTER_SILENCE_S} s"
    quiet = server.heartbeat_s >= _ROUTER_SILENCE_S
    yield _warn_unless(not quiet, "heartbeat", found, "SLUICE_SERVER_HEARTBEAT_S=15")
    late = server.drain_s > _KILLED_AFTER_S - _FAREWELL_S
    found = f"{server.drain_s:g} s for calls in flight; killed {_KILLED_AFTER_S} s after SIGTERM"
    yield _warn_unless(not late, "drain", found, "SLUICE_SERVER_DRAIN_S=23")
    short = host.on_platform and server.idle_connection_s <= _ROUTER_KEEPS_S
    found = f"{server.idle_connection_s:g} s; the router keeps its own {_ROUTER_KEEPS_S} s"
    yield _warn_unless(not short, "keep-alive", found, "SLUICE_SERVER_IDLE_CONNECTION_S=95")


def _access(config: Config) -> Finding:
    where = config.host or "every interface"
    who = {"none": "everybody who is on this machine", "public": "everybody"}.get(
        config.auth.mode, f"who has one of the {config.auth.mode}"
    )
    return Finding("ok", "access", f"{who} may call; listens on {where}")


def _router(config: Config, host: Host) -> Finding:
    hops = config.server.trusted_hops
    found = f"{hops} in front are believed" if hops else "none; a client is who connects"
    good = bool(hops) or not host.on_platform
    return _warn_unless(good, "routers", found, "SLUICE_SERVER_TRUSTED_HOPS=1")


def _limits(config: Config) -> Finding:
    scopes = {"each address": config.limit_ip, "all together": config.limit_total}
    if config.auth.mode in ("keys", "jwt"):
        scopes = {"each caller": config.limit_caller, **scopes}
    limited = [name for name, limit in scopes.items() if any(asdict(limit).values())]
    found = f"of {', of '.join(limited)}" if limited else "none is set"
    good = bool(limited) or config.auth.mode == "none"
    return _warn_unless(good, "limits", found, "SLUICE_LIMIT_TOTAL_USD_PER_DAY=20")


def _prices(config: Config) -> Finding:
    unknown = [
        name
        for name, model in config.models.items()
        if not (model.input_usd_per_million or model.output_usd_per_million)
        and not all(known_price(target.model) for target in model.upstream)
    ]
    limits = (config.limit_caller, config.limit_ip, config.limit_total)
    if not unknown:
        return Finding("ok", "prices", "known for every model")
    found = f"not known for {', '.join(unknown)}"
    if not any(limit.usd_per_day for limit in limits):
        return Finding("ok", "prices", f"{found}; no limit is in dollars")
    mend = f"[model:{unknown[0]}] input_usd_per_million and output_usd_per_million in config.ini"
    return Finding("warn", "prices", f"{found}: usd_per_day does not count it", mend)


def _descriptors(config: Config, host: Host) -> Finding:
    calls = config.server.max_in_flight
    need = 2 * calls + _OTHER_DESCRIPTORS  # a client's connection and the provider's
    found = f"{host.descriptors} files may be open; {calls} calls in flight need about {need}"
    level: Literal["ok", "fail"] = "ok" if host.descriptors >= need else "fail"
    most = max(1, (host.descriptors - _OTHER_DESCRIPTORS) // 2)
    mend = f"ulimit -n {need}, or SLUICE_SERVER_MAX_IN_FLIGHT={most}"
    return Finding(level, "descriptors", found, "" if level == "ok" else mend)


def _runtime(host: Host) -> Finding:
    found = f"Python {host.python}, {'uvloop' if host.uvloop else 'asyncio (no uvloop: slower)'}"
    return _warn_unless(host.uvloop, "runtime", found, "pip install uvloop")


def _warn_unless(good: bool, check: str, found: str, mend: str) -> Finding:
    return Finding("ok", check, found) if good else Finding("warn", check, found, mend)


def as_table(found: Iterable[Finding]) -> str:
    """For a terminal."""
    rows = list(found)
    width = max(len(row.check) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.level:<4}  {row.check:<{width}}  {row.found}")
        if row.mend:
            lines.append(f"{'':{width + 8}}→ {row.mend}")
    return "\n".join(lines)


def as_json(found: Iterable[Finding]) -> str:
    """For a pipeline."""
    rows = list(found)
    return json.dumps({"level": worst(rows), "checks": [asdict(row) for row in rows]}, indent=2)


def worst(found: Iterable[Finding]) -> str:
    """The most serious level of all."""
    levels = {row.level for row in found}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"
