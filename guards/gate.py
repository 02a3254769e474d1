"""The gate: the guards of this server, made and changed together.

calls/exchange.py says in which order a call passes them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from call import Call, Caller
from config import Config
from guards.auth.base import Authenticator
from guards.auth.factory import make_authenticator
from guards.auth.single_use import SingleUse
from guards.limits.limits import Limits
from guards.redaction.fields import THREAD_FROM_WORK, places, work
from guards.redaction.redactor import Redactor
from guards.redaction.restorer import AnswerRestorer
from guards.tokens import count_prompt, warm_up
from prices import Prices
from store.redis import Store


@dataclass(frozen=True, slots=True)
class Gate:
    """The guards of this server."""

    config: Config
    make_auth: Callable[[Config], Authenticator]
    auth: Authenticator
    redactor: Redactor
    limits: Limits
    store: Store | None

    @classmethod
    def build(
        cls,
        config: Config,
        store: Store | None,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        prices: Prices,
    ) -> "Gate":
        """The guards as configured.

        Args:
            clock: seconds on the event loop's clock.
            wall_clock: seconds since the epoch, for what processes share and tokens say.

        Raises:
            ConfigError: keys or tokens cannot be checked as configured.
        """
        warm_up(config)
        single_use = SingleUse(store, clock=clock)

        def make_auth(config: Config) -> Authenticator:
            return make_authenticator(
                config.auth,
                config.limit_caller,
                clock=clock,
                wall_clock=wall_clock,
                first_use=single_use.first_use,
            )

        return cls(
            config=config,
            make_auth=make_auth,
            auth=make_auth(config),
            redactor=Redactor(config.redaction),
            limits=Limits(config, store, clock=wall_clock, prices=prices),
            store=store,
        )

    def reconfigured(self, config: Config) -> "Gate":
        """The guards by these settings; see `commit`.

        Raises:
            ConfigError: keys or tokens cannot be checked as configured.
        """
        same = config.auth == self.config.auth and config.limit_caller == self.config.limit_caller
        auth = self.auth if same else self.make_auth(config)
        return replace(self, config=config, auth=auth, redactor=Redactor(config.redaction))

    def commit(self) -> None:
        """Tell the settings to what is shared with the gate before, whose calls are still on."""
        self.limits.configure(self.config)

    async def aclose(self) -> None:
        await self.limits.aclose()
        if self.store is not None:
            await self.store.aclose()

    @property
    def store_state(self) -> str:
        """memory, redis or down."""
        return "memory" if self.store is None else "redis" if self.store.up else "down"

    @property
    def accepting(self) -> bool:
        """Whether calls may pass as far as the store goes."""
        return self.store is None or self.store.up or self.store.fail_open

    def models_for(self, caller: Caller) -> list[str]:
        """The models that this caller may ask; the first is the default."""
        models = self.config.models
        return [
            name
            for name in caller.models or models
            if name in models and (not models[name].callers or caller.name in models[name].callers)
        ]

    async def redact_and_reserve(self, call: Call) -> AnswerRestorer | None:
        """Redact the prompt, count it, and reserve the most that the call may cost.

        What a refusal has to give back comes last.

        Returns:
            what puts the redacted values back into the answer, where that is wanted.

        Raises:
            CallError: 413, 422, 429 or 503.
        """
        said = call.messages[call.operator_messages :]
        values = [*said, call.options] if call.options else said
        if work(places(values)) < THREAD_FROM_WORK:
            redacted = self.redactor.redact(values)
        else:
            redacted = await asyncio.to_thread(self.redactor.redact, values)
        call.redactions = redacted.counts
        model = self.config.models[call.model]
        await count_prompt(call, model.upstream[0].model, model.max_prompt_tokens)
        await self.limits.reserve(call)
        return AnswerRestorer(redacted.restored) if redacted.restored else None
