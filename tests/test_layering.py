"""The rooms import each other only as the table in layering.py allows."""

import shutil
from pathlib import Path

import pytest
from layering import faults, sources

ROOT = Path(__file__).parent.parent


def test_every_import_is_allowed():
    assert faults(ROOT) == []


@pytest.fixture
def copy(tmp_path):
    """The server's files, to plant imports in."""
    for path in sources(ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("errors.py", "from guards.gate import Gate", "errors imports guards.gate.Gate"),
        ("trace_context.py", "import call", "trace_context imports call"),
        ("config/reader.py", "import store.redis", "config.reader imports store.redis"),
        ("guards/gate.py", "from cli import parser", "guards.gate imports cli.parser"),
        ("guards/tokens.py", "import provider.retry", "guards.tokens imports provider.retry"),
        ("provider/sse.py", "def f():\n    import telemetry", "provider.sse imports telemetry"),
        ("handlers/chat.py", "import preflight", "handlers.chat imports preflight"),
        ("handlers/xsrf.py", "import openai", "handlers.xsrf imports openai"),
        ("telemetry/window.py", "import aiohttp.web", "telemetry.window imports aiohttp.web"),
        ("provider/router.py", "import provider.client as c", None),
        ("helpers.py", "X = 1", "helpers: belongs to no layer"),
        ("prices.py", "from tornado import web", "prices imports tornado.web"),
        ("version.py", "import os\nX = os.environ", "version imports os.environ"),
        ("version.py", "from os import getenv", "version imports os.getenv"),
        ("cli/check.py", "import dotenv", "cli.check imports dotenv"),
        ("guards/tokens.py", "import guards.gate", "a circle: "),
    ],
)
def test_a_planted_import_is_found(copy, file, line, fault):
    with (copy / file).open("a") as planted:
        planted.write(f"\n{line}\n")
    found = faults(copy)
    assert found == [] if fault is None else any(each.startswith(fault) for each in found)
