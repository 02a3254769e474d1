"""What tokens cost: an estimate in US dollars, from a table that comes with genai-prices.

The table needs no network. A look-up takes 0.1 ms, so unit prices are kept for each model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from genai_prices import Usage, calc_price

from call import Call
from config import ModelConfig

_MILLION: Final = 1_000_000
# Small, for some models cost more beyond a certain length.
_SAMPLE: Final = 1_000


@dataclass(frozen=True, slots=True, order=True)
class Price:
    """US dollars for a million tokens."""

    output_usd: float
    input_usd: float
    cached_usd: float
    """Of the prompt's tokens, those that came from the provider's cache."""

    def usd(self, prompt_tokens: int, answer_tokens: int, cached_tokens: int = 0) -> float:
        return (
            (prompt_tokens - cached_tokens) * self.input_usd
            + cached_tokens * self.cached_usd
            + answer_tokens * self.output_usd
        ) / _MILLION


class Prices:
    """The prices of the models that requests may name: the configured one, else the table's."""

    def __init__(self, models: Mapping[str, ModelConfig]) -> None:
        self.configure(models)

    def configure(self, models: Mapping[str, ModelConfig]) -> None:
        """The models from now on."""
        self._configured = {
            name: Price(
                model.output_usd_per_million,
                model.input_usd_per_million,
                model.input_usd_per_million,
            )
            for name, model in models.items()
            if model.input_usd_per_million or model.output_usd_per_million
        }
        self._dearest: dict[str, Price | None] = {}
        for name, model in models.items():
            known = [known_price(target.model) for target in model.upstream]
            self._dearest[name] = max(filter(None, known), default=None)

    def of(self, call: Call) -> Price | None:
        """The price of the dearest provider that the call may come to."""
        return self._configured.get(call.model) or self._dearest.get(call.model)

    def usd(self, call: Call) -> float | None:
        """What the call has cost so far, as far as prices are known; None where none is."""
        configured = self._configured.get(call.model)
        costs = [
            price.usd(usage.prompt_tokens, usage.answer_tokens, usage.cached_tokens)
            for target, usage, _ in call.charges()
            if (price := configured or known_price(target.model))
        ]
        return round(sum(costs), 9) if costs else None


@cache
def known_price(model: str) -> Price | None:
    """The table's price of this model, or None."""
    try:
        fresh = calc_price(Usage(input_tokens=_SAMPLE, output_tokens=_SAMPLE), model)
        cached = calc_price(Usage(input_tokens=_SAMPLE, cache_read_tokens=_SAMPLE), model)
    except LookupError:
        return None
    prices = (fresh.output_price, fresh.input_price, cached.input_price)
    return Price(*(float(price) * (_MILLION / _SAMPLE) for price in prices))
