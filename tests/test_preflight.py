"""`python server.py check`: what would go wrong is told before it does."""

import json
import ssl
from argparse import Namespace

import processes
import pytest
from conftest import KEY
from processes import finished
from upstream import error, ok

from app import wiring
from cli import check as checking
from errors import ConfigError
from preflight import checks as preflight
from preflight import probes
from preflight.checks import Finding, Host
from store import redis as store

start = processes.start
AT_HOME = Host(on_platform=False, python="3.11.7", uvloop=True, descriptors=1024)
DEPLOYED = Host(on_platform=True, python="3.11.7", uvloop=True, descriptors=10_000)


def of(found, check):
    return next(each for each in found if each.check == check)


async def gathered(probe):
    return [each async for each in probe]


def test_the_defaults_are_in_order(settings):
    limited = settings(limit_total_usd_per_day=20)
    assert {each.level for each in preflight.findings(limited, AT_HOME)} == {"ok"}


@pytest.mark.parametrize(
    ("overrides", "check", "mend"),
    [
        ({"server_heartbeat_s": 55}, "heartbeat", "SLUICE_SERVER_HEARTBEAT_S=15"),
        ({"server_drain_s": 28}, "drain", "SLUICE_SERVER_DRAIN_S=23"),
        ({"server_idle_connection_s": 60}, "keep-alive", "SLUICE_SERVER_IDLE_CONNECTION_S=95"),
        ({}, "routers", "SLUICE_SERVER_TRUSTED_HOPS=1"),
        ({"auth_mode": "public"}, "limits", "SLUICE_LIMIT_TOTAL_USD_PER_DAY=20"),
        ({"chat_model": "gemma", "limit_ip_usd_per_day": 1}, "prices", "[model:gemma]"),
    ],
)
def test_what_is_hardly_meant_is_a_warning(settings, overrides, check, mend):
    found = of(preflight.findings(settings(**overrides), DEPLOYED), check)
    assert (found.level, mend in found.mend) == ("warn", True)


def test_a_price_that_is_set_or_not_needed_is_no_warning(settings):
    priced = settings(chat_model="gemma", limit_ip_usd_per_day=1, chat_input_usd_per_million=1)
    for config in (priced, settings(chat_model="gemma")):
        assert of(preflight.findings(config, AT_HOME), "prices").level == "ok"


def test_too_few_files_for_the_calls_in_flight_is_a_failure(settings):
    few = Host(on_platform=False, python="3.11.7", uvloop=True, descriptors=256)
    found = of(preflight.findings(settings(), few), "descriptors")
    assert (found.level, found.mend) == (
        "fail",
        "ulimit -n 500, or SLUICE_SERVER_MAX_IN_FLIGHT=78",
    )


@pytest.mark.parametrize(("host", "level"), [(AT_HOME, "ok"), (DEPLOYED, "warn")])
def test_recordings_in_production_are_a_warning(settings, host, level):
    replaying = settings(base_url="", api_key="")
    assert of(preflight.findings(replaying, host), "provider").level == level


def test_a_slower_event_loop_is_a_warning(settings):
    slow = Host(on_platform=False, python="3.11.7", uvloop=False, descriptors=1024)
    assert of(preflight.findings(settings(), slow), "runtime").level == "warn"


def test_a_table_names_the_line_to_change_below_what_was_found():
    rows = [Finding("ok", "one", "is well"), Finding("fail", "other", "is not", "OTHER=1")]
    assert preflight.as_table(rows).splitlines() == [
        "ok    one    is well",
        "fail  other  is not",
        "             → OTHER=1",
    ]


@pytest.mark.parametrize(("folder", "level"), [("", "ok"), ("nowhere/", "fail")])
async def test_samples_need_a_place_to_go(settings, tmp_path, folder, level):
    config = settings(audit_destination=f"{tmp_path}/{folder}audit.jsonl")
    assert of(await gathered(probes.local(config)), "audit").level == level


async def test_samples_do_not_go_into_a_folder(settings, tmp_path):
    found = of(await gathered(probes.local(settings(audit_destination=tmp_path))), "audit")
    assert (found.level, "is a folder" in found.found) == ("fail", True)


# Redis


async def test_a_redis_that_answers(settings, redis):
    found = of(await gathered(probes.local(settings(redis_url=redis.url))), "redis")
    assert (found.level, "while it is down" in found.found) == ("ok", True)


async def test_a_redis_that_forgets_when_full_is_a_warning(settings, redis):
    config = settings(redis_url=redis.url)
    client = store.connection(config.store)
    await client.config_set("maxmemory", "100mb")
    await client.config_set("maxmemory-policy", "allkeys-lru")
    await client.aclose()

    found = of(await gathered(probes.local(config)), "redis")

    assert (found.level, "allkeys-lru" in found.found) == ("warn", True)


async def test_a_redis_that_is_down_is_a_failure_without_its_password(settings):
    config = settings(redis_url="redis://:canary@127.0.0.1:9/0")
    found = of(await gathered(probes.local(config)), "redis")
    assert (found.level, "127.0.0.1:9 cannot be reached" in found.found) == ("fail", True)
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    "rest",
    [
        ":99999",
        ":port",
        "?max_connections=x",
        "?foo=bar",
        "?protocol=9",
        "?retry=x",
        "?ssl_cert_reqs=none",
    ],
)
async def test_an_address_that_cannot_be_is_one_line_without_its_password(settings, rest):
    config = settings(redis_url=f"redis://:canary@127.0.0.1{rest}")
    found = of(await gathered(probes.local(config)), "redis")
    assert (found.level, "REDIS_URL: redis-py cannot use" in found.found) == ("fail", True)
    assert "canary" not in repr(found)
    with pytest.raises(ConfigError) as caught:
        store.Store(config.store, clock=float)
    assert str(caught.value) == found.found


def test_a_certificate_of_its_own_is_explained():
    failed = ConnectionError("Error 1 connecting")
    failed.__cause__ = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self")
    found = probes.redis_down("host:6379", failed)
    assert (found.level, "ssl_cert_reqs=none" in found.mend) == ("fail", True)


# The provider


@pytest.fixture
def live(settings, upstream):
    async def run(**overrides):
        config = settings(base_url=upstream.url, **overrides)
        router = wiring.live_router(config)
        try:
            return await gathered(probes.live(config, router))
        finally:
            await router.aclose()

    return run


async def test_each_model_is_asked_for_one_token(live, upstream):
    upstream.will(ok("Hi"))
    found = await live(chat_models="gpt-4o")
    assert [(each.level, each.check) for each in found] == [
        ("ok", "default/gpt-4o-mini"),
        ("ok", "default/gpt-4o"),
    ]
    assert "it cost about $0.00000" in found[0].found
    assert [each.json["max_tokens"] for each in upstream.requests] == [1, 1]


@pytest.mark.parametrize(
    ("answer", "level", "told", "mend"),
    [
        (401, "fail", "the key was refused (401)", "OPENAI_API_KEY=…"),
        (404, "fail", "no such model", "[provider] base_url"),
        (400, "warn", "took the key", ""),
        (500, "fail", "failed: status_500", "[provider] base_url"),
    ],
)
async def test_what_the_provider_says_is_told(live, upstream, answer, level, told, mend):
    upstream.will(error(answer))
    (found,) = await live()
    assert (found.level, told in found.found, mend in found.mend) == (level, True, True)
    assert KEY not in repr(found)


@pytest.mark.parametrize(
    ("status", "message", "found", "mend"),
    [
        (400, "API key not valid. Please pass a valid API key.", "the key was refused (400)",
         "OPENAI_API_KEY=…"),
        (402, "Insufficient Balance", "no credit left (402)", "OPENAI_API_KEY"),
        (400, "Model Not Exist", "no such model (400)", "gpt-4o-mini"),
        (405, "No.", "no API at this address (405)", "[provider] base_url"),
        (302, "No.", "redirects elsewhere", "[provider] base_url"),
        (400, "Unsupported parameter: 'max_tokens'", "field max_tokens was refused",
         "[provider] max_tokens_field"),
    ],
)  # fmt: skip
async def test_key_account_model_address_and_field_are_told_apart(
    live, upstream, status, message, found, mend
):
    upstream.will(error(status, message=message))
    (finding,) = await live()
    assert (finding.level, found in finding.found, mend in finding.mend) == ("fail", True, True)


async def test_what_the_operator_can_fix_is_one_line_a_minute(sluice, upstream, caplog):
    upstream.will(error(401))
    server = await sluice()
    for _ in range(3):
        await server.chat()
    (line,) = (each for each in caplog.records if each.name == "sluice.provider")
    assert (line.levelname, line.reason, line.fix) == ("ERROR", "wrong_key", "OPENAI_API_KEY=…")
    assert KEY not in repr(line.__dict__)
    server.clock.advance(61)
    await server.chat()
    assert len([each for each in caplog.records if each.name == "sluice.provider"]) == 2


async def test_the_providers_are_closed_whatever_happens(settings, monkeypatch):
    closed = []

    class Router:
        async def aclose(self):
            closed.append(True)

    def broken(config, router):
        raise ZeroDivisionError

    monkeypatch.setattr(checking, "live_router", lambda config: Router())
    monkeypatch.setattr(probes, "live", broken)
    with pytest.raises(ZeroDivisionError):
        await checking._findings(Namespace(config="", live=True), settings(), AT_HOME)
    assert closed == [True]


# The command


async def test_check_is_0_where_nothing_fails_and_1_where_something_does():
    code, output, errors = await finished("check")
    assert (code, errors) == (0, "")
    assert "fail" not in output.split()

    code, output, errors = await finished(
        "check", "--json", SLUICE_AUTH_MODE="keys", SLUICE_AUTH_KEYS_FILE="/nowhere/keys.ini"
    )
    document = json.loads(output)
    assert (code, errors, document["level"]) == (1, "", "fail")
    (fault,) = (each for each in document["checks"] if each["level"] == "fail")
    assert (fault["check"], "keys add NAME makes it" in fault["found"]) == ("credentials", True)


async def test_a_live_check_without_a_key_is_one_failure():
    code, output, errors = await finished("check", "--live")
    assert (code, errors) == (1, "")
    assert "no key is set" in output
    assert "OPENAI_API_KEY=…" in output


async def test_settings_that_cannot_be_are_one_failure():
    code, output, errors = await finished("check", PORT="99999")
    assert (code, errors) == (1, "")
    assert output.startswith("fail  configuration  PORT")


@pytest.mark.parametrize("command", ["check", "serve"])
async def test_a_redis_address_that_cannot_be_is_one_line_of_either_command(command):
    code, output, errors = await finished(
        command, PORT="0", REDIS_URL="redis://:canary@localhost?foo=bar"
    )
    told = output if command == "check" else errors
    assert (code, "REDIS_URL: redis-py cannot use this address" in told) == (1, True)
    assert "Traceback" not in errors
    assert "canary" not in output + errors


async def test_traces_that_cannot_be_are_a_failure_of_check_but_not_of_keys(tmp_path):
    bad = {"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"}
    code, output, errors = await finished("check", **bad)
    assert (code, errors) == (1, "")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT: must be an address like" in output
    (tmp_path / "keys.ini").touch()
    listed = await finished("keys", "list", SLUICE_AUTH_KEYS_FILE=str(tmp_path / "keys.ini"), **bad)
    assert listed == (0, "", "")


@pytest.mark.parametrize(
    ("endpoint", "told"), [("http://localhost:4318", "are sent"), ("", "none")]
)
async def test_whether_there_are_traces_is_told(endpoint, told):
    _, output, _ = await finished("check", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    (found,) = (each for each in json.loads(output)["checks"] if each["check"] == "traces")
    assert (found["level"], found["found"].startswith(told)) == ("ok", True)


async def test_a_start_logs_what_is_hardly_meant(start):
    server = await start(SLUICE_SERVER_DRAIN_S="28")
    line = await server.line("preflight")
    assert (line["level"], line["check"]) == ("WARNING", "drain")
