"""Mode keys: the bearer token is a key whose hash is in the file of keys.

Rules of this module:

- A digest is found by its first bytes and compared in constant time as a whole.
- The file is looked at once a second, so a revoked key stops without a restart. A file that
  has become bad changes nothing, and the log says so.
"""

import hmac
import logging
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from call import Caller
from config import LimitConfig
from errors import CallError, ConfigError
from guards.auth.base import bearer
from guards.auth.key_file import read

log: Final = logging.getLogger("sluice.auth")

_LOOK_S: Final = 1.0
_INDEX_BYTES: Final = 8


class KeyRing:
    """Mode keys.

    Args:
        clock: seconds on a monotonic clock.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(
        self, path: Path, defaults: LimitConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._defaults = defaults
        self._clock = clock
        self._keys: dict[bytes, tuple[bytes, Caller | None]] = {}
        self._seen: tuple[int, int, int] | None = None
        self._fault = ""
        self._look_at = clock()
        self._load()
        if not self._keys:
            raise ConfigError(f"{path}: holds no keys; python server.py keys add NAME makes one")

    async def authenticate(self, authorization: str | None) -> Caller:
        digest = sha256(bearer(authorization).encode()).digest()
        self._look()
        known, caller = self._keys.get(digest[:_INDEX_BYTES], (b"", None))
        if caller is None or not hmac.compare_digest(known, digest):
            raise CallError("unauthenticated", "unknown_key")
        return caller

    def _look(self) -> None:
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        try:
            self._load()
            self._fault = ""
        except ConfigError as fault:
            if str(fault) != self._fault:  # once, not every second
                self._fault = str(fault)
                log.error("keys_file_bad", extra={"reason": self._fault})

    def _load(self) -> None:
        try:
            status = self._path.stat()
        except OSError as error:
            raise ConfigError(
                f"{self._path}: cannot be read: {error.strerror}; "
                "python server.py keys add NAME makes it"
            ) from None
        seen = status.st_mtime_ns, status.st_size, status.st_ino
        if seen != self._seen:
            self._keys = {
                digest[:_INDEX_BYTES]: (digest, caller)
                for digest, caller in read(self._path, self._defaults).items()
            }
            self._seen = seen
