"""Is this the operator? Whoever runs the server has tokens of their own, apart from callers' keys.

Rules of this module:

- A secret that is not set is nobody's: an empty token is not it.
- Compared as bytes, in a time that does not tell how much of it was right.
"""

import hmac

from errors import CallError
from guards.auth.base import bearer


def is_operator(authorization: str | None, secret: str) -> bool:
    """Whether the header's value is `Bearer` and this secret."""
    try:
        token = bearer(authorization)
    except CallError:
        return False
    return bool(secret) and hmac.compare_digest(token.encode(), secret.encode())
