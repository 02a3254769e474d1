"""Dashboard and alerts: they ask for what is there, and fire when they should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import HELLO, ROOT, StartSluice
from redis_server import RedisServer
from upstream import Upstream, answer_stream, error, ok

from guards.redaction import checks

OPS = ROOT / "ops"
ALERTS = OPS / "alerts.yml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
NAMED = [rule for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((OPS / "grafana.json").read_text())

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is missing (Debian: apt-get install prometheus): rules are NOT checked",
)


def promtool(*arguments: object, stdin: bytes = b"") -> None:
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, cwd=OPS)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def queries() -> Iterator[str]:
    """Every query of the dashboard."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if "expr" in node:
                yield node["expr"]
            if "query" in node and "refId" in node:  # a variable's
                yield re.sub(r"label_values\((.*), \w+\)", r"\1", node["query"])
            node = list(node.values())
        if isinstance(node, list):
            for each in node:
                yield from walk(each)

    yield from walk(DASHBOARD)


@needs_promtool
def test_the_rules_are_valid() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", "alerts.yml")


@needs_promtool
def test_alerts_fire_when_they_should_and_not_before() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_was_made_to_fire() -> None:
    tests = yaml.safe_load((OPS / "alerts_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    assert {c["alertname"] for c in cases if c["exp_alerts"]} == {rule["alert"] for rule in NAMED}


@pytest.mark.parametrize("rule", NAMED, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    said = rule["annotations"]
    assert said["summary"]
    assert said["description"].endswith(".")
    assert rule["labels"]["severity"] in ("page", "ticket")
    path, _, anchor = said["runbook_url"].partition("#")
    assert anchor == rule["alert"].lower()
    section = (ROOT / path).read_text().split(f"\n### {rule['alert']}\n", 1)[1].split("\n### ")[0]
    assert "**Do" in section or "**do" in section


@needs_promtool
def test_the_dashboards_queries_are_valid(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__rate_interval", "5m", query)}
        for number, query in enumerate(queries())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", path)


@pytest.fixture
def page(
    io_loop,
    sluice: StartSluice,
    upstream: Upstream,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> bytes:
    """A real /metrics after calls of many kinds."""
    monkeypatch.setitem(checks.failures, ("card", "ValueError"), 1)

    async def made() -> bytes:
        upstream.will(error(503), ok(), answer_stream("Hi", " there"), ok(), error(401))
        server = await sluice(
            redis_url=redis.url,
            chat_models="home-made",
            redaction_email="redact",
            limit_ip_requests_per_minute=4,
        )
        await server.chat({"userMessage": "a@example.com"})
        await server.stream()
        await server.chat({**HELLO, "model": "home-made"})
        upstream.exchanges[-1].fin()
        for _ in range(2):
            await server.chat()
        redis.kill()
        await server.chat(HELLO, ("Idempotency-Key", "a"))
        return (await server.fetch("GET", "/metrics")).body

    page: bytes = io_loop.run_sync(made, timeout=20)
    return page


def test_every_metric_that_is_asked_for_is_there(page: bytes) -> None:
    there = set(re.findall(r"^(\w+)", page.decode(), re.MULTILINE))
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    asked = {
        name
        for query in (*queries(), *(rule["expr"] for rule in RULES))
        for name in re.findall(r"\b(?:sluice|process)[_:][\w:]+", query)
    }
    assert len(asked) > 20
    assert asked - recorded <= there


def test_every_metric_is_on_the_dashboard(page: bytes) -> None:
    drawn = " ".join(queries())
    for family in re.findall(r"^# TYPE (sluice_\w+)", page.decode(), re.MULTILINE):
        assert family in drawn, family


@needs_promtool
def test_the_page_follows_the_conventions(page: bytes) -> None:
    promtool("check", "metrics", stdin=page)
