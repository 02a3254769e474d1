"""What an answer looks like on the wire: one class for each form, see `Format`."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from call import Call
from errors import CallError
from provider.dialects.openai_chat import Completion

EVENT_STREAM: Final = "text/event-stream"
STREAM_HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class Format:
    """The form of one answer: whole, or as a stream, which is `begin`, `deltas`…, and then
    either `finish` or `error`. Documents are those of chat completions."""

    heartbeat: ClassVar[bytes] = b": ping\n\n"
    """What keeps a quiet stream alive without being read; empty: nothing may."""

    streams = False
    """Whether the answer is an event stream."""

    @property
    def content_type(self) -> str:
        return EVENT_STREAM if self.streams else "application/json"

    @property
    def headers(self) -> Mapping[str, str]:
        """Further headers."""
        return STREAM_HEADERS if self.streams else {}

    def whole(self, call: Call, completion: Completion) -> bytes:
        """The body of an answer in one piece."""
        raise NotImplementedError

    def begin(self, call: Call) -> bytes:
        """What goes before the first delta."""
        return b""

    def deltas(self, call: Call, documents: Sequence[dict[str, Any]]) -> bytes:
        """What these events add."""
        raise NotImplementedError

    def finish(self, call: Call) -> bytes:
        """The end of a whole answer, or of one that was cut where its tokens were used up."""
        raise NotImplementedError

    def error(self, call: Call, failure: CallError) -> bytes | None:
        """The end of a stream that broke. None: the form has no word for it, so the connection
        must break, too."""
        raise NotImplementedError
