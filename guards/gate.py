"""The gate: every guard, in the order in which a call meets them.

    authentication ─► a place in flight ─► redaction ─► token budget ─► limits ─► the provider

What costs least stands first, and what a refusal has to give back stands last.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from call import Call
from config import Config
from guards.admission import Admission
from guards.auth import Authenticator, make_authenticator
from guards.idempotency import Replies
from guards.limits import Limits
from guards.redaction import Redactor, Restorer
from guards.single_use import SingleUse
from guards.tokens import counter, weigh
from prices import price_list
from store import Store

_THREAD_FROM_CHARACTERS: Final = 32_768


@dataclass(frozen=True, slots=True)
class Gate:
    """The guards of this server."""

    config: Config
    auth: Authenticator
    admission: Admission
    redactor: Redactor
    limits: Limits
    replies: Replies
    store: Store | None

    @classmethod
    def build(
        cls,
        config: Config,
        store: Store | None,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> "Gate":
        """The guards as configured.

        Args:
            clock: seconds on the event loop's clock.
            wall_clock: seconds since the epoch, for what processes share and tokens say.

        Raises:
            ConfigError: keys or tokens cannot be checked as configured.
        """
        for model in (config.chat.model, *config.chat.models):
            counter(model)  # a table takes 0.3 s to load: now, not in the first call
        single_use = SingleUse(store, clock=clock)
        return cls(
            config=config,
            auth=make_authenticator(
                config.auth,
                config.limit_caller,
                clock=clock,
                wall_clock=wall_clock,
                first_use=single_use.first_use,
            ),
            admission=Admission(config.server.max_in_flight),
            redactor=Redactor(config.redaction),
            limits=Limits(config, store, clock=wall_clock, price=price_list(config.chat)),
            replies=Replies(config.idempotency, store, clock=clock, sleep=sleep),
            store=store,
        )

    async def aclose(self) -> None:
        await self.limits.aclose()
        if self.store is not None:
            await self.store.aclose()

    @property
    def store_state(self) -> str:
        """memory, redis or down."""
        return "memory" if self.store is None else "redis" if self.store.up else "down"

    @property
    def passable(self) -> bool:
        """Whether calls may pass as far as the store goes."""
        return self.store is None or self.store.up or self.store.fail_open

    async def admit(self, call: Call) -> Restorer | None:
        """Let this call pass, with its words redacted and the most it may cost reserved.

        Returns:
            what puts the redacted values back into the answer, where that is wanted.

        Raises:
            CallError: 413, 422, 429 or 503.
        """
        first = call.messages[0]["role"] == "system"  # the operator's own words
        said = call.messages[first:]
        if sum(len(message["content"]) for message in said) < _THREAD_FROM_CHARACTERS:
            redacted = self.redactor.redact(said)
        else:
            redacted = await asyncio.to_thread(self.redactor.redact, said)
        call.messages[first:], call.redactions = redacted.messages, redacted.counts
        await weigh(call, self.config.chat.max_prompt_tokens)
        await self.limits.reserve(call)
        return redacted.restorer

    def leave(self, call: Call) -> None:
        """Settle what was reserved, and free the place."""
        self.limits.settle(call)
        self.admission.leave(call)
