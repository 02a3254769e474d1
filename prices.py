"""What tokens cost: an estimate in US dollars, from a table that comes with genai-prices.

The table needs no network. A look-up takes 0.1 ms, so unit prices are kept for each model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

from genai_prices import Usage, calc_price

from config import ChatConfig

_MILLION: Final = 1_000_000
# Small, for some models cost more beyond a certain length.
_SAMPLE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    input_usd: float
    output_usd: float

    def usd(self, prompt_tokens: int, answer_tokens: int) -> float:
        return (prompt_tokens * self.input_usd + answer_tokens * self.output_usd) / _MILLION


def price_list(config: ChatConfig) -> Callable[[str], Price | None]:
    """Look-up by model: the configured price, else the table's, else None."""
    if config.input_usd_per_million or config.output_usd_per_million:
        configured = Price(config.input_usd_per_million, config.output_usd_per_million)
        return lambda model: configured
    return known_price


@cache
def known_price(model: str) -> Price | None:
    """The table's price of this model, or None."""
    try:
        price = calc_price(Usage(input_tokens=_SAMPLE, output_tokens=_SAMPLE), model)
    except LookupError:
        return None
    scale = _MILLION / _SAMPLE
    return Price(float(price.input_price) * scale, float(price.output_price) * scale)
