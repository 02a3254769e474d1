"""A JSON Web Key Set (RFC 7517), from a file or an address, kept fresh.

Rules of this module:

- Only public keys of the one algorithm are taken. A secret in a key set is never used: with a
  public key for a secret, anybody could sign.
- A key id that is not there makes the set be read again, at most once a minute; an hour makes
  it stale. While it cannot be read, the old keys go on.
- Whoever needs the set while it is being fetched waits for the same fetch.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jwt import PyJWK
from jwt.exceptions import PyJWTError
from tornado.httpclient import AsyncHTTPClient

from errors import CallError

log: Final = logging.getLogger("sluice.auth")

_KEY_TYPE: Final = {"RS256": "RSA", "ES256": "EC"}
_FRESH_S: Final = 3600.0
_AGAIN_S: Final = 60.0
_TIMEOUT_S: Final = 5.0
_MAX_BYTES: Final = 262_144


class KeySet:
    """The keys that may have signed.

    Args:
        source: an http or https address, or the path of a file.
        algorithm: RS256 or ES256.
        clock: seconds on a monotonic clock.
    """

    def __init__(self, source: str, algorithm: str, *, clock: Callable[[], float]) -> None:
        self._source = source
        self._algorithm = algorithm
        self._clock = clock
        self._keys: dict[str | None, PyJWK] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None) -> PyJWK:
        """The key with this id; without an id the only one there is.

        Raises:
            CallError: `unauthenticated`, or `overloaded` while there are no keys at all.
        """
        found = self._find(key_id)
        if self._due(found):
            await self._read_once()
            found = self._find(key_id)
        if found is None and self._read_at is None:
            raise CallError(
                "overloaded",
                "jwks_unavailable",
                text="The keys that check tokens cannot be read, try again",
                retry_after_s=5,
            )
        if found is None:
            raise CallError("unauthenticated", "unknown_key")
        return found

    def _find(self, key_id: str | None) -> PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _due(self, found: PyJWK | None) -> bool:
        now = self._clock()
        if self._reading is not None or self._tried_at is None:
            return True
        stale = self._read_at is None or now >= self._read_at + _FRESH_S
        return (stale or found is None) and now >= self._tried_at + (
            _AGAIN_S if self._read_at is not None else _TIMEOUT_S
        )

    async def _read_once(self) -> None:
        if self._reading is None:
            self._tried_at = self._clock()
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._done)
        # A caller that leaves must not take the others' fetch with it.
        await asyncio.shield(self._reading)

    def _done(self, reading: "asyncio.Task[None]") -> None:
        self._reading = None

    async def _read(self) -> None:
        try:
            document = json.loads(await self._text())
            self._keys = dict(self._usable(document["keys"]))
            self._read_at = self._clock()
        except Exception as error:  # whatever is wrong there, the old keys go on
            log.warning("jwks_bad", extra={"reason": type(error).__name__})

    async def _text(self) -> bytes:
        if not self._source.startswith(("http://", "https://")):
            return await asyncio.to_thread(Path(self._source).read_bytes)
        client = AsyncHTTPClient(force_instance=True, max_body_size=_MAX_BYTES)
        try:
            response = await client.fetch(
                self._source,
                follow_redirects=False,
                connect_timeout=_TIMEOUT_S,
                request_timeout=_TIMEOUT_S,
            )
        finally:
            client.close()
        return response.body

    def _usable(self, documents: list[dict[str, Any]]) -> list[tuple[str | None, PyJWK]]:
        keys = []
        for document in documents:
            if document.get("kty") != _KEY_TYPE[self._algorithm]:
                continue
            if document.get("use", "sig") != "sig":
                continue
            if document.get("alg", self._algorithm) != self._algorithm:
                continue
            try:
                keys.append((document.get("kid"), PyJWK(document, self._algorithm)))
            except (PyJWTError, KeyError, TypeError, ValueError):
                continue  # one that cannot be read does not spoil the others
        return keys
