"""GET /api/session: what the chat page must know before its first call."""

from handlers.base import BaseHandler


class SessionHandler(BaseHandler):
    """Where answers come from, which credentials are asked for, what may be asked, and the token
    for X-XSRFToken with its cookie."""

    route = "/api/session"
    options = BaseHandler.preflight

    async def get(self) -> None:
        services, mode = self.services, self.config.auth.mode
        # Models depend on the caller; while nobody says who they are there are none to tell.
        models: list[str] = []
        if mode in ("none", "public") or "Authorization" in self.request.headers:
            models = services.gate.models_for(await self.authenticate())
        self.answer(
            {
                "mode": services.mode,
                "auth": mode,
                "models": models,
                "scenarios": services.scenarios,
                "xsrfToken": self.xsrf_token.decode(),
            }
        )
