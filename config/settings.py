"""The settings in force: all sections, providers and models by name, and what follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from config.sections import ModelSection, ProviderConfig, Sections

# What gpt-4o-mini can: a request to it for more would be refused.
_MOST_REQUESTED_TOKENS: Final = 16_384


@dataclass(frozen=True, slots=True)
class ModelConfig(ModelSection):
    """A model that requests may name; from [model:NAME], and [chat] for the rest."""

    @property
    def most_requested_tokens(self) -> int:
        """The longest answer, in tokens, that a request may ask for."""
        return self.max_tokens_limit or max(_MOST_REQUESTED_TOKENS, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Config(Sections):
    """Every setting, and what follows from them. Immutable; made by `loader.load`."""

    providers: Mapping[str, ProviderConfig]
    """By name; [provider] is `default`."""
    models: Mapping[str, ModelConfig]
    """By the name that requests give; the first is the default."""

    @property
    def used_providers(self) -> dict[str, ProviderConfig]:
        """Those that a model has in its upstream. The others need no key, and are not called."""
        used = {target.provider for model in self.models.values() for target in model.upstream}
        return {name: each for name, each in self.providers.items() if name in used}

    @property
    def replays(self) -> bool:
        """Whether there is no provider to ask, but only recordings."""
        return not any(provider.api_key for provider in self.providers.values())

    @property
    def openai_routes(self) -> bool:
        """Whether /v1 is there, after the rule of [openai] routes."""
        routes = self.openai.routes
        return routes == "on" or (routes == "auto" and self.auth.mode != "public")

    @property
    def ops_open(self) -> bool:
        """Whether /ops asks for no token: none is set, and only this machine gets here."""
        return not self.ops.token and self._of_this_machine

    @property
    def ops_routes(self) -> bool:
        """Whether /ops is there, after the rule of [ops]."""
        return bool(self.ops.token) or self.ops_open

    @property
    def metrics_route(self) -> bool:
        """Whether /metrics is on the main port, after the rule of [metrics] port."""
        return not self.metrics.port and (bool(self.metrics.token) or self._of_this_machine)

    @property
    def _of_this_machine(self) -> bool:
        """Whether only this machine gets here, and through no router."""
        return self.auth.mode == "none" and not self.server.trusted_hops

    @property
    def host(self) -> str:
        """The address to listen on, after the rule of [server] host."""
        return self.server.host or ("127.0.0.1" if self.auth.mode == "none" else "")

    @property
    def audits_content(self) -> bool:
        """Whether requests may consent to an audit sample that holds prompt and answer."""
        return bool(self.audit.destination) and self.audit.content == "consent"
