"""Debian's Chromium by Playwright, and servers beside it.

Playwright's synchronous interface wants a thread without an event loop, so the servers run in
another one.
"""

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, sync_playwright
from tornado.netutil import bind_sockets
from upstream import Upstream

from app import serving, wiring
from config import Config
from handlers import Services
from provider.replay.library import Library

T = TypeVar("T")

CHROMIUM: Final = shutil.which("chromium")
AXE: Final = Path(__file__).parent / "axe/node_modules/axe-core/axe.min.js"
PHONE: Final[dict[str, Any]] = {
    "viewport": {"width": 360, "height": 720},
    "is_mobile": True,
    "has_touch": True,
}
_ARGUMENTS: Final = (
    "--no-sandbox",  # it would not start as root; it sees nothing but our own pages
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def browser() -> Iterator[Browser]:
    """A running browser."""
    assert CHROMIUM, "chromium is missing: sh tests/tools.sh installs it"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        yield chromium
        chromium.close()


class Visitor:
    """Somebody with a browser. What the browser complained of fails the test."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda fault: self.complaints.append(str(fault)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.on("popup", lambda popup: self.complaints.append(f"popup {popup.url}"))
        context.on("request", lambda request: self.requested.append(request.url))

    def _console(self, message: ConsoleMessage) -> None:
        # Statuses such as 429 are told there, too, and are no fault of the page.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def barriers(self) -> Any:
        """What axe finds fault with. Only without the policy of the page can it be let in."""
        self.page.evaluate(f"{AXE.read_text()}; 0")
        return self.page.evaluate(
            "axe.run().then(found => found.violations.map(each => [each.id, each.nodes.length]))"
        )

    def assert_content(self) -> None:
        """Nothing was complained of, and nobody else was asked for anything."""
        assert self.complaints == []
        assert [url for url in self.requested if not url.startswith(self.url)] == []


class House:
    """A thread with an event loop, on which a scripted upstream and servers run."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.upstream = Upstream()
        self._thread = threading.Thread(target=self.loop.run_forever, name="servers")
        self._servers = AsyncExitStack()
        self._services: list[Services] = []

    def __enter__(self) -> "House":
        self._thread.start()
        self._run(self.upstream.start())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.rest()
        self._run(self.upstream.stop())
        self._run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=10)

    def serve(
        self,
        config: Config,
        *,
        replay: bool = False,
        but: Callable[[Services], Services] = lambda services: services,
    ) -> str:
        """Start a server with these settings; the address of its page.

        Args:
            but: puts other parts in the place of some.
        """
        return self._run(self._serve(config, replay, but))

    async def _serve(
        self, config: Config, replay: bool, but: Callable[[Services], Services]
    ) -> str:
        library = Library.open(config.replay.cassettes) if replay else None
        services = await self._servers.enter_async_context(wiring.build_services(config, library))
        http_server = serving.make_server(but(services))
        sockets = bind_sockets(0, "127.0.0.1")
        http_server.add_sockets(sockets)
        self._servers.push_async_callback(http_server.close_all_connections)
        self._servers.callback(http_server.stop)
        return f"http://127.0.0.1:{sockets[0].getsockname()[1]}/"

    def rest(self) -> None:
        """Stop the servers."""
        self._run(self._servers.aclose())
        assert self.upstream.faults == []

    def wait(self, event: asyncio.Event) -> None:
        self._run(asyncio.wait_for(event.wait(), 5))
