"""`make run` on a machine where Python is not whole."""

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")

# Debian's python3 without python3-venv leaves a .venv without pip behind.
PYTHON = """#!/bin/sh
case "$*" in
  "-m venv"*)
    for folder; do :; done
    mkdir -p "$folder/bin"
    cp "$0" "$folder/bin/python"
    test ! -e broken || exit 1
    touch "$folder/pip" ;;
  "-m pip"*) test -e .venv/pip ;;
  "server.py") echo "it serves" ;;
esac
"""


def make(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "run", f"PYTHON={folder / 'python3'}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_make_run_recovers_from_a_first_try_without_python3_venv(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "python3").write_text(PYTHON)
    (tmp_path / "python3").chmod(0o755)
    (tmp_path / "broken").touch()
    for _ in range(2):
        failed = make(tmp_path)
        assert failed.returncode != 0
        assert "apt install python3-venv" in failed.stdout
    assert (tmp_path / ".venv/bin/python").exists()

    (tmp_path / "broken").unlink()
    served = make(tmp_path)

    assert served.returncode == 0, served.stderr
    assert "it serves" in served.stdout
