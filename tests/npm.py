"""Programs of clients/js, which use real packages from npm: started once, then asked line by line.

tests/tools.sh installs the packages, with a Node of their own where the machine's may be too old.
"""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

FOLDER: Final = Path(__file__).parent / "clients" / "js"
_MODULES: Final = FOLDER / "node_modules"


class Program:
    """A program that answers each line of JSON with one.

    Args:
        arguments: the script's name and its own arguments.
        node: the Node release that the packages need.
    """

    def __init__(self, *arguments: str, node: int) -> None:
        self._process = subprocess.Popen(
            [_node(node), *arguments],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

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
