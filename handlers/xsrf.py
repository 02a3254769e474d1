"""GET /api/xsrf: the token for X-XSRFToken, and the cookie it is held against."""

from handlers.base import BaseHandler


class XsrfHandler(BaseHandler):
    """`{"xsrfToken": text}`. Scripts need not read the cookie, so they cannot."""

    route = "/api/xsrf"
    options = BaseHandler.preflight

    def get(self) -> None:
        self.answer({"xsrfToken": self.xsrf_token.decode()})
