"""Who asks? Credentials become a `Caller`, or 401.

none, public    nobody is asked
keys            Authorization: Bearer sluice_…    held against the hashes in keys.ini
jwt             Authorization: Bearer eyJ…        signed by your own login
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from call import ANONYMOUS, Caller
from errors import CallError

# RFC 6750: one token68, and the scheme in any case.
_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]{1,8000}=*)")

FirstUse = Callable[[str, float], Awaitable[bool]]


class Authenticator(Protocol):
    """One mode of authentication."""

    async def authenticate(self, authorization: str | None) -> Caller:
        """The caller with these credentials.

        Args:
            authorization: the header's value.

        Raises:
            CallError: `unauthenticated`.
        """


class Everyone:
    """Modes none and public."""

    async def authenticate(self, authorization: str | None) -> Caller:
        return ANONYMOUS


def bearer(authorization: str | None) -> str:
    """The token in the header.

    Raises:
        CallError: `unauthenticated`.
    """
    if authorization is None:
        raise CallError("unauthenticated", "missing")
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise CallError("unauthenticated", "malformed")
    return match[1]
