"""Where a model is asked: a provider, and the model's name there."""

from typing import NamedTuple


class Target(NamedTuple):
    """`PROVIDER/MODEL`, as [model:NAME] upstream has it."""

    provider: str
    """Name of a section [provider:NAME]; [provider] is `default`."""
    model: str
    """Its name there, which may have slashes of its own."""
