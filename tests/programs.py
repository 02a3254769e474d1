"""Programs of clients/, which use what others call Sluice with: started once, asked line by line.

tests/tools.sh installs the packages: those of npm with a Node of their own, where the machine's
may be too old, and those of Python apart from Sluice's.
"""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

_CLIENTS: Final = Path(__file__).parent / "clients"
_MODULES: Final = _CLIENTS / "js" / "node_modules"
_PYTHON: Final = Path(__file__).parent.parent / ".venv-clients" / "bin" / "python"


class Program:
    """A program that answers each line of JSON with one."""

    def __init__(self, *command: str, cwd: Path, environ: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        """Wait until all is imported, which takes some of them seconds."""
        assert self._process.stdout
        assert self._process.stdout.readline() == b"ready\n", "the program did not start"

    async def ask(self, **question: object) -> Any:
        """The answer to this; the loop goes on, for the program asks a server that runs on it."""
        return json.loads(await asyncio.to_thread(self._exchange, question))

    def _exchange(self, question: object) -> bytes:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def kill(self) -> None:
        self._process.kill()
        with self._process:
            pass  # closes the pipes, and waits


def in_node(release: int, *arguments: str) -> Program:
    """A program of clients/js.

    Args:
        release: the Node release that its packages need.
        arguments: the script's name and its own arguments.
    """
    return Program(_node(release), *arguments, cwd=_MODULES.parent)


def _node(release: int) -> str:
    """The path of a Node that is new enough; a skip, where it or the packages are missing."""
    if not _MODULES.exists():
        pytest.skip("tests/clients/js/node_modules is missing: npm and sh tests/tools.sh make it")
    own = [str(path) for path in _MODULES.glob("node-*/bin/node")]
    for path in filter(None, (*own, shutil.which("node"))):
        said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        if int(said.removeprefix("v").partition(".")[0]) >= release:
            return path
    pytest.skip(f"there is no Node {release} or newer")


def in_python(script: str, **environ: str) -> Program:
    """A program of clients/python; a skip, where the packages are missing."""
    if not _PYTHON.exists():
        pytest.skip(".venv-clients is missing: sh tests/tools.sh makes it")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return Program(str(_PYTHON), script, cwd=_CLIENTS / "python", environ={**kept, **environ})
