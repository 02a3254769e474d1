"""`{"text", "usage"}`: the short form of /api/chat."""

from typing import ClassVar

import orjson

from call import Call
from handlers.formats.base import Json
from provider.dialects.openai_chat import Completion, first_text


class TextReply(Json):
    """See schemas/chat.response.json."""

    wire_name: ClassVar[str] = "text_and_usage"

    def reply(self, call: Call, completion: Completion) -> bytes:
        text = first_text(completion.document, "message")
        usage = call.usage.as_json() if call.usage else None
        return orjson.dumps({"text": text, "usage": usage}, option=orjson.OPT_APPEND_NEWLINE)
