"""GET /api/xsrf: the token for X-XSRFToken, and the cookie it is held against."""

from handlers.request import RequestHandler


class XsrfHandler(RequestHandler):
    """`{"xsrfToken": text}`. Scripts need not read the cookie, so they cannot."""

    route = "/api/xsrf"

    def get(self) -> None:
        self.answer({"xsrfToken": self.xsrf_token.decode()})
