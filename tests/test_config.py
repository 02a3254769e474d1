"""Settings: one list of them, one clear line for each fault."""

import configparser
import re
from pathlib import Path

import pytest

from config import loader
from errors import ConfigError
from schemas.generate import generated
from schemas.settings import SECTIONS, settings

ROOT = Path(__file__).parent.parent
CANARY = "sk-canary-51bd"
SETTINGS = [(section, key) for section, key, _ in settings()]


def load(tmp_path, text="", **environ):
    path = tmp_path / "config.ini"
    path.write_text(text)
    return loader.load(path, environ)


def fault(tmp_path, text="", **environ):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environ)
    line = str(caught.value)
    assert "\n" not in line
    assert CANARY not in line
    return line


def test_the_file_is_generated_and_changes_nothing(tmp_path):
    assert (ROOT / "config.ini").read_text() == generated()[ROOT / "config.ini"]
    assert loader.load(ROOT / "config.ini", {}).chat == load(tmp_path).chat
    assert all(
        line.startswith(("#", "[")) or not line
        for line in (ROOT / "config.ini").read_text().splitlines()
    )


def test_each_line_of_the_file_may_be_uncommented(tmp_path):
    """With all of them the settings are still the defaults, and no secret is among them."""
    whole = re.sub(r"^#(\w+ =|\[)", r"\1", (ROOT / "config.ini").read_text(), flags=re.M)
    text = whole.partition("[provider:groq]")[0]
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    named = {(section, key) for section in parser.sections() for key in parser[section]}
    assert named == {(s, k) for s, k, rule in settings() if not rule.get("writeOnly")}
    assert load(tmp_path, text) == load(tmp_path)
    loaded = load(tmp_path, whole, GROQ_API_KEY="x", OPENAI_API_KEY="x")
    assert list(loaded.models) == ["gpt-4o-mini", "fast"]


def test_the_sections_are_generated():
    assert (ROOT / "config/sections.py").read_text() == generated()[ROOT / "config/sections.py"]


@pytest.mark.parametrize(("section", "key"), SETTINGS)
def test_every_setting_says_what_it_means(section, key):
    rule = SECTIONS[section]["properties"][key]
    assert rule["description"].endswith(".")
    assert "default" in rule


GROQ = "[provider:groq]\nbase_url = https://groq.test/v1\nattempt_s = 9\n"
FAST = "[model:fast]\nupstream = groq/llama-3.1-8b, default/openai/gpt-4o\nmax_tokens = 50\n"


def test_models_and_providers_have_names(tmp_path):
    loaded = load(tmp_path, GROQ + FAST, OPENAI_API_KEY="a", GROQ_API_KEY=CANARY)
    assert list(loaded.providers) == ["default", "groq"]
    groq = loaded.providers["groq"]
    assert (groq.base_url, groq.api_key, groq.attempt_s) == ("https://groq.test/v1", CANARY, 9)
    assert (groq.first_token_s, groq.idle_s) == (9, loaded.provider.idle_s)
    assert list(loaded.models) == ["gpt-4o-mini", "fast"]
    fast = loaded.models["fast"]
    assert fast.upstream == (("groq", "llama-3.1-8b"), ("default", "openai/gpt-4o"))
    assert (fast.max_tokens, fast.max_tokens_limit, fast.callers) == (50, 0, ())
    assert loaded.models["gpt-4o-mini"].upstream == (("default", "gpt-4o-mini"),)
    assert CANARY not in repr(loaded)
    assert CANARY not in str(list(loader.effective(loaded)))


def test_no_answer_is_longer_than_the_limit(tmp_path):
    text = (
        "[chat]\nmax_tokens_limit = 1000\n"
        "[model:a]\nmax_tokens = 2000\n"
        "[model:b]\nmax_tokens_limit = 50\n"
        "[model:c]\nmax_tokens_limit = 0\nmax_tokens = 20000\n"
    )
    models = load(tmp_path, text).models
    longest = {name: (m.max_tokens, m.most_requested_tokens) for name, m in models.items()}
    assert longest == {
        "gpt-4o-mini": (1000, 1000),
        "a": (1000, 1000),
        "b": (50, 50),
        "c": (20000, 20000),
    }


def test_a_named_section_may_be_empty_and_overridden(tmp_path):
    text = "[chat]\nmodels = gpt-4.1\n[model:gpt-4.1]\n[model:o4-mini]\ncallers = a, b\n"
    loaded = load(tmp_path, text, SLUICE_MODEL_GPT_4_1_MAX_TOKENS="7")
    assert list(loaded.models) == ["gpt-4o-mini", "gpt-4.1", "o4-mini"]
    assert loaded.models["gpt-4.1"].max_tokens == 7
    assert loaded.models["o4-mini"].callers == ("a", "b")


def test_a_default_model_elsewhere_needs_no_key_of_openai(tmp_path):
    text = GROQ + FAST.replace(", default/openai/gpt-4o", "") + "[chat]\nmodel = fast\n"
    assert not load(tmp_path, text, GROQ_API_KEY="x").replays
    assert "[provider:groq] has no key: set GROQ_API_KEY" in fault(tmp_path, text)
    named = text.replace("attempt_s", "api_key_variable = MY_KEY\nattempt_s")
    assert "[provider:groq] has no key: set MY_KEY" in fault(tmp_path, named, GROQ_API_KEY="x")
    path = tmp_path / "config.ini"
    assert loader.load(path, {"GROQ_API_KEY": "x"}, ignore_keys=True).replays


@pytest.mark.parametrize(
    ("routes", "mode", "there"),
    [("auto", "none", True), ("auto", "public", False), ("on", "public", True),
     ("off", "none", False)],
)  # fmt: skip
def test_openais_routes_are_not_open_to_everyone_by_default(tmp_path, routes, mode, there):
    loaded = load(tmp_path, SLUICE_AUTH_MODE=mode, SLUICE_OPENAI_ROUTES=routes)
    assert loaded.openai_routes is there


def test_later_wins(tmp_path):
    text = "[server]\nport = 1001\n[chat]\nmax_tokens = 11\n"
    assert load(tmp_path, text).server.port == 1001
    assert load(tmp_path, text, SLUICE_SERVER_PORT="1002").server.port == 1002
    both = load(tmp_path, text, PORT="1003", SLUICE_SERVER_PORT="1002", SLUICE_CHAT_MAX_TOKENS="")
    assert (both.server.port, both.chat.max_tokens) == (1003, 11)


def test_values_are_taken_literally(tmp_path):
    text = "[chat]\nsystem_prompt = 100% %(sure)s # really\nmodels = a, b ,, c\n"
    loaded = load(tmp_path, text)
    assert loaded.chat.system_prompt == "100% %(sure)s # really"
    assert loaded.chat.models == ("a", "b", "c")


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "config.ini"
    path.write_bytes(b"\xef\xbb\xbf[server]\nport = 1001\n")
    assert loader.load(path, {}).server.port == 1001


def test_the_cassettes_are_beside_the_file(tmp_path):
    assert load(tmp_path).replay.cassettes == tmp_path / "cassettes"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 1\n", "line 1: a key stands before the first [section]"),
        ("[server]\nport\n", "line 2: is neither a [section] nor key = value"),
        ("[server]\nport=1\nport=2\n", "line 3: key port appears twice in [server]"),
        ("[server]\n[server]\n", "line 2: section [server] appears twice"),
        ("[sever]\n", "unknown section [sever]; did you mean server?"),
        ("[zzz]\n", "unknown section [zzz]; known: chat, provider,"),
        ("[server]\nprot = 1\n", "unknown key prot in [server]; did you mean port?"),
        (f"[provider]\napi_key = {CANARY}\n", "[provider] api_key is a secret"),
        ("[server]\nport = many\n", "[server] port = 'many': must be a whole number from 0 to"),
        ("[server]\nport = 70000\n", "must be a whole number from 0 to 65535"),
        ("[server]\nport = 1.5\n", "must be a whole number"),
        ("[retry]\nbackoff_s = nan\n", "[retry] backoff_s = 'nan': must be a number"),
        ("[retry]\nbackoff_s = inf\n", "must be a number"),
        ("[provider]\nidle_s = 0\n", "must be a number over 0 to"),
        ("[auth]\nmode = maybe\n", "must be one of none, public"),
        ("[chat]\nmodel =\n", "must be text of 1 to 200 characters"),
        (f"[chat]\nmodels = a, {'b' * 201}\n", "must be names of 1 to 200 characters"),
        (f"[provider]\nbase_url = https://me:{CANARY}@host/v1\n", "http or https address"),
        ("[provider]\nbase_url = ftp://host\n", "http or https address"),
        ("[provider]\nbase_url = http://host/v1\n", "[provider] has no key: set OPENAI_API_KEY"),
        ("[provider:x]\n", "[provider:x] base_url: must be set"),
        ("[provider:default]\nbase_url = http://host\n", "[provider:default]: is [provider]"),
        ("[provider:X y]\n", "unknown section [provider:X y]; did you mean provider"),
        ("[model:]\n", "unknown section [model:]; did you mean model:NAME?"),
        ("[model:a]\nspeed = 1\n", "unknown key speed in [model:a]; known: upstream,"),
        ("[model:a]\nupstream = gpt\n", "must be PROVIDER/MODEL, separated by commas"),
        ("[model:a]\nupstream =\n", "must be PROVIDER/MODEL, separated by commas"),
        ("[model:a]\nupstream = groq/b\n", "there is no provider groq; known: default"),
        ("[provider:a]\nbase_url = http://a\nattempt_s = 29\n",
         "[provider:a] attempt_s = 29: must be at most [provider:a] deadline_s = 28"),
        ("[provider]\nattempt_s = 29\n", "29: must be at most [provider] deadline_s = 28"),
        ("[provider]\ndeadline_s = 31\n",
         "deadline_s = 31: must be at most [server] platform_timeout_s = 30"),
        ("[chat]\nmax_tokens_limit = -1\n", "must be a whole number from 0 to 1000000000"),
        ("[server]\nhost = 0.0.0.0\n", "SLUICE_AUTH_MODE=public to let everyone in"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line(tmp_path, text, told):
    assert told in fault(tmp_path, text)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"SLUICE_SERVER_PROT": "1"}, "unknown variable; did you mean SLUICE_SERVER_PORT?"),
        ({"SLUICE_PROVIDER_API_KEY": CANARY}, "SLUICE_PROVIDER_API_KEY: unknown variable"),
        ({"PORT": "http"}, "PORT = 'http': must be a whole number"),
        ({"OPENAI_BASE_URL": f"http://me:{CANARY}@host"}, "OPENAI_BASE_URL: must be an http"),
        ({"DYNO": "web.1"}, "loopback only, not on this platform"),
        ({"DYNO": "web.1", "SLUICE_AUTH_MODE": "public"}, "set SLUICE_SERVER_TRUSTED_HOPS=1"),
        *(
            ({variable: "x"}, f"loopback only, not on this platform ({name})")
            for variable, name in (
                ("RENDER", "Render"), ("RAILWAY_ENVIRONMENT", "Railway"),
                ("K_SERVICE", "Cloud Run"),
                ("RAILWAY_PROJECT_ID", "Railway"), ("FLY_APP_NAME", "Fly.io"),
                ("FLY_MACHINE_ID", "Fly.io"), ("DETA_SPACE_APP", "Deta"),
                ("WEBSITE_SITE_NAME", "Azure App Service"), ("GAE_SERVICE", "App Engine"),
            )
        ),
        ({"FLY_APP_NAME": "a", "SLUICE_AUTH_MODE": "public"}, "set SLUICE_SERVER_TRUSTED_HOPS=2"),
        ({"RENDER": "true", "SLUICE_AUTH_MODE": "public"}, "TRUSTED_HOPS=1, or as many as add to"),
        ({"SLUICE_OPS_TOKEN": f"{CANARY} x"}, "SLUICE_OPS_TOKEN: must be 16 to 1000 letters"),
        ({"SLUICE_OPS_TOKEN": "short"}, "SLUICE_OPS_TOKEN: must be 16 to 1000 letters"),
        ({"REDIS_URL": f"http://me:{CANARY}@host"}, "REDIS_URL: must be an address like redis"),
        ({"SLUICE_BROWSER_XSRF": "maybe"}, "must be true or false"),
        ({"SLUICE_BROWSER_ALLOWED_ORIGINS": "example.com"}, "must be origins like https://app"),
        *(
            ({"SLUICE_BROWSER_ALLOWED_ORIGINS": never}, "must be origins like https://app")
            for never in (
                "*", "https://*", "https://app.example.com/", "https://app.example.com/chat",
                "https://a.*.example.com", "https://app*.example.com", "*://localhost",
                "https://me@example.com", "https://b\u00fccher.example", "file://", "file:///x",
                "tauri:", "https://example.com:", "https://example.com:a", "NULL",
            )
        ),
        ({"SLUICE_REDACTION_CARD": "hide"}, "must be one of redact, restore, block, off"),
    ],
)  # fmt: skip
def test_a_fault_in_the_environment_is_one_line(tmp_path, environ, told):
    assert told in fault(tmp_path, **environ)


def test_what_the_command_lines_of_platforms_read_is_no_platform(tmp_path):
    tokens = {"FLY_API_TOKEN": "x", "RAILWAY_TOKEN": "x", "RENDER_API_KEY": "x", "RENDER": ""}
    assert load(tmp_path, **tokens).host == "127.0.0.1"


@pytest.mark.parametrize("variable", ["DYNO", "RENDER", "FLY_APP_NAME", "K_SERVICE"])
def test_on_a_platform_it_listens_where_the_router_comes_from(tmp_path, variable):
    environ = {variable: "x", "PORT": "10000", "SLUICE_SERVER_TRUSTED_HOPS": "1"}
    loaded = load(tmp_path, SLUICE_AUTH_MODE="public", **environ)
    assert (loaded.host, loaded.server.port) == ("", 10000)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    for path, told in ((tmp_path, "cannot be read"), (tmp_path / "no.ini", "cannot be read")):
        with pytest.raises(ConfigError, match=told):
            loader.load(path, {})
    (tmp_path / "latin.ini").write_bytes(b"[chat]\nmodel = \xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        loader.load(tmp_path / "latin.ini", {})


@pytest.mark.parametrize(
    ("mode", "host", "effective"),
    [
        ("none", "", "127.0.0.1"),
        ("none", "::1", "::1"),
        ("none", "localhost", "localhost"),
        ("public", "", ""),
        ("public", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_where_it_listens(tmp_path, mode, host, effective):
    loaded = load(tmp_path, SLUICE_AUTH_MODE=mode, SLUICE_SERVER_HOST=host)
    assert loaded.host == effective


@pytest.mark.parametrize(
    ("environ", "there", "open_"),
    [
        ({}, True, True),
        ({"SLUICE_OPS_TOKEN": CANARY * 2}, True, False),
        ({"SLUICE_SERVER_TRUSTED_HOPS": "1"}, False, False),
        ({"SLUICE_AUTH_MODE": "public"}, False, False),
        ({"SLUICE_AUTH_MODE": "keys"}, False, False),
        ({"SLUICE_AUTH_MODE": "public", "SLUICE_OPS_TOKEN": CANARY * 2}, True, False),
    ],
)
def test_operations_are_for_this_machine_or_for_whoever_has_the_token(
    tmp_path, environ, there, open_
):
    loaded = load(tmp_path, **environ)
    assert (loaded.ops_routes, loaded.ops_open) == (there, open_)
    assert CANARY not in repr(loaded)


def test_the_key_is_masked(tmp_path):
    loaded = load(tmp_path, OPENAI_API_KEY=CANARY)
    shown = {(section, key): value for section, key, value in loader.effective(loaded)}
    assert shown["provider", "api_key"] == "(set)"
    assert CANARY not in repr(loaded)
    assert loaded.provider.api_key == CANARY
    empty = {(section, key): value for section, key, value in loader.effective(load(tmp_path))}
    assert empty["provider", "api_key"] == "(not set)"


def test_each_variable_of_the_example_exists():
    names = [
        line.lstrip("# ").partition("=")[0]
        for line in (ROOT / ".env.example").read_text().splitlines()
        if "=" in line
    ]
    known = {f"SLUICE_{section}_{key}".upper() for section, key in SETTINGS}
    assert names
    own = {"PORT", "OPENAI_API_KEY", "OPENAI_BASE_URL", "REDIS_URL"}
    own |= {"SLUICE_AUTH_JWT_SECRET", "SLUICE_OPS_TOKEN", "SLUICE_METRICS_TOKEN"}
    assert set(names) <= known | own
