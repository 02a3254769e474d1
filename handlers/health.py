"""Is the process alive, and should it be sent traffic?"""

import logging

from handlers.base import BaseHandler


class _HealthHandler(BaseHandler):
    serves_proxies = True

    def answer_health(self, status: str, http_status: int = 200) -> None:
        services = self.services
        self.answer(
            {
                "status": status,
                "version": services.version,
                "provider": services.mode,
                "circuits": {name: each.state for name, each in services.router.circuits.items()},
                "store": services.gate.store_state,
                "inFlight": services.admission.in_flight,
            },
            http_status,
        )

    def head(self) -> None:
        self.get()

    def get(self) -> None:
        raise NotImplementedError

    def on_finish(self) -> None:
        self.log_reply(logging.DEBUG)


class LivenessHandler(_HealthHandler):
    """`GET /healthz`: 200 for as long as the event loop turns."""

    route = "/healthz"

    def get(self) -> None:
        self.answer_health("ok")


class ReadinessHandler(_HealthHandler):
    """`GET /readyz`: 503 while draining, while every circuit is open, or while the store is down
    and no call may pass without it. Half-open is ready, for only traffic can close it."""

    route = "/readyz"

    def get(self) -> None:
        if self.services.admission.draining:
            self.answer_health("draining", 503)
        elif self.services.router.all_open:
            self.answer_health("circuit_open", 503)
        elif not self.services.gate.accepting:
            self.answer_health("store_down", 503)
        else:
            self.answer_health("ok")
