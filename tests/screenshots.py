"""Take the pictures in docs/ of both pages: `make screenshots`.

Sluice replays its recordings for it, so this needs neither key nor network.
"""

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent.parent))

from browser import PHONE, House, browser
from conftest import ROOT, make_settings
from playwright.sync_api import BrowserContext, Page, expect
from screenshots_ops import take_ops

DOCS: Final = ROOT / "docs"
DESKTOP: Final[dict[str, Any]] = {"viewport": {"width": 960, "height": 640}}
CONTEXTS: Final[dict[str, dict[str, Any]]] = {
    "chat-light": DESKTOP,
    "chat-dark": {**DESKTOP, "color_scheme": "dark"},
    "chat-phone": PHONE,
}


def main() -> None:
    logging.disable()  # the failure in one of them is meant
    with House() as house, browser() as chromium:
        url = house.serve(make_settings(api_key="", base_url=""), replay=True)
        for name, options in CONTEXTS.items():
            context = chromium.new_context(
                device_scale_factor=2, reduced_motion="reduce", **options
            )
            picture = DOCS / f"{name}.png"
            take(context, url, picture)
            tell(picture)
            context.close()
        with TemporaryDirectory() as folder:
            for picture in take_ops(house, chromium, DOCS, Path(folder) / "keys.ini"):
                tell(picture)


def tell(picture: Path) -> None:
    print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size // 1024} kB")


def take(context: BrowserContext, url: str, picture: Path) -> None:
    page = context.new_page()
    page.goto(url)
    ask(page, "What is the capital of France?")
    ask(page, "And of Italy?")
    if "dark" in picture.name:
        page.get_by_label("Try a failure").select_option("truncated")
        ask(page, "Tell me about the ocean.", "failed")
    page.screenshot(path=picture)


def ask(page: Page, question: str, until: str = "complete") -> None:
    page.get_by_label("Your question").fill(question)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".answer").last).to_have_attribute("data-state", until)


if __name__ == "__main__":
    sys.exit(main())
