"""How does HTTP become a call, and a call HTTP?"""

from typing import Any, Final

from tornado.web import Application

from calls.services import Services
from handlers.base import NotFoundHandler
from handlers.chat import ChatHandler, ResumeHandler
from handlers.health import LivenessHandler, ReadinessHandler
from handlers.metrics import MetricsHandler
from handlers.openai.chat_completions import ChatCompletionsHandler
from handlers.openai.errors import UnknownOpenAIHandler
from handlers.openai.models import ModelHandler, ModelsHandler
from handlers.openai.responses import ResponsesHandler
from handlers.openapi import OpenAPIHandler
from handlers.ops import OpsHandler, OpsPageHandler
from handlers.page import ChatPageHandler
from handlers.session import SessionHandler
from handlers.xsrf import XsrfHandler

__all__ = ["Services", "make_app", "make_metrics_app"]

_METRICS: Final[tuple[Any, ...]] = (r"/metrics", MetricsHandler)


def make_app(services: Services) -> Application:
    """The route table."""
    openai_routes = [
        (r"/v1/chat/completions", ChatCompletionsHandler),
        (r"/v1/responses", ResponsesHandler),
        (r"/v1/models", ModelsHandler),
        (r"/v1/models/(.+)", ModelHandler),
    ]
    ops_routes = [(r"/api/ops", OpsHandler), *OpsPageHandler.routes()]
    return _application(
        services,
        [
            (r"/api/chat", ChatHandler),
            (r"/api/chat/([^/]+)/stream", ResumeHandler),
            (r"/api/session", SessionHandler),
            (r"/api/xsrf", XsrfHandler),
            (r"/healthz", LivenessHandler),
            (r"/readyz", ReadinessHandler),
            (r"/openapi.json", OpenAPIHandler),
            *([_METRICS] if services.config.metrics_route else ()),
            *(openai_routes if services.config.openai_routes else ()),
            (r"/v1/.*", UnknownOpenAIHandler),
            *ChatPageHandler.routes(),
            *(ops_routes if services.config.ops_routes else ()),
        ],
    )


def make_metrics_app(services: Services) -> Application:
    """What a port of its own has, for metrics."""
    return _application(services, [_METRICS])


def _application(services: Services, routes: list[tuple[Any, ...]]) -> Application:
    return Application(
        routes,
        services=services,
        default_handler_class=NotFoundHandler,
        xsrf_cookies=True,  # see BrowserHandler.check_xsrf_cookie
        # Handlers write their own line; Tornado's would hold whole addresses.
        log_function=lambda handler: None,
    )
