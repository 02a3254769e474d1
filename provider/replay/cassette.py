"""Cassettes: recorded HTTP recordings with a provider, in vcrpy's own file format.

Rules of this module:

- Written by allow-list: of the headers only those which change what a client does are kept,
  and a provider's request id is replaced. Keys, cookies, organisation and project names
  never reach the file. The prompt and the answer do: they are what is recorded.
- `metadata` says which engine answered, when, and through what (`Provenance`).
- vcrpy reads the same files in the tests (`record_mode="none"`).
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from errors import ConfigError

_KEPT_RESPONSE_HEADERS: Final = (
    "content-type",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
)
RECORDED_REQUEST_ID: Final = "req_recorded"
RECORDING_HEADER: Final = "X-Sluice-Recording"
"""How a replayed answer fits its request: `exact`, the recording of this conversation;
`substitute`, that of another one; `failure`, one that was played on request."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a cassette's answers come from."""

    engine: str
    recorded_at: str
    recorded_by: str


@dataclass(frozen=True, slots=True)
class Recording:
    """One request to `POST …/chat/completions` and its whole answer."""

    url: str
    request_body: bytes
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    """The answer's headers, names in lower case."""
    body: bytes

    @property
    def request(self) -> dict[str, Any]:
        document = json.loads(self.request_body)
        return document if isinstance(document, dict) else {}


def load(path: Path) -> list[Recording]:
    """The recordings of a cassette, in the order they were recorded.

    Raises:
        ConfigError: the file cannot be read as a cassette of chat completions.
    """
    # Here, for a server that does not replay can do without its 8 MB.
    from vcr.serialize import deserialize
    from vcr.serializers import yamlserializer

    try:
        requests, responses, *_ = deserialize(path.read_text("utf-8"), yamlserializer)
        recordings = [_recording(*pair) for pair in zip(requests, responses, strict=True)]
        readable = all(recording.request["messages"][-1]["content"] for recording in recordings)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # yaml's, vcrpy's and our own: all mean the same to the operator
        raise ConfigError(f"{path}: is not a cassette of chat completions") from None
    if not recordings or not readable:
        raise ConfigError(f"{path}: holds no recording")
    return recordings


def save(path: Path, recordings: Iterable[Recording], provenance: Provenance) -> None:
    """Write a cassette in one step: readers see the old file or the new one."""
    from vcr.request import Request
    from vcr.serialize import serialize
    from vcr.serializers import yamlserializer

    requests, responses = [], []
    for recording in recordings:
        kept = {"content-type": ["application/json"]}
        requests.append(Request("POST", recording.url, recording.request_body, kept))
        responses.append(
            {
                "status": {"code": recording.status, "message": recording.reason},
                "headers": {name: [value] for name, value in recording.headers},
                "body": {"string": recording.body},
            }
        )
    cassette = {"requests": requests, "responses": responses, "metadata": asdict(provenance)}
    part = path.with_name(path.name + ".part")
    part.write_text(serialize(cassette, yamlserializer), "utf-8")
    os.replace(part, path)


def scrubbed(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """What of an answer's headers goes into a cassette."""
    kept = [
        (name.lower(), value) for name, value in headers if name.lower() in _KEPT_RESPONSE_HEADERS
    ]
    return (*kept, ("x-request-id", RECORDED_REQUEST_ID))


def _recording(request: Any, response: dict[str, Any]) -> Recording:
    return Recording(
        url=request.uri,
        request_body=request.body,
        status=response["status"]["code"],
        reason=response["status"]["message"] or "",
        headers=tuple((name.lower(), values[0]) for name, values in response["headers"].items()),
        body=response["body"]["string"],
    )
