"""The HTTP layer under the openai SDK: httpx2's interfaces over one aiohttp session.

    openai ─► LeanClient (httpx2.AsyncClient) ─► transport (httpx2.AsyncBaseTransport) ─► aiohttp
                                                                                           │
                                                  provider.connections: its pool ──────────┘

Rules of this module:

- Nothing is followed, kept or guessed: no redirects, cookies, proxies, or credentials from
  the environment or .netrc.
- Every body has a cap, counted as it arrives, before anything is decoded.
- Compressed bodies are not asked for, so one that comes is refused: a bomb never inflates.
- A body that is no event stream is read before the response is handed over.
- aiohttp's exceptions pass through raw; `provider.failures` gives them their meaning.

The SDK ships an aiohttp transport of its own. This one stands in its place because that one
reports refused and dropped connections as timeouts, keeps cookies, and has no caps.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx2
from yarl import URL

from errors import CallError
from provider.connections import OnDropped, Pool, Request, repeat_if_stale


class LeanClient(httpx2.AsyncClient):
    """Builds and sends a request without the cookies, redirects, authentication and hooks of
    its parent, none of which is used here and which take a seventh of the CPU of a call."""

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        super().__init__(transport=transport, trust_env=False)
        self._bare_transport = transport

    def build_request(
        self,
        method: str,
        url: httpx2.URL | str,
        *,
        headers: Any = (),
        content: Any = None,
        **unused: Any,
    ) -> httpx2.Request:
        return httpx2.Request(method, url, headers=headers, content=content)

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **unused: Any
    ) -> httpx2.Response:
        response = await self._bare_transport.handle_async_request(request)
        response.request = request
        if not stream:
            await response.aread()
        return response


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """One connection pool to the provider.

    Args:
        connect_s: seconds for name lookup, TCP and TLS together.
        max_response_bytes: cap of a body that is not an event stream.
        max_stream_bytes: cap of an event stream.
        on_dropped: hears of each kept-alive connection that is not used again, and why.
    """

    def __init__(
        self,
        *,
        connect_s: float,
        max_response_bytes: int,
        max_stream_bytes: int,
        on_dropped: OnDropped = lambda reason: None,
    ) -> None:
        self._max_response_bytes = max_response_bytes
        self._max_stream_bytes = max_stream_bytes
        self._session = aiohttp.ClientSession(
            connector=Pool(on_dropped),
            request_class=Request,
            middlewares=(repeat_if_stale,),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = request.headers.multi_items()
        headers.append(("Accept-Encoding", "identity"))
        response = await self._session.request(
            request.method,
            URL(str(request.url), encoded=True),
            headers=headers,
            data=await request.aread(),
            allow_redirects=False,
        )
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise CallError("provider_unavailable", "content_encoding", unhealthy=True)
        if response.status == 200 and response.content_type == "text/event-stream":
            stream = _Body(response, self._max_stream_bytes)
            return httpx2.Response(response.status, headers=response.raw_headers, stream=stream)
        body = _Body(response, self._max_response_bytes)
        try:
            content = b"".join([chunk async for chunk in body])
        finally:
            await body.aclose()
        return httpx2.Response(response.status, headers=response.raw_headers, content=content)

    async def aclose(self) -> None:
        await self._session.close()


class _Body(httpx2.AsyncByteStream):
    """The response's bytes, as many at a time as have arrived, up to a cap."""

    def __init__(self, response: aiohttp.ClientResponse, max_bytes: int) -> None:
        self._response = response
        self._left = max_bytes
        connection = response.connection  # None: all has arrived
        protocol = None if connection is None else connection.protocol
        self._closed = None if protocol is None else protocol.closed
        if self._closed is not None:
            self._closed.remove_done_callback(_hear)  # of the answer before on this connection
            self._closed.add_done_callback(_hear)
            self._closed.add_done_callback(self._cut)

    def _cut(self, closed: "asyncio.Future[None]") -> None:
        """The connection is gone. aiohttp 3.14 tells nobody when it was a bad chunk behind good
        headers that made it hang up, and the read would wait for ever."""
        content = self._response.content
        if content.exception() is None and not content.is_eof():
            content.set_exception(aiohttp.ClientPayloadError())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._response.content.readany()
        if not chunk:
            raise StopAsyncIteration
        self._left -= len(chunk)
        if self._left < 0:
            # An answer is as long as its request makes it, so it says nothing of the provider.
            is_error = self._response.status != 200
            raise CallError(
                "provider_unavailable", "oversize", unhealthy=is_error, unbilled=is_error
            )
        return chunk

    async def aclose(self) -> None:
        if self._closed is not None:
            self._closed.remove_done_callback(self._cut)
        # After the last byte the connection is back in the pool already and this is a no-op;
        # before it, the rest is unwanted and the socket must close now.
        self._response.close()


def _hear(closed: "asyncio.Future[None]") -> None:
    """Take note of how the connection ended; asyncio would log that nobody has."""
    if not closed.cancelled():
        closed.exception()
