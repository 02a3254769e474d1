"""The providers of this server, and the order in which a call's model asks them.

Which attempts follow which is `provider.retry`'s; what one attempt is, `provider.client`'s.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from copy import copy

from call import Call
from config import CircuitConfig, Config, ProviderConfig, Target
from errors import CallError
from provider.circuit import Circuit
from provider.client import Provider
from provider.diagnosis import Notices
from provider.dialects.openai_chat import Completion
from provider.retry import Retry
from provider.stream import ChatStream

MakeProvider = Callable[[str, ProviderConfig, Circuit], Provider]


class Router:
    """The providers that models use, by name.

    Args:
        make: a provider by this name, with these settings and this circuit.
        clock: seconds on the event loop's clock.
        sleep: coroutine function that waits so many seconds.
        random: a number from 0 to 1, uniformly.
    """

    def __init__(
        self,
        config: Config,
        make: MakeProvider,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        self._models = config.models
        self._make = make
        self._clock = clock
        self._notices = Notices(clock)
        self.providers: Mapping[str, Provider] = {
            name: make(name, provider, Circuit(name, config.circuit, clock))
            for name, provider in config.used_providers.items()
        }
        self.retry = Retry(config.retry, self.circuits, clock=clock, sleep=sleep, random=random)

    def reconfigured(self, config: Config) -> "Router":
        """A router by these settings; see `commit`. What is the same goes on: providers with
        their connections, circuits by their name, the retry budget."""
        router = copy(self)
        router._models = config.models
        router.providers = {
            name: self._kept(name, provider)
            or self._make(name, provider, self._circuit(name, config.circuit))
            for name, provider in config.used_providers.items()
        }
        return router

    def commit(self, config: Config, former: "Router") -> list[Provider]:
        """Take the place of `former`; its providers that are no longer asked, to be closed once
        their calls have ended."""
        self.retry.reconfigure(config.retry, self.circuits)
        for name, circuit in self.circuits.items():
            circuit.config = config.circuit
            before = former.providers.get(name)
            if before is None or not self.providers[name].is_same(before):
                circuit.reset()
        return [
            provider
            for name, provider in former.providers.items()
            if self.providers.get(name) is not provider
        ]

    def _kept(self, name: str, config: ProviderConfig) -> Provider | None:
        provider = self.providers.get(name)
        return provider if provider is not None and provider.config == config else None

    def _circuit(self, name: str, config: CircuitConfig) -> Circuit:
        return self.retry.circuits.get(name) or Circuit(name, config, self._clock)

    @contextmanager
    def _noting(self, target: Target, provider: Provider) -> Iterator[None]:
        """Write a line for the operator where an attempt fails by what he can fix."""
        try:
            yield
        except CallError as error:
            self._notices.note(error, target, provider.config)
            raise

    async def aclose(self) -> None:
        for provider in self.providers.values():
            await provider.aclose()

    @property
    def circuits(self) -> dict[str, Circuit]:
        return {name: provider.circuit for name, provider in self.providers.items()}

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
            provider = self.providers[target.provider]
            with self._noting(target, provider):
                return await provider.complete(call, target.model, within_s)

        return await self.retry.run(call, self._models[call.model].upstream, attempt)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[ChatStream]:
        """The answer as it comes, positioned at its first content. Leaving closes the socket.

        Raises:
            CallError: before the body of the `async with` begins; see also `ChatStream`.
        """

        async def attempt(target: Target, within_s: float) -> ChatStream:
            provider = self.providers[target.provider]
            with self._noting(target, provider):
                return await provider.stream(call, target.model, within_s)

        stream = await self.retry.run(call, self._models[call.model].upstream, attempt)
        try:
            yield stream
        finally:
            await stream.aclose()
