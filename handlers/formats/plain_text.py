"""Plain text: the words and nothing else, for readers that want no more.

What the AI SDK's TextStreamChatTransport reads. It has no word for a failure: a stream that
breaks breaks its connection, so that it cannot be taken for a whole one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from call import Call
from errors import CallError
from handlers.formats.base import STREAM_HEADERS
from provider.dialects.openai_chat import Completion, first_text


class PlainText:
    wire_name: ClassVar[str] = "plain_text"
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = STREAM_HEADERS
    heartbeat: ClassVar[bytes] = b""

    def reply(self, call: Call, completion: Completion) -> bytes:
        return first_text(completion.document, "message").encode()

    def begin(self, call: Call) -> bytes:
        return b""

    def deltas(self, call: Call, documents: Sequence[dict[str, Any]]) -> bytes:
        return "".join([first_text(document, "delta") for document in documents]).encode()

    def finish(self, call: Call) -> bytes:
        return b""

    def error(self, call: Call, failure: CallError) -> None:
        return None
