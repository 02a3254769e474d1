"""Recorded traffic, replayed by vcrpy below the SDK: what the provider said decides the outcome."""

import json
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import vcr

from app import wiring
from config import loader
from handlers import Services, make_app
from provider.dialects.openai_chat import first_text, parse_completion
from provider.replay.cassette import Provenance, Recording, load, save

ROOT = Path(__file__).parent.parent
CASSETTES = ROOT / "cassettes"
ANSWERS = load(CASSETTES / "answers.yaml")
BUFFERED = [recording for recording in ANSWERS if not recording.request.get("stream")]
STREAMED = [recording for recording in ANSWERS if recording.request.get("stream")]

# Only the provider's traffic is replayed: Tornado's own client, which the tests use, is not.
TAPE = vcr.VCR(record_mode="none", match_on=("method", "uri", "body"), skip_patchers=("tornado",))


class Story:
    """A cassette in which one request is answered by several recordings, one after another."""

    def __init__(self, tmp_path: Path, asked: Recording) -> None:
        self._path = tmp_path / "story.yaml"
        self._asked = asked

    def tell(self, *answers: Recording):
        asked = self._asked
        told = [replace(a, url=asked.url, request_body=asked.request_body) for a in answers]
        save(self._path, told, Provenance("a test", "now", "a test"))
        return TAPE.use_cassette(str(self._path))


def failure(name: str) -> Recording:
    [recording] = load(CASSETTES / f"{name}.yaml")
    return recording


def body_of(recording: Recording) -> str:
    """The request to Sluice which makes it ask what this recording asked."""
    asked = recording.request
    _, *earlier, last = asked["messages"]
    body = {"userMessage": last["content"], "maxTokens": asked["max_tokens"]}
    if earlier:
        body["messages"] = earlier
    return json.dumps(body | {"stream": bool(asked.get("stream"))})


def said(recording: Recording) -> str:
    """The text of a streamed recording, read apart from our own decoder."""
    lines = recording.body.decode().splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    return "".join(deltas)


@pytest.fixture
def waits():
    return []


@pytest.fixture
def app(io_loop, waits):
    """Sluice as it would run against the recorded engine, with its backoff written down."""

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    environ = {
        "SLUICE_CHAT_MODEL": ANSWERS[0].request["model"],
        "OPENAI_BASE_URL": ANSWERS[0].url.removesuffix("/chat/completions"),
        "OPENAI_API_KEY": "not-a-key",
    }
    parts = AsyncExitStack()

    async def build() -> Services:
        settings = loader.load(ROOT / "config.ini", environ)
        runtime = wiring.Runtime(sleep=sleep, random=random.Random(0).random)
        return await parts.enter_async_context(wiring.build_services(settings, runtime=runtime))

    yield make_app(io_loop.run_sync(build))
    io_loop.run_sync(parts.aclose)


@pytest.fixture
def post(http_server_client):
    async def post(body: str):
        return await http_server_client.fetch(
            "/api/chat",
            method="POST",
            headers={"Content-Type": "application/json"},
            body=body,
            raise_error=False,
        )

    return post


@pytest.fixture
def calls(caplog):
    """The settled calls, as their log records."""
    caplog.set_level("INFO", logger="sluice")
    return lambda: [r for r in caplog.records if r.name == "sluice.call"]


def words(recording: Recording) -> str:
    return f"{recording.request['messages'][-1]['content'][:24]}-{recording.request['max_tokens']}"


@pytest.mark.parametrize("recording", BUFFERED, ids=words)
async def test_recorded_answer_comes_whole(post, recording):
    with TAPE.use_cassette(str(CASSETTES / "answers.yaml")):
        reply = await post(body_of(recording))
    expected = parse_completion(recording.body)
    assert reply.code == 200
    assert expected.usage is not None
    assert json.loads(reply.body) == {
        "text": first_text(expected.document, "message"),
        "usage": expected.usage.as_json(),
    }


@pytest.mark.parametrize("recording", STREAMED, ids=words)
async def test_recorded_answer_comes_streamed(post, recording):
    with TAPE.use_cassette(str(CASSETTES / "answers.yaml")):
        reply = await post(body_of(recording))
    lines = [line for line in reply.body.decode().split("\n\n") if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert lines[-1] == "data: [DONE]"
    assert events[-1]["type"] == "finish"
    deltas = [event["delta"] for event in events if event["type"] == "text-delta"]
    assert "".join(deltas) == said(recording) != ""


@pytest.mark.parametrize("answer", [BUFFERED[0], STREAMED[0]], ids=["buffered", "streamed"])
async def test_rate_limit_then_answer_waits_as_told_and_succeeds(
    post, calls, waits, tmp_path, answer
):
    with Story(tmp_path, answer).tell(failure("rate_limited"), answer):
        reply = await post(body_of(answer))
    assert reply.code == 200
    [wait_s] = waits
    assert 1 <= wait_s <= 1.3  # Retry-After, and the first step's jitter on top
    [call] = calls()
    assert (call.code, call.attempts) == ("completed", 2)


@pytest.mark.parametrize("answer", [BUFFERED[0], STREAMED[0]], ids=["buffered", "streamed"])
@pytest.mark.parametrize("name", ["rate_limited", "server_error", "bad_gateway", "unavailable"])
async def test_transient_failure_is_tried_three_times(post, calls, waits, tmp_path, name, answer):
    with Story(tmp_path, answer).tell(*[failure(name)] * 3):
        reply = await post(body_of(answer))
    assert reply.code == 502
    assert json.loads(reply.body)["code"] == "provider_unavailable"
    assert json.loads(reply.body)["error"] == "Upstream provider unavailable"
    assert reply.headers.get("Retry-After") == ("1" if name == "rate_limited" else None)
    assert len(waits) == 2
    [call] = calls()
    assert (call.code, call.attempts) == ("provider_unavailable", 3)
    assert call.provider_request_id == "req_recorded"


@pytest.mark.parametrize("answer", [BUFFERED[0], STREAMED[0]], ids=["buffered", "streamed"])
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("bad_request", 422, "prompt_rejected"),
        ("unauthorized", 500, "provider_misconfigured"),
        ("not_found", 500, "provider_misconfigured"),
        ("insufficient_quota", 500, "provider_misconfigured"),
    ],
)
async def test_refusal_is_final(post, calls, waits, tmp_path, name, status, code, answer):
    with Story(tmp_path, answer).tell(failure(name)):
        reply = await post(body_of(answer))
    assert (reply.code, json.loads(reply.body)["code"]) == (status, code)
    assert waits == []
    [call] = calls()
    assert (call.code, call.attempts) == (code, 1)
    assert b"Recorded failure" not in reply.body


@pytest.mark.parametrize("path", sorted(CASSETTES.glob("*.yaml")), ids=lambda path: path.stem)
def test_cassette_says_where_it_comes_from_and_holds_no_identity(path):
    text = path.read_text()
    for name in ("engine:", "recorded_at:", "recorded_by:"):
        assert name in text
    for name in ("authorization", "cookie", "openai-organization", "openai-project", "bearer"):
        assert name not in text.lower()
