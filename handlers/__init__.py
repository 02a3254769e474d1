"""How does HTTP become a call, and a call HTTP?"""

from tornado.web import Application

from handlers.base import NotFoundHandler, Services
from handlers.chat import ChatHandler
from handlers.health import LivenessHandler, ReadinessHandler

__all__ = ["Services", "make_app"]


def make_app(services: Services) -> Application:
    """The route table."""
    wired = {"services": services}
    return Application(
        [
            (r"/api/chat", ChatHandler, wired),
            (r"/healthz", LivenessHandler, wired),
            (r"/readyz", ReadinessHandler, wired),
        ],
        default_handler_class=NotFoundHandler,
        default_handler_args=wired,
        # Handlers write their own line; Tornado's would hold whole addresses.
        log_function=lambda handler: None,
    )
