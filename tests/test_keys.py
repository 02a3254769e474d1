"""Keys: made, listed, revoked, and held against their hashes."""

import os
import stat
from pathlib import Path

import pytest

from config import LimitConfig
from errors import CallError, ConfigError
from guards.auth import key_file
from guards.auth.api_keys import KeyRing

DEFAULTS = LimitConfig(60, 1000, 0, 0, 10)
TODAY = "2026-11-24"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.ini"


def ring(path, clock=None):
    return KeyRing(path, DEFAULTS, clock=clock or Clock())


async def reason(ring, authorization):
    with pytest.raises(CallError) as caught:
        await ring.authenticate(authorization)
    assert caught.value.code == "unauthenticated"
    return caught.value.reason


async def test_a_key_that_was_added_lets_in(path):
    key, section = key_file.add(path, "mobile-app", TODAY)
    assert key.startswith("sluice_")
    assert len(key) == 50
    assert key not in path.read_text()
    assert section in path.read_text()
    caller = await ring(path).authenticate(f"Bearer {key}")
    assert (caller.name, caller.limits, caller.models) == ("mobile-app", None, ())


async def test_the_scheme_may_be_written_in_any_case(path):
    key, _ = key_file.add(path, "a", TODAY)
    assert (await ring(path).authenticate(f"bEARER {key}")).name == "a"


@pytest.mark.parametrize(
    ("authorization", "told"),
    [
        (None, "missing"),
        ("", "malformed"),
        ("Bearer", "malformed"),
        ("Bearer ", "malformed"),
        ("Basic YTpi", "malformed"),
        ("Bearer a b", "malformed"),
        ("Bearer käse", "malformed"),
        ("Bearer " + "a" * 8001, "malformed"),
        ("Bearer " + "a" * 8000, "unknown_key"),
        ("Bearer wrong", "unknown_key"),
    ],
)
async def test_anything_else_does_not(path, authorization, told):
    key_file.add(path, "a", TODAY)
    assert await reason(ring(path), authorization) == told


def test_two_keys_are_never_the_same(path):
    assert len({key_file.add(path, f"k{n}", TODAY)[0] for n in range(50)}) == 50


async def test_a_section_may_set_limits_and_models(path):
    key, _ = key_file.add(path, "a", TODAY)
    path.write_text(path.read_text() + "requests_per_minute = 5\nmodels = gpt-4o, gpt-4.1\n")
    caller = await ring(path).authenticate(f"Bearer {key}")
    assert caller.limits == LimitConfig(5, 1000, 0, 0, 10)
    assert caller.models == ("gpt-4o", "gpt-4.1")


async def test_a_revoked_key_stops_within_a_second(path):
    clock = Clock()
    key, _ = key_file.add(path, "a", TODAY)
    key_file.add(path, "b", TODAY)
    server = ring(path, clock)
    await server.authenticate(f"Bearer {key}")
    key_file.revoke(path, "a")
    clock.now += 1
    assert await reason(server, f"Bearer {key}") == "unknown_key"


async def test_a_new_key_works_without_a_restart(path):
    clock = Clock()
    key_file.add(path, "a", TODAY)
    server = ring(path, clock)
    key, _ = key_file.add(path, "b", TODAY)
    clock.now += 1
    assert (await server.authenticate(f"Bearer {key}")).name == "b"


async def test_a_file_that_has_become_bad_keeps_the_old_keys(path, caplog):
    clock = Clock()
    key, _ = key_file.add(path, "a", TODAY)
    server = ring(path, clock)
    path.write_text("[a\n")
    for _ in range(3):
        clock.now += 1
        assert (await server.authenticate(f"Bearer {key}")).name == "a"
    assert [record.msg for record in caplog.records] == ["keys_file_bad"]


async def test_a_file_put_in_its_place_is_noticed_whatever_its_times_say(path):
    clock = Clock()
    key, _ = key_file.add(path, "a", TODAY)
    server = ring(path, clock)
    old, other = path.stat(), path.with_name("other")
    digest = path.read_text().split("sha256 = ")[1][:64]
    other.write_text(path.read_text().replace(digest, "0" * 64))
    os.utime(other, ns=(old.st_atime_ns, old.st_mtime_ns))
    other.replace(path)
    clock.now += 1
    assert await reason(server, f"Bearer {key}") == "unknown_key"


async def test_a_file_that_could_not_be_read_is_read_again(path, monkeypatch):
    clock = Clock()
    key, _ = key_file.add(path, "a", TODAY)
    server = ring(path, clock)
    key_file.add(path, "b", TODAY)
    key_file.revoke(path, "a")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_text", lambda *_: (_ for _ in ()).throw(OSError(24, "EMFILE")))
        clock.now += 1
        assert (await server.authenticate(f"Bearer {key}")).name == "a"
    clock.now += 1
    assert await reason(server, f"Bearer {key}") == "unknown_key"


def test_revoking_leaves_every_other_line_as_it_was(path):
    path.write_text("# ours\n\n")
    key_file.add(path, "a", TODAY)
    before = path.read_text()
    key_file.add(path, "b", TODAY)
    path.write_text(path.read_text() + "# of b\nmodels = x\n[c]\n# of c\nsha256 = " + "0" * 64)
    key_file.revoke(path, "b")
    assert path.read_text() == before + "\n[c]\n# of c\nsha256 = " + "0" * 64
    assert key_file.names(path) == ["a", "c"]
    assert stat.S_ISREG(path.stat().st_mode)


@pytest.mark.parametrize(
    "header", ["[a] # the old phone", "[a] ; old", "[a]\t", "[a]]", "[a] = 1", "[ a ]"]
)
@pytest.mark.parametrize("before", ["", "# ours\n\n", f"[z]\nsha256 = {'2' * 64}\n\n"])
async def test_whatever_reads_as_the_header_of_a_key_is_revoked(path, before, header):
    key, section = key_file.add(path, "a", TODAY)
    kept = f"[b] # [a]\nsha256 = {'1' * 64}\n# [a]\n"
    path.write_text(before + section.replace("[a]", header) + kept)
    name = next(name for name in key_file.names(path) if name not in ("z", "b] # [a"))
    assert (await ring(path).authenticate(f"Bearer {key}")).name == name

    key_file.revoke(path, name)

    assert path.read_text() == before + kept
    assert await reason(ring(path), f"Bearer {key}") == "unknown_key"


def test_a_header_that_is_indented_is_one_too(path):
    path.write_text(f"  [a]  # x\nsha256 = {'1' * 64}\n")
    key_file.revoke(path, "a")
    assert path.read_text() == ""


def test_what_cannot_be_revoked_line_by_line_is_a_fault_and_changes_nothing(path):
    """A line that looks like the header belongs to another key's value."""
    text = f"[b]\nsha256 = {'1' * 64}\nmodels = x\n  [a]\n[a]\nsha256 = {'2' * 64}\n"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"nothing is revoked; remove the section \[a\] by hand"):
        key_file.revoke(path, "a")
    assert path.read_text() == text


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_its_owners_alone_and_an_old_one_keeps_its_mode(path):
    key_file.add(path, "a", TODAY)
    assert mode(path) == 0o600
    for kept in (0o640, 0o644, 0o400):
        path.chmod(kept)
        key_file.add(path, "b", TODAY)
        assert mode(path) == kept
        key_file.revoke(path, "b")
        assert mode(path) == kept
    assert [each.name for each in path.parent.iterdir()] == ["keys.ini"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_file_keeps_its_owner(path):
    key_file.add(path, "a", TODAY)
    os.chown(path, 12, 34)
    key_file.add(path, "b", TODAY)
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


def test_a_symbolic_link_stays_one(path, tmp_path):
    (tmp_path / "secrets").mkdir()
    real = tmp_path / "secrets" / "real.ini"
    path.symlink_to("secrets/real.ini")
    key_file.add(path, "a", TODAY)
    key_file.add(path, "b", TODAY)
    key_file.revoke(path, "a")
    assert path.is_symlink()
    assert key_file.names(real) == ["b"]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "none" / "keys.ini"
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        key_file.add(path, "a", TODAY)
    path = tmp_path / "keys.ini"
    key_file.add(path, "a", TODAY)
    before = path.read_text()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        key_file.revoke(path, "a")
    assert path.read_text() == before
    assert [each.name for each in tmp_path.iterdir()] == ["keys.ini"]


@pytest.mark.parametrize("name", ["", "A", "a b", "a]", "-a", "ä", "a" * 65, "../a"])
def test_a_name_is_a_plain_word(path, name):
    with pytest.raises(ConfigError, match="cannot name a key"):
        key_file.add(path, name, TODAY)


def test_a_name_is_given_once_and_only_what_is_there_can_go(path):
    key_file.add(path, "a", TODAY)
    with pytest.raises(ConfigError, match="there is a key a already"):
        key_file.add(path, "a", TODAY)
    with pytest.raises(ConfigError, match="there is no key b"):
        key_file.revoke(path, "b")


HASH = f"sha256 = {'1' * 64}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no keys; python server.py keys add NAME makes one"),
        ("[a\n", "is not a valid ini file: line 1"),
        ("sha256 = 1\n", "is not a valid ini file: line 1"),
        ("[a]\n", r"\[a\] sha256: must be 64 hexadecimal digits"),
        ("[a]\nsha256 = secret\n", r"\[a\] sha256: must be 64 hexadecimal digits$"),
        (f"[a]\n{HASH}[b]\n{HASH}", r"\[b\] sha256: is another section's, too"),
        (f"[a]\n{HASH}speed = 1\n", r"\[a\] speed: unknown; known are models, requests_per"),
        (f"[a]\n{HASH}in_flight = many\n", r"\[a\] in_flight: must be a number from 0"),
        (f"[a]\n{HASH}usd_per_day = nan\n", r"\[a\] usd_per_day: must be a number from 0"),
        (f"[a]\n{HASH}in_flight = -1\n", r"\[a\] in_flight: must be a number from 0"),
    ],
)
def test_a_fault_in_the_file_stops_the_start_with_its_place(path, text, told):
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        ring(path)


def test_a_missing_file_says_how_to_make_it(path):
    with pytest.raises(ConfigError, match="keys add NAME makes it"):
        ring(path)
