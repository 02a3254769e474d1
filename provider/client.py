"""The provider's client: one attempt, buffered or streamed, and what surrounds it.

    complete / stream ─► Retry.run ─► Circuit.attempt ─► one attempt ─► openai ─► transport

Rules of this module:

- An attempt either answers or raises a `CallError`; no other exception leaves it.
- A stream counts as answered when its first content arrives (text or a finish reason).
  Until then it may be tried again; afterwards the caller has seen some of it.
- The SDK's low-level `post` is used, not the typed `create`: a third of its CPU.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import httpx2
import openai
import orjson

from call import Call
from config import Config
from provider.circuit import Circuit
from provider.completion import Completion, parse_completion
from provider.deadline import timer
from provider.retry import Retry
from provider.stream import ChatStream
from provider.translate import translated
from provider.transport import LeanClient

_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")


class Provider:
    """The one provider of this server. Made once, inside the running event loop.

    Args:
        base_url, api_key: where, and with which secret; `config` names the rest.
        transport: HTTP layer, closed by `aclose`.
        forward_scenario: pass `Call.replay_scenario` on, for the embedded provider.
    """

    def __init__(
        self,
        config: Config,
        *,
        base_url: str,
        api_key: str,
        transport: httpx2.AsyncBaseTransport,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
        forward_scenario: bool = False,
    ) -> None:
        self._config = config.provider
        # Whole, so that the SDK has nothing to join for each call.
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._forward_scenario = forward_scenario
        self.circuit = Circuit(config.circuit, clock)
        self.retry = Retry(config.retry, self.circuit, clock=clock, sleep=sleep, random=random)
        self._openai = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=None,  # the named timers bound every phase
            http_client=LeanClient(transport),
        )

    async def aclose(self) -> None:
        await self._openai.close()

    async def complete(self, call: Call) -> Completion:
        """The whole answer.

        Raises:
            CallError: see `errors.OUTCOMES`.
        """

        async def attempt() -> Completion:
            with self.circuit.attempt(), translated():
                async with timer("attempt_timeout", self._config.attempt_s):
                    response = await self._post(call)
                    return parse_completion(response.content)

        return await self.retry.run(call, attempt)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator["ChatStream"]:
        """The answer as it comes, positioned at its first content. Leaving closes the socket.

        Raises:
            CallError: before the body of the `async with` begins; see also `ChatStream`.
        """

        async def attempt() -> ChatStream:
            # The attempt is over at the first content, so its own timer, which begins at the
            # same instant and is never shorter than this one, has nothing left to bound.
            with self.circuit.attempt() as generation, translated():
                async with timer("first_token_timeout", self._config.first_token_s):
                    stream = ChatStream(
                        await self._post(call),
                        idle_s=self._config.idle_s,
                        max_line_bytes=self._config.max_line_bytes,
                        on_unhealthy=partial(self.circuit.broke, generation),
                    )
                    try:
                        await stream.begin()
                    except BaseException:
                        await stream.aclose()
                        raise
                    return stream

        stream = await self.retry.run(call, attempt)
        try:
            yield stream
        finally:
            await stream.aclose()

    async def _post(self, call: Call) -> httpx2.Response:
        body: dict[str, Any] = {
            "model": call.model,
            "messages": call.messages,
            self._config.max_tokens_field: call.max_tokens,
        }
        if call.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {
            "X-Client-Request-Id": call.request_id,
            "x-stainless-retry-count": str(call.attempts - 1),
        }
        if self._forward_scenario and call.replay_scenario is not None:
            headers["X-Replay-Scenario"] = call.replay_scenario
        call.provider_request_id = None
        try:
            response = await self._openai.post(
                self._url,
                cast_to=httpx2.Response,
                content=orjson.dumps(body),
                options={"headers": headers},
                stream=call.stream,
            )
        except openai.APIStatusError as error:
            call.provider_request_id = _request_id(error.response)
            raise
        call.provider_request_id = _request_id(response)
        return response


def _request_id(response: httpx2.Response) -> str | None:
    """The provider's id of this request, for its support, where it looks like one."""
    value = response.headers.get("x-request-id", "")
    return value if _REQUEST_ID.fullmatch(value) else None
