"""The HTTP layer under the openai SDK: httpx2's transport interface over one aiohttp session.

Rules of this module:

- Nothing is followed, kept or guessed: no redirects, cookies, proxies, or credentials from
  the environment or .netrc.
- Every body has a cap, counted as it arrives, before anything is decoded.
- Compressed bodies are not asked for, so one that comes is refused: a bomb never inflates.
- aiohttp's exceptions pass through raw; `provider.translate` gives them their meaning.

The SDK ships an aiohttp transport of its own. This one stands in its place because that one
reports refused and dropped connections as timeouts, keeps cookies, and has no caps.
"""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import httpx2
from yarl import URL

from errors import CallError


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """One connection pool to the provider.

    Args:
        connect_s: seconds for name lookup, TCP and TLS together.
        max_response_bytes: cap of a body that is not an event stream.
        max_stream_bytes: cap of an event stream.
    """

    def __init__(self, *, connect_s: float, max_response_bytes: int, max_stream_bytes: int) -> None:
        self._max_response_bytes = max_response_bytes
        self._max_stream_bytes = max_stream_bytes
        self._session = aiohttp.ClientSession(
            # Admission bounds the calls in flight, so the pool needs no second queue.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = [
            (name, value)
            for name, value in request.headers.items()
            if name not in ("accept-encoding", "content-length", "connection")
        ]
        headers.append(("accept-encoding", "identity"))
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
        streamed = response.status == 200 and response.content_type == "text/event-stream"
        return httpx2.Response(
            status_code=response.status,
            headers=response.raw_headers,
            stream=_Body(
                response, self._max_stream_bytes if streamed else self._max_response_bytes
            ),
        )

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
            raise CallError("provider_unavailable", "oversize", unhealthy=True)
        return chunk

    async def aclose(self) -> None:
        if self._closed is not None:
            self._closed.remove_done_callback(self._cut)
        # After the last byte the connection is back in the pool already and this is a no-op;
        # before it, the rest is unwanted and the socket must close now.
        self._response.close()
