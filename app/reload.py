"""Reload: on SIGHUP the settings are read again, and come into force whole or not at all.

    read ─► build ─► swap        a fault on the way is one line in the log, and nothing has changed

Rules of this module:

- What may fail or takes long comes before the swap, reading and tables in a thread. The swap
  waits for nothing and cannot fail, so no request sees half of it.
- A call ends with the settings it began with; the next request has the new ones.
- What was counted goes on: limits, circuits, the retry budget, kept replies, calls in flight.
- What cannot change while the process runs stays, and the log names it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from typing import Final

from config import Config, loader
from errors import ConfigError
from guards.tokens import warm_up
from handlers import Services
from provider.client import Provider
from schemas.settings import settings
from telemetry.logging.setup import set_level

log: Final = logging.getLogger("sluice.reload")

_NEEDS_RESTART: Final = [(section, key) for section, key, rule in settings() if rule.get("restart")]


class Reload:
    """Keeps a running server at what its settings say.

    Args:
        load: reads the settings.
        swap: makes the next request meet these services.
        sleep: coroutine function that waits so many seconds.
    """

    def __init__(
        self,
        services: Services,
        *,
        load: Callable[[], Config],
        swap: Callable[[Services], None],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.services = services
        """Those in force."""
        self._load = load
        self._swap = swap
        self._sleep = sleep
        self._host = services.config.host
        self._asked = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    def ask(self) -> None:
        """Read the settings again, soon."""
        self._asked.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do what is asked for; at the end close what came with it."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            for each in (task, *self._closing):
                each.cancel()
            await asyncio.gather(task, *self._closing, return_exceptions=True)
            await self.services.router.aclose()

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._reload()
            except ConfigError as fault:
                log.error("reload_failed", extra={"fault": str(fault)})
            except Exception:  # the next file may be a better one
                log.exception("reload_failed")

    async def _reload(self) -> None:
        before = self.services
        read = await asyncio.to_thread(self._load)
        config = self._fitted(read)
        await asyncio.to_thread(warm_up, config)
        gate = before.gate.reconfigured(config)
        router = before.router.reconfigured(config)
        # From here on nothing waits and nothing fails.
        retired = router.commit(config, before.router)
        gate.commit()
        before.admission.max_in_flight = config.server.max_in_flight
        before.replies.config = config.idempotency
        before.prices.configure(config.models)
        self.services = replace(before, config=config, gate=gate, router=router)
        self._swap(self.services)
        set_level(config.log.level)
        log.info(
            "reloaded",
            extra={
                "changed": list(_differences(before.config, config)),
                "needs_restart": list(_differences(config, read)) or None,
            },
        )
        for provider in retired:
            closing = asyncio.create_task(self._close(provider))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _fitted(self, read: Config) -> Config:
        """These settings, as far as they can change while the process runs.

        Raises:
            ConfigError: the rest would be unsafe without what cannot.
        """
        now = self.services.config
        if read.replays != now.replays:
            turn = (
                "has no key any more: replaying begins"
                if read.replays
                else "has a key now: replaying ends"
            )
            raise ConfigError(f"[provider] {turn} with a restart only")
        if self.services.mode == "record" and read.provider != now.provider:
            raise ConfigError("[provider]: stays what it is while its answers are recorded")
        loader.check_exposure(read, self._host)
        for section, key in _NEEDS_RESTART:
            own = replace(getattr(read, section), **{key: getattr(getattr(now, section), key)})
            read = replace(read, **{section: own})
        return read

    async def _close(self, provider: Provider) -> None:
        """Let go of this provider when no call can be using it any more."""
        try:
            await self._sleep(provider.config.deadline_s + provider.config.stream_s)
        finally:
            await provider.aclose()


def _differences(one: Config, other: Config) -> Iterator[str]:
    """The settings that are not the same in both."""
    for section in (field.name for field in fields(Config)):
        before, after = getattr(one, section), getattr(other, section)
        if isinstance(before, Mapping):
            for name in {**before, **after}:
                if name != "default" and before.get(name) != after.get(name):
                    yield f"[{section.removesuffix('s')}:{name}]"
        else:
            for key in before.__slots__:
                if getattr(before, key) != getattr(after, key):
                    yield f"[{section}] {key}"
