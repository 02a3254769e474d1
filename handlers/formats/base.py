"""What forms of an answer have in common; calls/client.py says what each must offer."""

from collections.abc import Mapping
from typing import ClassVar, Final

EVENT_STREAM: Final = "text/event-stream"
STREAM_HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class Json:
    """A form of JSON in one piece."""

    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class Events:
    """A form of Server-Sent Events."""

    content_type: str = EVENT_STREAM
    headers: Mapping[str, str] = STREAM_HEADERS
    heartbeat: ClassVar[bytes] = b": ping\n\n"


class JsonOrEvents(Events):
    """A form that is either.

    Args:
        streams: whether it is events.
    """

    def __init__(self, *, streams: bool) -> None:
        if not streams:
            self.content_type, self.headers = Json.content_type, Json.headers
