"""GET /v1/models and /v1/models/{id}: what this caller may ask."""

import time
from typing import Any, Final

from errors import CallError
from handlers.base import BaseHandler
from handlers.openai.errors import OPENAI_ERRORS

_SINCE: Final = int(time.time())
"""OpenAI says since when a model exists; all that is known here is since when it is served."""


class ModelsHandler(BaseHandler):
    """The models, the default first."""

    route = "/v1/models"
    errors = OPENAI_ERRORS
    options = BaseHandler.preflight

    async def get(self) -> None:
        models = await self._models()
        self.answer({"object": "list", "data": [self._document(name) for name in models]})

    async def _models(self) -> list[str]:
        return self.services.gate.models_for(await self.authenticate())

    def _document(self, name: str) -> dict[str, Any]:
        model = self.config.models[name]
        provider = model.upstream[0].provider
        document = {"id": name, "object": "model", "created": _SINCE, "owned_by": provider}
        if model.max_tokens_limit:
            # Groq's name for it; OpenAI does not tell.
            document["max_completion_tokens"] = model.max_tokens_limit
        return document


class ModelHandler(ModelsHandler):
    """One of them."""

    route = "/v1/models/{id}"

    async def get(self, name: str) -> None:  # type: ignore[override]
        if name not in await self._models():
            raise CallError("model_not_found", param="model")
        self.answer(self._document(name))
