"""The chat page as HTTP sees it: what is served, with which rules for the browser."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, StartSluice, assert_valid, encoded

from errors import ConfigError
from guards.auth import key_file
from handlers import page

WEB = ROOT / "web"
DOCUMENT = (WEB / "index.html").read_text()


def sources(kind: str, policy: str) -> set[str]:
    """What a directive of this policy allows."""
    directives = {name: set(rest) for name, *rest in map(str.split, policy.split(";"))}
    return directives[kind]


def loaded() -> list[str]:
    """All that the page loads: named in the document, in its style sheet or by its modules."""
    named = re.findall(r'(?:src|href)="(/[^"]*)"', DOCUMENT)
    for path in named:
        file = ROOT / path.removeprefix("/")
        if file.suffix == ".js":
            relative = re.findall(r'^import .* from "\./(.*)";$', file.read_text(), re.MULTILINE)
            named += [f"/web/{name}" for name in relative if f"/web/{name}" not in named]
        elif file.suffix == ".css":
            named += re.findall(r'url\("(.*?)"\)', file.read_text())
    return sorted(set(named))


async def test_the_page_is_the_document_under_a_strict_policy(sluice: StartSluice) -> None:
    server = await sluice()

    reply = await server.fetch("GET", "/")

    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert reply.body.decode() == DOCUMENT
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = reply.headers["content-security-policy"]
    assert sources("default-src", policy) == {"'none'"}
    for kind in ("script-src", "style-src", "connect-src", "img-src", "font-src"):
        assert sources(kind, policy) == {"'self'"}
    for kind in ("form-action", "base-uri", "frame-ancestors"):
        assert sources(kind, policy) == {"'none'"}
    assert sources("require-trusted-types-for", policy) == {"'script'"}
    assert sources("trusted-types", policy) == {"dompurify"}


def test_the_document_has_nothing_that_the_policy_would_stop() -> None:
    assert not re.search(r"<script(?![^>]*\ssrc=)", DOCUMENT)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", DOCUMENT)
    assert "//" not in "".join(re.findall(r'(?:src|href)="(.*?)"', DOCUMENT))


async def test_all_that_the_page_loads_is_there(sluice: StartSluice) -> None:
    server = await sluice()
    kinds = {
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
        ".woff2": "font/woff2",
    }

    for path in loaded():
        reply = await server.fetch("GET", path)
        file = ROOT / path.removeprefix("/")
        assert (reply.status, reply.body) == (200, file.read_bytes()), path
        assert reply.headers["content-type"] == kinds[file.suffix]

    served = {ROOT / path.removeprefix("/") for path in loaded()}
    assert served <= set(WEB.rglob("*"))


def test_without_a_file_of_its_page_the_server_does_not_start_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "web"
    shutil.copytree(WEB, missing)
    (missing / "view.js").unlink()
    monkeypatch.setattr(page, "WEB", missing)
    page.read_file.cache_clear()
    with pytest.raises(ConfigError, match=r"web/view\.js: cannot be read: No such file"):
        page.ChatPageHandler.routes()
    page.read_file.cache_clear()


def test_handlers_can_be_imported_without_the_page() -> None:
    """The files are the server's; whoever imports a handler need not have them."""
    program = (
        "from pathlib import Path; read = Path.read_bytes\n"
        "def without_web(path):\n"
        "    assert path.parts[-2] != 'web', path\n"
        "    return read(path)\n"
        "Path.read_bytes = without_web\n"
        "import handlers"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


async def test_head_is_get_without_the_body(sluice: StartSluice) -> None:
    server = await sluice()
    got = await server.fetch("GET", "/")
    client = await server.connect()

    await client.send(encoded("HEAD", "/"))
    head = await client.head()
    await client.send(encoded("GET", "/healthz"))

    assert head.status == 200
    assert head.headers["content-length"] == str(len(got.body))
    assert head.headers["etag"] == got.headers["etag"]
    assert (await client.reply()).json["status"] == "ok"  # no body stood in between


async def test_a_file_that_is_known_is_not_sent_again(sluice: StartSluice) -> None:
    server = await sluice()
    etag = (await server.fetch("GET", "/")).headers["etag"]

    for known in (etag, f'"other", W/{etag}', "*"):
        reply = await server.fetch("GET", "/", ("If-None-Match", known))
        assert (reply.status, reply.body) == (304, b""), known
        assert reply.headers["etag"] == etag
        assert reply.headers["cache-control"] == "no-cache"
    assert (await server.fetch("GET", "/", ("If-None-Match", '"other"'))).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/nothing.js",
        "/web/../config.ini",
        "/web/%2e%2e/config.ini",
        "/web/..%2fconfig.ini",
        "/web//style.css",
        "/web/styleXcss",
        "/web/style.css/",
        "/index.html",
        "//",
    ],
)
async def test_only_what_is_named_is_served(sluice: StartSluice, path: str) -> None:
    server = await sluice()
    (await server.fetch("GET", path)).assert_error(404, "not_found")


async def test_links_from_elsewhere_lead_to_the_page(sluice: StartSluice) -> None:
    server = await sluice()
    reply = await server.fetch("GET", "/", ("Sec-Fetch-Site", "cross-site"))
    assert reply.status == 200


@pytest.mark.parametrize("path", ["/", "/web/style.css"])
async def test_a_page_is_only_read(sluice: StartSluice, path: str) -> None:
    server = await sluice()
    for method in ("POST", "PUT", "DELETE"):
        reply = await server.fetch(method, path)
        reply.assert_error(405, "method_not_allowed")
        assert reply.headers["allow"] == "GET, HEAD"


# The session


async def test_the_session_tells_the_models_and_gives_the_token(sluice: StartSluice) -> None:
    server = await sluice(chat_model="one", chat_models="two")

    reply = await server.fetch("GET", "/api/session")

    told = reply.json
    assert_valid(told, "session.json")
    assert (told["mode"], told["auth"], told["models"]) == ("live", "none", ["one", "two"])
    assert told["scenarios"] == []
    cookie, _, attributes = reply.headers["set-cookie"].partition(";")
    assert cookie.startswith("_xsrf=")
    assert "HttpOnly" in attributes
    assert reply.headers["cache-control"] == "no-store"


async def test_the_session_tells_models_to_those_it_knows_only(
    sluice: StartSluice, tmp_path: Path
) -> None:
    file = tmp_path / "keys.ini"
    key, _ = key_file.add(file, "web", "2026-01-01")
    server = await sluice(auth_mode="keys", auth_keys_file=str(file))

    unknown = await server.fetch("GET", "/api/session")
    known = await server.fetch("GET", "/api/session", ("Authorization", f"Bearer {key}"))
    wrong = await server.fetch("GET", "/api/session", ("Authorization", "Bearer sluice_x"))

    assert (unknown.json["auth"], unknown.json["models"]) == ("keys", [])
    assert known.json["models"] == ["gpt-4o-mini"]
    wrong.assert_error(401, "unauthenticated")
