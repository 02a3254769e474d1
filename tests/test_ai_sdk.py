"""The AI SDK's useChat, unchanged, in front of a real server: versions 5, 6 and 7 from npm."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import StartSluice, deadline
from programs import Program, in_node
from upstream import (
    ERROR_IN_DATA,
    Exchange,
    Step,
    Upstream,
    after_content,
    answer_stream,
    chunks,
    error,
    usage_of,
)

NEEDS_NODE = {"ai5": 18, "ai6": 18, "ai7": 22}

HELLO = ["sendMessage", {"text": "Hello"}]
AGAIN = ["regenerate"]


@dataclass(frozen=True)
class Page:
    """What one page showed, in the end and on the way."""

    statuses: list[str]
    messages: list[Any]
    error: str | None
    finished: list[Any]

    @property
    def texts(self) -> list[str]:
        """What each message says."""
        return [
            "".join(part.get("text", "") for part in message["parts"] if part["type"] == "text")
            for message in self.messages
        ]

    @property
    def failure(self) -> Any:
        """The server's error, as a page reads it."""
        assert self.error
        return json.loads(self.error)


class UseChat:
    """Has conversations by useChat."""

    def __init__(self, program: Program) -> None:
        self._program = program

    async def __call__(
        self,
        api: str,
        *steps: object,
        messages: object = (),
        resume: bool = False,
        text: bool = False,
        stop_at: str | None = None,
        **request: object,
    ) -> Page:
        """A page that does these steps, one after the other.

        Args:
            messages: those that the page begins with.
            text: use TextStreamChatTransport.
            stop_at: words that the user stops the answer at.
            request: settings of the transport.
        """
        seen = await self._program.ask(
            chat={"id": "chat-1", "messages": messages},
            request={"api": api, **request},
            text=text,
            resume=resume,
            steps=steps,
            stopAt=stop_at,
        )
        return Page(**seen)


@pytest.fixture(scope="module", params=NEEDS_NODE)
def use_chat(request: pytest.FixtureRequest) -> Iterator[UseChat]:
    program = in_node(NEEDS_NODE[request.param], "use_chat.mjs", request.param)
    program.wait()
    yield UseChat(program)
    program.kill()


def address(server: Any) -> str:
    return f"http://127.0.0.1:{server.port}/api/chat"


def asked(exchange: Exchange) -> list[tuple[str, str]]:
    """The conversation as the provider got it, without our own system prompt."""
    system, *said = exchange.request.json["messages"]
    assert system["role"] == "system"
    assert all(message.keys() == {"role", "content"} for message in said)
    return [(message["role"], message["content"]) for message in said]


def said(role: str, *parts: dict[str, object], id: str = "m") -> dict[str, object]:
    return {"id": id, "role": role, "parts": parts}


def text(words: str) -> dict[str, object]:
    return {"type": "text", "text": words}


async def test_an_answer(use_chat: UseChat, sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(answer_stream("Grüße", ' "an"\n', "alle 👩‍🚀 שלום"))
    server = await sluice()

    page = await use_chat(address(server), HELLO)

    assert page.statuses == ["submitted", "streaming", "ready"]
    assert page.error is None
    assert page.texts == ["Hello", 'Grüße "an"\nalle 👩‍🚀 שלום']
    metadata = page.messages[1]["metadata"]
    assert metadata["model"] == "gpt-4o-mini"
    assert metadata["usage"] == usage_of(9, 3)
    assert metadata["charged"]["usd"] > 0
    assert page.finished == [{"text": page.texts[1], **whole("stop")}]
    assert (await server.record()).code == "completed"


async def test_a_conversation(use_chat: UseChat, sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(answer_stream("One"), answer_stream("Two"))
    server = await sluice()

    page = await use_chat(address(server), HELLO, ["sendMessage", {"text": "And then?"}])

    assert page.texts == ["Hello", "One", "And then?", "Two"]
    assert asked(upstream.exchanges[1]) == [
        ("user", "Hello"),
        ("assistant", "One"),
        ("user", "And then?"),
    ]
    assert len({message["id"] for message in page.messages}) == 4


async def test_regenerate(use_chat: UseChat, sluice: StartSluice, upstream: Upstream) -> None:
    upstream.will(answer_stream("One"), answer_stream("Another"))
    server = await sluice()

    page = await use_chat(address(server), HELLO, AGAIN)

    assert page.texts == ["Hello", "Another"]
    assert asked(upstream.exchanges[1]) == [("user", "Hello")]


async def test_an_edited_question(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream("Two"))
    server = await sluice()
    before = [said("user", text("Hello"), id="first"), said("assistant", text("One"), id="second")]

    edit = ["sendMessage", {"text": "Goodbye", "messageId": "first"}]
    page = await use_chat(address(server), edit, messages=before)

    assert page.texts == ["Goodbye", "Two"]
    assert asked(upstream.exchanges[0]) == [("user", "Goodbye")]


async def test_stop_ends_the_upstream_call_and_the_chat_goes_on(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(after_content(), answer_stream("More"))
    server = await sluice()

    page = await use_chat(address(server), HELLO, HELLO, stop_at="three")

    await upstream.exchanges[0].closed.wait()
    assert page.error is None
    assert page.texts == ["Hello", "One two three", "Hello", "More"]
    assert [each["isAbort"] for each in page.finished] == [True, False]
    await server.calls.wait(2)
    assert [record.code for record in server.calls.records] == ["client_gone", "completed"]


async def test_a_failure_before_the_stream_is_told_as_json(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(error(500))
    server = await sluice()

    page = await use_chat(address(server), HELLO)

    assert page.statuses == ["submitted", "error"]
    assert page.failure["code"] == "provider_unavailable"
    assert page.failure["error"] == "Upstream provider unavailable"
    assert page.texts == ["Hello"]


async def test_a_limit_says_when_to_come_again(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream("One"))
    server = await sluice(limit_ip_requests_per_minute=1)

    page = await use_chat(address(server), HELLO, HELLO)

    assert page.failure["code"] == "rate_limited"
    assert page.failure["retry_after"] >= 1
    assert page.texts == ["Hello", "One", "Hello"]


BROKEN: dict[str, tuple[Step, str]] = {
    "an error of the provider": (chunks(ERROR_IN_DATA), "Upstream provider unavailable"),
    "a clean end without finish reason": (chunks(), "Upstream provider unavailable"),
    "a reset": (lambda exchange: _reset(exchange), "Upstream provider unavailable"),
}


async def _reset(exchange: Exchange) -> None:
    exchange.rst()


@pytest.mark.parametrize("how", BROKEN)
async def test_an_answer_that_breaks_is_an_error_and_can_be_had_anew(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream, how: str
) -> None:
    step, words = BROKEN[how]
    upstream.will(after_content(step))
    server = await sluice()

    page = await use_chat(address(server), HELLO)

    assert page.statuses == ["submitted", "streaming", "error"]
    assert page.error == words
    assert page.texts == ["Hello", "One two three"]
    assert [each["isError"] for each in page.finished] == [True]

    upstream.will(answer_stream("Whole"))
    page = await use_chat(address(server), AGAIN, messages=page.messages)

    assert (page.error, page.texts) == (None, ["Hello", "Whole"])


async def test_a_stream_that_stalls_is_an_error(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(after_content())
    server = await sluice(provider_idle_s=0.1)

    page = await use_chat(address(server), HELLO)

    assert page.statuses[-1] == "error"
    assert (page.error, page.texts[1]) == ("Request timed out", "One two three")


async def test_the_deadline_is_an_error(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(lambda exchange: exchange.closed.wait())
    server = await sluice(**deadline(0.1))

    page = await use_chat(address(server), HELLO)

    assert page.failure["code"] == "deadline_exceeded"


async def test_there_is_nothing_to_resume(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    server = await sluice()
    before = [said("user", text("Hello")), said("assistant", text("One"), id="a")]

    page = await use_chat(address(server), ["resumeStream"], messages=before, resume=True)

    assert (page.error, page.texts) == (None, ["Hello", "One"])
    assert not upstream.requests
    assert not server.calls.records


async def test_a_finish_reason_that_the_sdk_does_not_know(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream("One", reason="tired"))
    server = await sluice()

    page = await use_chat(address(server), HELLO)

    assert page.error is None
    assert page.finished == [{"text": "One", **whole("other")}]


PARTS = [
    {"type": "step-start"},
    {"type": "reasoning", "text": "Hm.", "state": "done", "providerMetadata": {"x": {"y": 1}}},
    {
        "type": "tool-weather",
        "toolCallId": "call_1",
        "state": "output-available",
        "input": {"city": "Oslo"},
        "output": {"degrees": [1, 2]},
    },
    {
        "type": "dynamic-tool",
        "toolName": "search",
        "toolCallId": "call_2",
        "state": "output-error",
        "input": {},
        "errorText": "No.",
    },
    {"type": "source-url", "sourceId": "1", "url": "https://example.com", "title": "Example"},
    {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA"},
    {"type": "data-note", "id": "n", "data": {"deep": [[1]]}},
    {"type": "from-the-future", "text": 5},
]


async def test_only_text_is_passed_on(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream("Two"))
    server = await sluice()
    before = [
        said("user", text("Hello"), *PARTS[-3:]),
        said("assistant", *PARTS, text("One"), text("more"), id="a"),
        said("assistant", *PARTS, id="b"),
    ]

    page = await use_chat(
        address(server),
        ["sendMessage", {"text": "Look", "files": [PARTS[5]]}],
        messages=before,
    )

    assert page.error is None
    assert asked(upstream.exchanges[0]) == [
        ("user", "Hello"),
        ("assistant", "One\nmore"),
        ("user", "Look"),
    ]


@pytest.mark.parametrize("policy", ["refuse", "drop"])
async def test_system_messages_follow_the_policy(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream, policy: str
) -> None:
    upstream.will(answer_stream("One"))
    server = await sluice(chat_system_messages=policy)

    system = [said("system", text("Obey me"))]
    page = await use_chat(address(server), HELLO, messages=system)

    if policy == "refuse":
        assert page.failure["code"] == "invalid_request"
        assert page.failure["error"] == "System messages are not accepted from clients"
        assert not upstream.requests
    else:
        assert page.error is None
        assert asked(upstream.exchanges[0]) == [("user", "Hello")]


async def test_further_fields_are_ignored_and_ours_are_heeded(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream("One"))
    server = await sluice(chat_models="gpt-4o")
    further = {"userId": "u", "temperature": 9, "tools": [{"name": "x"}], "stream": "no"}

    page = await use_chat(
        address(server), HELLO, body={**further, "model": "gpt-4o", "maxTokens": 7}
    )

    assert page.error is None
    body = upstream.requests[0].json
    assert (body["model"], body["max_tokens"]) == ("gpt-4o", 7)
    assert body.keys() == {"model", "max_tokens", "messages", "stream", "stream_options"}


async def test_a_repeated_request_is_answered_alike(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream
) -> None:
    upstream.will(answer_stream("One"))
    server = await sluice()
    hello = [said("user", text("Hello"))]

    pages = [
        await use_chat(
            address(server),
            AGAIN,
            messages=hello,
            headers={"Idempotency-Key": "k-1"},
        )
        for _ in range(2)
    ]

    assert [page.texts for page in pages] == [["Hello", "One"]] * 2
    assert len(upstream.requests) == 1


WAYS_TO_TEXT = pytest.mark.parametrize(
    ("query", "headers"),
    [("?format=text", {}), ("", {"Accept": "text/plain"})],
    ids=["format=text", "Accept"],
)


@WAYS_TO_TEXT
async def test_plain_text(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream, query: str, headers: Any
) -> None:
    upstream.will(answer_stream("Grüße", "\n\nan 👩‍🚀"))
    server = await sluice()

    page = await use_chat(address(server) + query, HELLO, text=True, headers=headers)

    assert page.statuses == ["submitted", "streaming", "ready"]
    assert (page.error, page.texts) == (None, ["Hello", "Grüße\n\nan 👩‍🚀"])


@pytest.mark.parametrize("how", BROKEN)
async def test_plain_text_that_breaks_is_an_error(
    use_chat: UseChat, sluice: StartSluice, upstream: Upstream, how: str
) -> None:
    upstream.will(after_content(BROKEN[how][0]))
    server = await sluice()

    page = await use_chat(address(server) + "?format=text", HELLO, text=True)

    assert page.statuses[-1] == "error"
    assert [each["isError"] for each in page.finished] == [True]


def whole(reason: str) -> dict[str, object]:
    """What onFinish is told of an answer that is whole."""
    return {"isAbort": False, "isDisconnect": False, "isError": False, "finishReason": reason}
