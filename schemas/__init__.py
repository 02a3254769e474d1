"""The JSON Schemas of requests, replies, events and settings, one file each."""

import json
from pathlib import Path
from typing import Any, Final

SCHEMAS: Final = Path(__file__).parent


def load(name: str) -> dict[str, Any]:
    """The schema in this file."""
    schema: dict[str, Any] = json.loads((SCHEMAS / name).read_bytes())
    return schema
