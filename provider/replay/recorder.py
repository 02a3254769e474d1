"""The recorder: a transport around the real one which writes each recording to a cassette.

It sits below the SDK and above the network, so what is recorded is what the provider sent,
failures included. An recording is kept when its answer has been read to the end; one that was
cut off is not, for it would replay as something the provider never said.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path
from typing import cast

import httpx2

from provider.replay.cassette import Provenance, Recording, save, scrubbed


class RecordingTransport(httpx2.AsyncBaseTransport):
    """Passes everything through, and keeps a copy.

    Args:
        path: cassette, written anew after every recording.
        on_recorded: called with the number of recordings in the file.
    """

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        path: Path,
        provenance: Provenance,
        on_recorded: Callable[[int], None],
    ) -> None:
        self._inner = inner
        self._path = path
        self._provenance = provenance
        self._on_recorded = on_recorded
        self._exchanges: list[Recording] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        request_body = await request.aread()

        def keep(body: bytes) -> None:
            self._exchanges.append(
                Recording(
                    url=str(request.url.copy_with(query=None)),
                    request_body=request_body,
                    status=response.status_code,
                    reason=response.reason_phrase,
                    headers=scrubbed(response.headers.items()),
                    body=body,
                )
            )
            save(self._path, self._exchanges, self._provenance)
            self._on_recorded(len(self._exchanges))

        return httpx2.Response(
            status_code=response.status_code,
            headers=response.headers,
            stream=_Copied(response, keep),
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Copied(httpx2.AsyncByteStream):
    def __init__(self, response: httpx2.Response, keep: Callable[[bytes], None]) -> None:
        self._response = response
        self._chunks = aiter(cast(AsyncIterable[bytes], response.stream))
        self._pieces: list[bytes] = []
        self._keep: Callable[[bytes], None] | None = keep

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            if self._keep is not None:  # who asks again at the end is told so again
                self._keep(b"".join(self._pieces))
                self._keep = None
            raise
        self._pieces.append(chunk)
        return chunk

    async def aclose(self) -> None:
        await self._response.aclose()
