"""The rooms know each other only as the design draws them, and stay small enough to read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("handlers", "guards", "provider", "telemetry")
BASE = (
    "call.py",
    "config.py",
    "config_loader.py",
    "config_reader.py",
    "documents.py",
    "errors.py",
    "platforms.py",
    "prices.py",
    "store.py",
    "trace_context.py",
    "version.py",
)
TOP = (
    "server.py",
    "serving.py",
    "wiring.py",
    "commands.py",
    "checking.py",
    "audit_view.py",
    "preflight.py",
    "probes.py",
    "reload.py",
)
OURS = [
    *(ROOT / name for name in (*BASE, *TOP)),
    *(path for room in ROOMS for path in sorted((ROOT / room).glob("*.py"))),
]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_import_contracts_hold():
    lint = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", BASE)
def test_base_modules_import_no_room(name):
    roots = {module.partition(".")[0] for module in imported(ROOT / name)}
    assert not roots & {*ROOMS, "server", "tornado", "openai"}


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_handlers_and_server_know_tornado_web(path):
    allowed = path.parent.name == "handlers" or path.name == "serving.py"
    assert allowed or "tornado.web" not in imported(path)


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_server_reads_the_environment(path):
    if path.name != "server.py":
        assert not imported(path) & {"dotenv"}
        assert "environ[" not in path.read_text() or path.name == "config_reader.py"
        assert "os.environ" not in path.read_text()
        assert "getenv" not in path.read_text()
