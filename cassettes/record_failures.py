"""Record the failure cassettes: real HTTP exchanges with a server that fails as OpenAI does.

The bodies have the shape of https://platform.openai.com/docs/guides/error-codes; the server
runs here, for a moment, on 127.0.0.1:9911. Run with `make cassettes`.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from app import wiring  # noqa: E402
from call import Call  # noqa: E402
from config import loader  # noqa: E402
from errors import CallError  # noqa: E402
from provider.replay.cassette import Provenance  # noqa: E402
from provider.replay.recorder import RecordingTransport  # noqa: E402
from provider.transport import AiohttpTransport  # noqa: E402

PORT = 9911

# name: (status, headers, error type, error code)
FAILURES: dict[str, tuple[int, dict[str, str], str, str | None]] = {
    "bad_request": (400, {}, "invalid_request_error", None),
    "unauthorized": (401, {}, "invalid_request_error", "invalid_api_key"),
    "not_found": (404, {}, "invalid_request_error", "model_not_found"),
    "rate_limited": (429, {"Retry-After": "1"}, "requests", "rate_limit_exceeded"),
    "insufficient_quota": (429, {}, "insufficient_quota", "insufficient_quota"),
    "server_error": (500, {}, "server_error", None),
    "bad_gateway": (502, {}, "server_error", None),
    "unavailable": (503, {}, "server_error", "overloaded"),
}


async def record(name: str) -> None:
    status, headers, kind, code = FAILURES[name]
    message = f"Recorded failure: {name}"
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = json.dumps({"error": error}).encode()

    def answer(request: HTTPServerRequest) -> None:
        fields = HTTPHeaders({"Content-Type": "application/json", **headers})
        request.connection.write_headers(ResponseStartLine("HTTP/1.1", status, ""), fields, body)
        request.connection.finish()

    server = HTTPServer(answer)
    server.listen(PORT, "127.0.0.1")
    path = HERE / f"{name}.yaml"
    path.unlink(missing_ok=True)
    loop = asyncio.get_running_loop()
    environ = {"OPENAI_API_KEY": "not-a-key", "OPENAI_BASE_URL": f"http://127.0.0.1:{PORT}/v1"}
    config = loader.load(HERE.parent / "config.ini", {"SLUICE_RETRY_MAX_ATTEMPTS": "1", **environ})
    network = AiohttpTransport(connect_s=5, max_response_bytes=65536, max_stream_bytes=65536)
    provenance = Provenance(
        engine="a local server answering in OpenAI's documented error shape",
        recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        recorded_by="cassettes/record_failures.py",
    )
    router = wiring.make_router(
        config,
        lambda *_: RecordingTransport(network, path, provenance, lambda count: None),
    )
    call = Call(name, "record", loop.time(), loop.time() + 10, model=config.chat.model)
    call.messages, call.max_tokens = [{"role": "user", "content": "Hello"}], config.chat.max_tokens
    try:
        await router.complete(call)
    except CallError as failure:
        print(f"{path.name}: {status} read as {failure.code}")
    await router.aclose()
    server.stop()
    await server.close_all_connections()


async def main() -> None:
    for name in FAILURES:
        await record(name)


if __name__ == "__main__":
    asyncio.run(main())
