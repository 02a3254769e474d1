"""The OpenAPI document: whole, true of this server, and its routes held to it by schemathesis."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, encoded, make_settings
from jsonschema import Draft202012Validator
from processes import OF_PLATFORMS
from referencing import Registry, Resource

from handlers import make_app
from handlers.openapi import describe
from handlers.ops import OpsPageHandler
from handlers.page import ChatPageHandler
from json_tree import leaves

UNLIMITED = {
    f"SLUICE_LIMIT_{scope}_{name}": "0"
    for scope in ("CALLER", "IP", "TOTAL")
    for name in ("REQUESTS_PER_MINUTE", "TOKENS_PER_MINUTE", "TOKENS_PER_DAY", "USD_PER_DAY")
}
# The pages, what belongs to the operator alone, and what is not there.
UNTOLD = {address for page in (ChatPageHandler, OpsPageHandler) for address, *_ in page.routes()}
UNTOLD |= {"/api/ops", "/metrics", "/v1/.*"}


def described(**overrides: object) -> dict[str, Any]:
    return describe(make_settings(**overrides), "1.2.3")


def test_every_reference_leads_somewhere():
    document = described()
    resolver = Registry().with_resource("", Resource.opaque(document)).resolver()
    for holder, key in leaves(document):
        if key == "$ref":
            assert holder[key].startswith("#/"), holder[key]
            assert resolver.lookup(holder[key]).contents is not None


@pytest.mark.parametrize("entries", [0, 10])
def test_the_idempotency_key_is_a_parameter_where_it_is_read(entries):
    document = described(idempotency_max_entries=entries)
    assert ("IdempotencyKey" in str(document)) is bool(entries)


def test_every_schema_is_one():
    for schema in described()["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_every_route_is_there(sluice):
    server = await sluice()
    rules = make_app(server.services).default_router.rules[0].target.rules
    served = {rule.matcher.regex.pattern.removesuffix("$") for rule in rules}
    told = {path.replace("{id}", "([^/]+)") for path in described()["paths"]}
    told |= {"/v1/models/(.+)"}
    told -= {"/v1/models/([^/]+)"}
    assert served - UNTOLD == told


async def test_it_says_what_this_server_takes(sluice):
    server = await sluice(chat_models="gpt-4o", chat_max_tokens_limit=500)
    reply = await server.fetch("GET", "/openapi.json")
    assert (reply.status, reply.json["openapi"]) == (200, "3.1.0")
    fields = reply.json["components"]["schemas"]["chat.request"]["properties"]
    assert fields["model"]["enum"] == ["gpt-4o-mini", "gpt-4o"]
    assert fields["maxTokens"]["maximum"] == 500
    head = await (await server.send(encoded("HEAD", "/openapi.json"))).head()
    assert head.headers["content-length"] == reply.headers["content-length"]


def test_what_is_off_is_not_told():
    document = described(auth_mode="public")
    assert not any(path.startswith("/v1/") for path in document["paths"])
    assert not any(name.startswith("openai.") for name in document["components"]["schemas"])
    assert document["security"] == [{}, {"bearer": []}]


def test_credentials_are_asked_for_where_there_are_any():
    document = described(auth_mode="keys")
    assert document["security"] == [{"bearer": []}]
    # Which models there are depends on who asks.
    assert "enum" not in document["components"]["schemas"]["chat.request"]["properties"]["model"]


@pytest.mark.slow
def test_schemathesis_finds_no_fault(tmp_path: Path):
    """Some hundred requests made from the document, good and bad, to a real server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    foreign = (
        "SLUICE_",
        "OPENAI_",
        *OF_PLATFORMS,
        "REDIS_",
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    settings = {
        "SLUICE_REPLAY_CHUNK_INTERVAL_S": "0",
        "SLUICE_IDEMPOTENCY_MAX_ENTRIES": "0",  # one key, two bodies: 422 is right
        "SLUICE_CHAT_MAX_PROMPT_TOKENS": "1000000",
        "SLUICE_SERVER_MAX_BODY_BYTES": "4194304",  # a list too long is no body too large
    }
    tests = str(ROOT / "tests")
    served = subprocess.Popen(
        [sys.executable, ROOT / "server.py"],
        env={**own, **UNLIMITED, **settings, "PORT": port},
        stdout=subprocess.DEVNULL,
    )
    try:
        tested = subprocess.run(
            [
                *(Path(sys.executable).parent / "schemathesis", "run"),
                *(f"http://127.0.0.1:{port}/openapi.json", "--wait-for-schema=20"),
                *("--phases=examples,coverage,fuzzing", "--max-examples=10", "--no-color"),
                *("--exclude-checks=positive_data_acceptance", "--generation-deterministic"),
            ],
            env={
                **own,
                "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
                "PYTHONPATH": tests,
            },
            cwd=tmp_path,  # it keeps notes
            capture_output=True,
            text=True,
        )
    finally:
        served.terminate()
        served.wait(30)
    assert tested.returncode == 0, tested.stdout
    assert " generated" in tested.stdout


@pytest.mark.parametrize("name", ["chat.request", "openai.chat.request"])
def test_null_is_told_where_it_is_taken(name):
    field = described()["components"]["schemas"][name]["properties"]["model"]
    assert ("null" in field["type"]) is name.startswith("openai")
