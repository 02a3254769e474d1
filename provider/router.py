"""The providers of this server, and the order in which a call's model asks them.

Which attempts follow which is `provider.retry`'s; what one attempt is, `provider.client`'s.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from call import Call
from config import Config, Target
from provider.circuit import Circuit
from provider.client import Provider
from provider.completion import Completion
from provider.retry import Retry
from provider.stream import ChatStream


class Router:
    """All providers, by name.

    Args:
        clock: seconds on the event loop's clock.
        sleep: coroutine function that waits so many seconds.
        random: a number from 0 to 1, uniformly.
    """

    def __init__(
        self,
        config: Config,
        providers: Mapping[str, Provider],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        self._models = config.models
        self._providers = providers
        self.circuits: Mapping[str, Circuit] = {
            name: provider.circuit for name, provider in providers.items()
        }
        self.retry = Retry(config.retry, self.circuits, clock=clock, sleep=sleep, random=random)

    async def aclose(self) -> None:
        for provider in self._providers.values():
            await provider.aclose()

    @property
    def all_open(self) -> bool:
        """Whether no provider may be asked."""
        return all(circuit.state == "open" for circuit in self.circuits.values())

    async def complete(self, call: Call) -> Completion:
        """The whole answer.

        Raises:
            CallError: see `errors.OUTCOMES`.
        """

        async def attempt(target: Target, within_s: float) -> Completion:
            provider = self._providers[target.provider]
            return await provider.complete(call, target.model, within_s)

        return await self.retry.run(call, self._models[call.model].upstream, attempt)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[ChatStream]:
        """The answer as it comes, positioned at its first content. Leaving closes the socket.

        Raises:
            CallError: before the body of the `async with` begins; see also `ChatStream`.
        """

        async def attempt(target: Target, within_s: float) -> ChatStream:
            provider = self._providers[target.provider]
            return await provider.stream(call, target.model, within_s)

        stream = await self.retry.run(call, self._models[call.model].upstream, attempt)
        try:
            yield stream
        finally:
            await stream.aclose()
