"""The file of keys: each random, shown once, and kept as SHA-256 alone.

    [mobile-app]
    sha256 = 5e88…                  the only thing kept of the key
    created = 2026-11-24
    requests_per_minute = 30        optional, as all of [limit_caller]
    models = gpt-4o-mini            optional: the models it may name, the first by default

Rules of this module:

- A key has 256 random bits, so a plain hash is enough: there is nothing to guess.
- The file is replaced in one step and keeps its mode and owner; a new one is its owner's alone.
  A symbolic link stays one.
"""

import configparser
import io
import os
import re
import secrets
import tempfile
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from call import Caller
from config import LimitConfig
from errors import ConfigError

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_PREFIX: Final = "sluice_"


def add(path: Path, name: str, created: str) -> tuple[str, str]:
    """Make a key and write its section to the file.

    Returns:
        the key, which is kept nowhere, and the section.

    Raises:
        ConfigError: the name cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a key: use a to z, 0 to 9, dots and dashes")
    text = _text(path) if path.exists() else ""
    if name in _parsed(path, text).sections():
        raise ConfigError(f"{path}: there is a key {name} already; revoke it first")
    key = _PREFIX + secrets.token_urlsafe(32)
    digest = sha256(key.encode()).hexdigest()
    section = f"[{name}]\nsha256 = {digest}\ncreated = {created}\n"
    gap = "\n" if text else ""
    _write(path, f"{text.rstrip()}\n{gap}{section}".lstrip())
    return key, section


def names(path: Path) -> list[str]:
    """The names in the file."""
    return _parsed(path, _text(path)).sections()


def revoke(path: Path, name: str) -> None:
    """Take the section of this name out of the file, and leave all other lines as they are.

    Raises:
        ConfigError: there is none, or it cannot be told apart from what surrounds it.
    """
    text = _text(path)
    sections = _sections(path, text)
    if name not in sections:
        raise ConfigError(f"{path}: there is no key {name}")
    kept, inside = [], False
    for line in io.StringIO(text):  # splits lines where the parser does
        if header := configparser.ConfigParser.SECTCRE.match(line.strip()):
            inside = header["header"] == name
        if not inside:
            kept.append(line)
    del sections[name]
    if _sections(path, "".join(kept)) != sections:
        raise ConfigError(f"{path}: nothing is revoked; remove the section [{name}] by hand")
    _write(path, "".join(kept))


def read(path: Path, defaults: LimitConfig) -> dict[bytes, Caller]:
    """The callers in the file, by the digest of their key.

    Raises:
        ConfigError: with the section at fault.
    """
    keys: dict[bytes, Caller] = {}
    parser = _parsed(path, _text(path))
    for name in parser.sections():
        options = dict(parser.items(name))
        where = f"{path.name}: [{name}]"
        digest = options.pop("sha256", "")
        if not _DIGEST.fullmatch(digest):
            raise ConfigError(f"{where} sha256: must be 64 hexadecimal digits")
        if bytes.fromhex(digest) in keys:
            raise ConfigError(f"{where} sha256: is another section's, too")
        options.pop("created", None)
        models = tuple(
            word.strip() for word in options.pop("models", "").split(",") if word.strip()
        )
        keys[bytes.fromhex(digest)] = Caller(name, _limits(options, defaults, where), models)
    return keys


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


def _parsed(path: Path, text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(text)
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or getattr(error, "errors", [("?",)])[0][0]
        raise ConfigError(f"{path}: is not a valid ini file: line {line}") from None
    return parser


def _sections(path: Path, text: str) -> dict[str, dict[str, str]]:
    parser = _parsed(path, text)
    return {name: dict(parser.items(name)) for name in parser.sections()}


def _limits(options: dict[str, str], defaults: LimitConfig, where: str) -> LimitConfig | None:
    """The limits a section sets, over the defaults; None where it sets none."""
    changes: dict[str, Any] = {}
    for name, raw in options.items():
        known = asdict(defaults)
        if name not in known:
            raise ConfigError(f"{where} {name}: unknown; known are models, {', '.join(known)}")
        try:
            changes[name] = value = float(raw) if name == "usd_per_day" else int(raw)
        except ValueError:
            value = -1
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{where} {name}: must be a number from 0")
    return replace(defaults, **changes) if changes else None


def _write(path: Path, text: str) -> None:
    """Replace the file in one step, so that neither a reader nor a crash finds half of it."""
    target = path.resolve()
    try:
        before = target.stat() if target.exists() else None
        descriptor, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                if before is not None:
                    _take_over(descriptor, before)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.replace(draft, target)
        except BaseException:
            os.unlink(draft)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def _take_over(descriptor: int, before: os.stat_result) -> None:
    """Give the draft the owner and the mode that the file has."""
    draft = os.fstat(descriptor)
    if (before.st_uid, before.st_gid) != (draft.st_uid, draft.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, before.st_mode & 0o7777)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
