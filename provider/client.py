"""A provider's client: one attempt, buffered or streamed.

    Router ─► Retry.run ─► Provider: Circuit.begin ─► one attempt ─► openai ─► transport

Rules of this module:

- An attempt either answers or raises a `CallError`; no other exception leaves it.
- A stream counts as answered when its first content arrives (words, a tool call, or a finish
  reason). Until then it may be tried again; afterwards the caller has seen some of it.
- The SDK's low-level `post` is used, not the typed `create`: a third of its CPU.
- `max_tokens` is deprecated at OpenAI: its reasoning models refuse it, and all of its chat models
  take `max_completion_tokens`. Most other APIs know `max_tokens` alone.
  https://platform.openai.com/docs/api-reference/chat/create
- The SDK takes headers, keys and its log level from the environment (OPENAI_ORG_ID,
  OPENAI_PROJECT_ID, OPENAI_CUSTOM_HEADERS, OPENAI_ADMIN_KEY, OPENAI_LOG), whichever provider it
  calls. None of these is used: headers and keys come from the settings alone.
- A failure that is played on request says nothing of the provider's health, so it has a circuit of
  its own.
"""

import logging
import re
from functools import lru_cache, partial
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import openai
import orjson

from call import Call
from config import ProviderConfig
from errors import CallError
from provider.circuit import Circuit
from provider.connections import on_sent
from provider.deadline import timer
from provider.dialects.openai_chat import Completion, model_of, parse_completion, usage_in
from provider.failures import translating_errors
from provider.replay.cassette import RECORDING_HEADER
from provider.stream import ChatStream
from provider.transport import LeanClient

_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
# With a region in front of it, too: eu.api.openai.com.
_OPENAI_HOST: Final = re.compile(r"(?:[a-z0-9-]+\.)*api\.openai\.com")
# gpt-5-mini, gpt-5.1, o1, o3-2025-04-16, openai/o4-mini:online; neither gpt-4o nor gpt-oss-120b.
_REASONING_MODEL: Final = re.compile(r"(?:.*/)?(?:gpt-[5-9]|o[1-9])(?:[-.:@].*)?", re.IGNORECASE)

# The SDK's import sets this to OPENAI_LOG, and its debug records hold whole requests.
logging.getLogger("openai").setLevel(logging.WARNING)


class _Client(openai.AsyncOpenAI):
    """The SDK's client with headers of its own instead of the parent's `default_headers`: those
    describe this host, and OPENAI_CUSTOM_HEADERS among them overrides even the provider's key."""

    def __init__(
        self, config: ProviderConfig, api_key: str, base_url: str, http_client: LeanClient
    ) -> None:
        super().__init__(
            api_key=api_key,
            admin_api_key="",  # None: the SDK would read OPENAI_ADMIN_KEY
            webhook_secret="",  # None: OPENAI_WEBHOOK_SECRET
            base_url=base_url,
            max_retries=0,
            timeout=None,  # the named timers bound every phase
            http_client=http_client,
        )
        self._fixed_headers: dict[str, str | openai.Omit] = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": self.user_agent,
        }
        if config.organization:
            self._fixed_headers["OpenAI-Organization"] = config.organization
        if config.project:
            self._fixed_headers["OpenAI-Project"] = config.project

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        return self._fixed_headers


class Provider:
    """One provider of this server. Made once, inside the running event loop.

    Args:
        base_url, api_key: where, and with which secret; `config` names the rest.
        transport: HTTP layer, closed by `aclose`.
        replays: this is the embedded provider, which takes `Call.replay_scenario` and says which
            recording it plays.
    """

    def __init__(
        self,
        config: ProviderConfig,
        circuit: Circuit,
        *,
        base_url: str,
        api_key: str,
        transport: httpx2.AsyncBaseTransport,
        replays: bool = False,
    ) -> None:
        self.config = config
        # Whole, so that the SDK has nothing to join for each call.
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._host = urlsplit(base_url).hostname or ""
        self._replays = replays
        self.circuit = circuit
        self._openai = _Client(config, api_key, base_url, LeanClient(transport))

    def is_same(self, other: "Provider") -> bool:
        """Whether this asks the same provider, as the same customer."""
        return _customer(self.config) == _customer(other.config)

    async def aclose(self) -> None:
        await self._openai.close()

    async def complete(self, call: Call, model: str, within_s: float) -> Completion:
        """The whole answer, from one attempt.

        Args:
            model: its name at this provider.
            within_s: seconds, if that is less than is configured.

        Raises:
            CallError: see `errors.OUTCOMES`.
        """
        with await self._circuit_of(call).begin(), translating_errors():
            async with timer("attempt_timeout", min(self.config.attempt_s, within_s)):
                response = await self._post(call, model)
                completion = _paid_for(call, response.content)
                call.response_model = model_of(completion.document)
                return completion

    async def stream(self, call: Call, model: str, within_s: float) -> ChatStream:
        """The answer as it comes, at its first content, from one attempt; to be closed.

        Args and raises as `complete`; see also `ChatStream`.
        """
        # The attempt is over at the first content, so its own timer, which begins at the same
        # instant and is never shorter than this one, has nothing left to bound.
        circuit = self._circuit_of(call)
        with await circuit.begin() as generation, translating_errors():
            async with timer("first_token_timeout", min(self.config.first_token_s, within_s)):
                stream = ChatStream(
                    await self._post(call, model),
                    idle_s=self.config.idle_s,
                    max_line_bytes=self.config.max_line_bytes,
                    on_unhealthy=partial(circuit.record_late_failure, generation),
                )
                try:
                    await stream.begin()
                except BaseException:
                    await stream.aclose()
                    raise
                call.response_model = stream.model
                return stream

    def _circuit_of(self, call: Call) -> Circuit:
        return self.circuit if call.replay_scenario is None else self.circuit.apart()

    async def _post(self, call: Call, model: str) -> httpx2.Response:
        body: dict[str, Any] = {"model": model, "messages": call.messages} | call.options
        if call.max_tokens is not None:
            field = max_tokens_field(self.config.max_tokens_field, self._host, model)
            body[field] = call.max_tokens
        if call.stream:
            body["stream"] = True
            if self.config.stream_usage:
                body["stream_options"] = {"include_usage": True}
        headers = {
            "X-Client-Request-Id": call.request_id,
            "x-stainless-retry-count": str(call.attempts - 1),
        }
        if self._replays and call.replay_scenario is not None:
            headers["X-Replay-Scenario"] = call.replay_scenario
        if call.trace is not None:
            headers |= call.trace.headers(call.timeline[-1].span_id)
        call.provider_request_id = call.recording = None
        on_sent.set(call.timeline[-1].mark_sent)
        try:
            response = await self._openai.post(
                self._url,
                cast_to=httpx2.Response,
                content=orjson.dumps(body),
                options={"headers": headers},
                stream=call.stream,
            )
        except openai.APIStatusError as error:
            self._note(call, error.response)
            raise
        self._note(call, response)
        return response

    def _note(self, call: Call, response: httpx2.Response) -> None:
        """Note what the headers of an answer say."""
        call.provider_request_id = _request_id(response)
        if self._replays and (recording := response.headers.get(RECORDING_HEADER)):
            call.recording = call.reply_headers[RECORDING_HEADER] = recording


def _customer(config: ProviderConfig) -> tuple[str, str, str, str]:
    return config.base_url, config.api_key, config.organization, config.project


@lru_cache
def max_tokens_field(setting: str, host: str, model: str) -> str:
    """The name of the answer limit on the wire.

    Args:
        setting: a name, or `auto`.
        host: the provider's.
        model: its name there.
    """
    if setting != "auto":
        return setting
    is_openai = _OPENAI_HOST.fullmatch(host) or _REASONING_MODEL.fullmatch(model)
    return "max_completion_tokens" if is_openai else "max_tokens"


def _paid_for(call: Call, body: bytes) -> Completion:
    """The answer in this body; what it costs is noted, also where it is refused."""
    attempt = call.timeline[-1]
    try:
        completion = parse_completion(body)
    except CallError:
        attempt.usage = call.believed(usage_in(body), has_answer=False)
        if attempt.usage is not None:
            attempt.state = "ended"
        raise
    attempt.usage = call.believed(completion.usage, has_answer=bool(completion.words))
    if attempt.usage is not None or not completion.filtered:
        attempt.state = "ended"
    return completion


def _request_id(response: httpx2.Response) -> str | None:
    """The provider's id of this request, for its support, where it looks like one."""
    value = response.headers.get("x-request-id", "")
    return value if _REQUEST_ID.fullmatch(value) else None
