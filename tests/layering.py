"""What may import what: the rooms of docs/design.md as one table, and a reader of imports.

    faults(root)                every import that the table does not allow, in words
    python tests/layering.py    prints them; exit status 1 if there are any

An import is allowed from a layer to a lower one, and inside a room. Rooms that share a layer do
not import one another, except the base modules at the bottom. A file that belongs to no layer is
a fault itself, so a new room or root module has to be put here first.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

LAYERS: Final = (
    ("server",),
    ("cli",),
    ("app",),
    ("preflight",),
    ("handlers",),
    ("calls",),
    ("guards", "provider", "telemetry"),
    ("store",),
    ("prices",),
    ("call",),
    ("config",),
    ("errors", "json_tree", "schemas", "trace_context", "version"),
)
# Foreign modules that belong to some rooms alone.
RESERVED: Final = {
    "tornado.web": ("handlers", "app.serving"),
    "openai": ("provider", "preflight"),
    "httpx2": ("provider", "app.wiring"),
    "aiohttp": ("provider",),
    "os.environ": ("server",),
    "os.getenv": ("server",),
    "dotenv": ("server",),
}
_LEVEL: Final = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
_BASE: Final = len(LAYERS) - 1


def faults(root: Path) -> list[str]:
    """What is wrong with the imports of the server's files under `root`."""
    modules = {_module(root, path): path for path in sources(root)}
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        imports = set(_imports(ast.parse(path.read_text()), module))
        graph[module] = {_nearest(name, modules) for name in imports} - {"", module}
        if _room(module) not in _LEVEL:
            found.append(f"{module}: belongs to no layer")
            continue
        found += (f"{module} imports {name}" for name in sorted(imports) if _illegal(module, name))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("a circle: " + " → ".join(error.args[1]))
    return found


def sources(root: Path) -> Iterator[Path]:
    """The server's own files: those at the root, and those of packages."""
    yield from sorted(root.glob("*.py"))
    for init in sorted(root.glob("*/__init__.py")):
        yield from sorted(init.parent.rglob("*.py"))


def _illegal(module: str, name: str) -> bool:
    for foreign, rooms in RESERVED.items():
        if _is_in(name, foreign):
            return not any(_is_in(module, room) for room in rooms)
    own, other = _room(module), _room(name)
    if other not in _LEVEL or own == other:
        return False
    if _LEVEL[own] == _LEVEL[other] == _BASE:
        return False
    return _LEVEL[other] <= _LEVEL[own]


def _imports(tree: ast.Module, module: str) -> Iterator[str]:
    """Full names of what is imported, wherever the import stands, and uses of os.environ."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            yield "os.environ"


def _module(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _nearest(name: str, modules: dict[str, Path]) -> str:
    """The module that `name` is, or is in; empty for foreign ones."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _room(module: str) -> str:
    return module.partition(".")[0]


def _is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


if __name__ == "__main__":
    sys.exit("\n".join(faults(Path(__file__).parent.parent)) or None)
