"""Who receives a reply, and in which form: what an exchange needs to know of the wire.

handlers/ implements all three over HTTP; a test may write into a list.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

from call import Call
from errors import CallError
from provider.dialects.openai_chat import Completion


class Form(Protocol):
    """What every form of an answer says of itself."""

    wire_name: ClassVar[str]
    """Which form this is, in the fingerprint of a kept reply: never changed, never used twice."""

    @property
    def content_type(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Further headers."""
        ...


class ReplyFormat(Form, Protocol):
    """The form of an answer in one piece."""

    def reply(self, call: Call, completion: Completion) -> bytes:
        """The body."""
        ...


class StreamFormat(Form, Protocol):
    """The form of an answer that comes piece by piece: `begin`, `deltas`…, and then either
    `finish` or `error`. Documents are those of chat completions."""

    heartbeat: ClassVar[bytes]
    """What keeps a quiet stream alive without being read; empty: nothing may."""

    def begin(self, call: Call) -> bytes:
        """What goes before the first delta."""
        ...

    def deltas(self, call: Call, documents: Sequence[dict[str, Any]]) -> bytes:
        """What these events add."""
        ...

    def finish(self, call: Call) -> bytes:
        """The end of a complete answer, or of one that was truncated at its token limit."""
        ...

    def error(self, call: Call, failure: CallError) -> bytes | None:
        """The end of a stream that broke. None: the form cannot express it, so the connection
        must break, too."""
        ...


class Client(Protocol):
    """The receiver of one reply."""

    @property
    def has_started(self) -> bool:
        """Whether status and headers have left, so that an error must take another form."""
        ...

    def start(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        """Set status and headers; they leave with the first flush."""
        ...

    def write(self, data: bytes) -> None:
        """Add to the body."""
        ...

    async def flush(self) -> None:
        """Send what was written.

        Raises:
            CallError: `client_gone`, where it has left or does not read.
        """
        ...

    async def end(self) -> None:
        """Send the rest, and end the reply. Raises as `flush`."""
        ...

    def heartbeats(self, comment: bytes) -> AbstractContextManager[None]:
        """Send the comment, unless it is empty, whenever nothing else was sent for a while."""
        ...

    def refuse(self, failure: CallError, headers: Mapping[str, str]) -> None:
        """Reply with an error and nothing else, before anything has left."""
        ...

    def disconnect(self) -> None:
        """Close the connection, so that an incomplete reply cannot pass for a complete one."""
        ...
