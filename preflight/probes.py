"""Probes: what a preflight has to try out, by asking, reading or writing.

Without `--live` only what belongs to this server is touched: its files and its Redis. With it the
provider is asked for one token by each of its models, and the address of token keys for the keys.

Rules of this module:

- A probe ends in a finding, whatever happens, within seconds.
- It goes the way that a call would go: the same client, the same translation of failures.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from call import Attempt, Call
from config import AuthConfig, Config, StoreConfig, Target
from errors import CallError, ConfigError
from guards.auth import key_file
from guards.auth.factory import make_authenticator
from preflight.checks import Finding, targets
from prices import known_price
from provider.diagnosis import diagnose
from provider.replay.library import Library
from provider.router import Router
from store.redis import connection

_TIMEOUT_S: Final = 5.0


async def local(config: Config) -> AsyncIterator[Finding]:
    """What belongs to this server."""
    if config.replays:
        yield _recordings(config)
    if config.auth.mode in ("keys", "jwt"):
        yield _credentials(config)
    if config.audit.destination not in ("", "stdout"):
        yield _audit(Path(config.audit.destination))
    yield await _redis(config.store)


async def live(config: Config, router: Router | None) -> AsyncIterator[Finding]:
    """What others have to say: each model, and the keys of tokens."""
    if config.auth.jwt_jwks.startswith(("http://", "https://")):
        yield await _key_set(config.auth)
    if config.replays:
        found = "no key is set, so there is no provider to ask"
        yield Finding("fail", "live", found, f"{config.provider.api_key_variable}=…")
        return
    assert router is not None
    for target in targets(config):
        yield await _model(target, config, router)


def _recordings(config: Config) -> Finding:
    path = config.replay.cassettes
    try:
        scenarios = len(Library.open(path).failures)
    except ConfigError as fault:
        return Finding("fail", "recordings", str(fault), "SLUICE_REPLAY_CASSETTES=…")
    return Finding("ok", "recordings", f"{path.name} can be read, with {scenarios} failures")


def _credentials(config: Config) -> Finding:
    try:
        make_authenticator(
            config.auth,
            config.limit_caller,
            clock=time.monotonic,
            wall_clock=time.time,
            first_use=_never_used,
        )
    except ConfigError as fault:
        return Finding("fail", "credentials", str(fault))
    if config.auth.mode == "jwt":
        return Finding("ok", "credentials", f"tokens signed with {config.auth.jwt_algorithm}")
    count = len(key_file.names(config.auth.keys_file))
    return Finding("ok", "credentials", f"{config.auth.keys_file.name} holds {count} keys")


def _audit(path: Path) -> Finding:
    if path.is_dir():
        return Finding("fail", "audit", f"{path} is a folder", "SLUICE_AUDIT_DESTINATION=…")
    if os.access(path if path.exists() else path.parent, os.W_OK):
        return Finding("ok", "audit", f"samples go to {path}")
    return Finding("fail", "audit", f"{path} cannot be written", "SLUICE_AUDIT_DESTINATION=…")


async def _never_used(name: str, ttl_s: float) -> bool:
    return True


async def _redis(config: StoreConfig) -> Finding:
    if not config.redis_url:
        return Finding("ok", "redis", "none: limits are counted by each process for itself")
    try:
        redis = connection(config)
    except ConfigError as fault:
        return Finding("fail", "redis", str(fault), "REDIS_URL=…")
    where = urlsplit(config.redis_url)
    began = time.monotonic()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await redis.ping()
            took_ms = (time.monotonic() - began) * 1000
            memory = await redis.info("memory")
    except Exception as error:  # of redis-py, of TLS, of sockets; whichever, it is down
        return redis_down(f"{where.hostname}:{where.port or 6379}", error)
    finally:
        await redis.aclose()
    found = f"answers in {took_ms:.0f} ms; while it is down calls {_POLICY[config.on_failure]}"
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and memory.get("maxmemory"):
        found = f"may forget counts when it is full: maxmemory-policy is {policy}"
        return Finding("warn", "redis", found, "maxmemory-policy noeviction (in Redis)")
    return Finding("ok", "redis", found)


_POLICY: Final = {"open": "are counted by each process", "closed": "are answered 503"}


def redis_down(where: str, error: Exception) -> Finding:
    chain = f"{error!r} {error.__cause__!r}"
    if "CERTIFICATE_VERIFY_FAILED" in chain:
        found = f"{where} has a certificate that nobody here vouches for"
        return Finding("fail", "redis", found, "REDIS_URL=rediss://…?ssl_cert_reqs=none")
    if "Authentication" in type(error).__name__ or "NOAUTH" in chain:
        return Finding("fail", "redis", f"{where} refuses the password", "REDIS_URL=redis://:…@…")
    kind = "does not answer in time" if isinstance(error, TimeoutError) else "cannot be reached"
    return Finding("fail", "redis", f"{where} {kind} ({type(error).__name__})", "REDIS_URL=…")


async def _key_set(config: AuthConfig) -> Finding:
    from guards.auth.jwks import (
        KeySet,  # with it comes the cryptography, which other modes do not need
    )

    try:
        await KeySet(config.jwt_jwks, config.jwt_algorithm, clock=time.monotonic).key("preflight")
    except CallError as error:
        if error.code == "overloaded":
            found = f"no keys at {config.jwt_jwks}"
            return Finding("fail", "token keys", found, "SLUICE_AUTH_JWT_JWKS=…")
    return Finding("ok", "token keys", f"read from {config.jwt_jwks}")


async def _model(target: Target, config: Config, router: Router) -> Finding:
    """Ask for one token, as a call would."""
    now = asyncio.get_running_loop().time()
    call = Call("preflight", "check", started=now, deadline=now + config.provider.attempt_s)
    call.timeline = [Attempt(target, now)]
    call.messages = [{"role": "user", "content": "Hi"}]
    call.max_tokens = 1
    check = f"{target.provider}/{target.model}"
    began = time.monotonic()
    try:
        provider = router.providers[target.provider]
        await provider.complete(call, target.model, provider.config.attempt_s)
    except CallError as error:
        if error.code == "prompt_rejected":
            return Finding("warn", check, "took the key, but refuses an answer of one token")
        diagnosis = diagnose(error, target, config.providers[target.provider])
        if diagnosis:
            return Finding("fail", check, *diagnosis)
        section = "provider" if target.provider == "default" else f"provider:{target.provider}"
        return Finding("fail", check, f"failed: {error.reason}", f"[{section}] base_url")
    cost = known_price(target.model)
    spent = f"about ${cost.usd(8, 1):.7f}" if cost else "a price that is not known"
    return Finding("ok", check, f"answered in {time.monotonic() - began:.1f} s; it cost {spent}")
