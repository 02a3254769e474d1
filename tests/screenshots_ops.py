"""Pictures of the operations page, after some hundred calls to recorded answers.

The calls are real, and so are their times; only the clock of the window runs ahead between them,
so that a quarter of an hour passes in some seconds.
"""

import json
import math
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from browser import PHONE, House
from conftest import make_settings
from playwright.sync_api import Browser, expect

from app import wiring
from guards.auth import key_file
from handlers import Services
from telemetry.recent import RecentCalls
from telemetry.window import SLOT_S, Window

TOKEN: Final = "token-of-the-pictures"
SLOTS: Final = 60
DESKTOP: Final[dict[str, Any]] = {"viewport": {"width": 1160, "height": 1200}}
CONTEXTS: Final[dict[str, dict[str, Any]]] = {
    "ops-light": DESKTOP,
    "ops-dark": {**DESKTOP, "color_scheme": "dark"},
    "ops-phone": PHONE,
}
CALLERS: Final = {"web-shop": 8, "mobile-app": 4, "helpdesk": 2}
PROMPTS: Final = ("What is the capital of France?", "Write to ada@example.com", "Hello")
FAULTS: Final = ("server_error", "unavailable_once", "rate_limited_once", "truncated_once")


@dataclass
class Ahead:
    """A clock that is moved on; at first it is a quarter of an hour behind."""

    ahead_s: float = -SLOTS * SLOT_S

    def clock(self) -> float:
        return time.monotonic() + self.ahead_s

    def wall_clock(self) -> float:
        return time.time() + self.ahead_s

    def watch(self, services: Services) -> Services:
        """The same server with a window on this clock."""
        window = Window(clock=self.clock, wall_clock=self.wall_clock)
        recent = RecentCalls(wall_clock=self.wall_clock)
        sinks = (window.add, recent.add)
        settlement = wiring.make_settlement(
            services.gate, services.admission, services.prices, sinks, clock=services.clock
        )
        return replace(services, window=window, recent=recent, settlement=settlement)


def take_ops(house: House, chromium: Browser, folder: Path, keys_file: Path) -> Iterator[Path]:
    """Take the pictures, one after the other."""
    time_, bearers = (
        Ahead(),
        {name: key_file.add(keys_file, name, "2026-11-24")[0] for name in CALLERS},
    )
    settings = make_settings(
        api_key="",
        base_url="",
        auth_mode="keys",
        auth_keys_file=keys_file,
        ops_token=TOKEN,
        chat_models="gpt-4o",
        replay_chunk_interval_s=0.01,
        limit_total_usd_per_day=20,
        limit_caller_requests_per_minute=190,
        circuit_min_calls=1000,
    )
    url = house.serve(settings, replay=True, but=time_.watch)
    _call_for_a_while(url, time_, bearers)
    for name, options in CONTEXTS.items():
        context = chromium.new_context(device_scale_factor=1.5, reduced_motion="reduce", **options)
        page = context.new_page()
        page.goto(f"{url}ops")
        page.get_by_label("Operator").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("Live")
        page.get_by_label("15 min").check(force=True)
        retried = page.locator("#calls tr").filter(
            has=page.locator(".backoff + .answered + .stream")
        )
        retried.first.get_by_role("button").click()
        if name.endswith("phone"):
            retried.first.scroll_into_view_if_needed()
        page.screenshot(path=folder / f"{name}.png")
        yield folder / f"{name}.png"
        context.close()


def _call_for_a_while(url: str, time_: Ahead, bearers: dict[str, str]) -> None:
    chance = random.Random(4)

    def call(_: object) -> None:
        caller = chance.choices(list(CALLERS), list(CALLERS.values()))[0]
        model = chance.choice(("gpt-4o-mini", "gpt-4o-mini", "gpt-4o"))
        body = {"model": model, "userMessage": chance.choice(PROMPTS)}
        fault = chance.choice(FAULTS) if chance.random() < 0.06 else None
        _call(url, bearers[caller], {**body, "stream": chance.random() < 0.5}, fault)

    with ThreadPoolExecutor(8) as pool:
        for slot in range(SLOTS):
            calls = 4 + round(3 * math.sin(slot / 6) + 3 * chance.random())
            list(pool.map(call, range(calls)))
            time_.ahead_s += SLOT_S
    # The one whose timeline is looked at, and some after it.
    retried = {"userMessage": PROMPTS[0], "stream": True}
    _call(url, bearers["mobile-app"], retried, "unavailable_once")
    for _ in range(3):
        call(None)


def _call(url: str, bearer: str, body: dict[str, object], fault: str | None) -> None:
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    if fault is not None:
        headers["X-Replay-Scenario"] = fault
    request = urllib.request.Request(f"{url}api/chat", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as reply:
            reply.read()
    except urllib.error.HTTPError as refused:
        refused.close()
