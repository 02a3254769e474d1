"""The operations page as operators meet it: in a real browser, before a real server."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import jwt
import pytest
from browser import AXE, CHROMIUM, PHONE, House, Visitor
from conftest import HELLO, make_settings
from playwright.sync_api import Browser, BrowserContext, expect
from upstream import answer_stream, error, ok, usage_of

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO BROWSER TESTS: chromium is missing (sh tests/tools.sh installs it)"
)
expect.set_options(timeout=5_000)

TOKEN = "operator-token-9c41"
SECRET = "a-shared-secret-of-32-bytes-at-least"
MARKUP = "<img src=x onerror=alert(1)>"


class Operator(Visitor):
    """Somebody who looks after a server."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        super().__init__(context, url)
        self.page.clock.install()
        self.state = self.page.locator("#state")
        self.rows = self.page.locator("#calls > tr:not(.detail)")
        self.detail = self.page.locator("#calls > .detail")

    def call(self, body: object = None, **headers: str) -> None:
        """Make a call and wait for its answer."""
        headers = {"Content-Type": "application/json", **headers}
        data = json.dumps(HELLO if body is None else body)
        self.context.request.post(f"{self.url}api/chat", data=data, headers=headers)

    def visit(self, state: str = "Live") -> None:
        self.page.goto(f"{self.url}ops")
        expect(self.state).to_have_text(state)

    def waits(self) -> None:
        """Two seconds go by."""
        self.page.clock.fast_forward(2000)

    def figure(self, title: str) -> Any:
        named = self.page.locator("dt", has_text=title)
        return self.page.locator("#figures > div", has=named).locator(".value")

    def panel(self, title: str) -> Any:
        named = self.page.get_by_role("heading", name=title)
        return self.page.locator("#panels > section", has=named)

    def asked(self) -> int:
        return sum("/api/ops" in url for url in self.requested)


Arrive = Callable[..., Operator]


@pytest.fixture
def arrive(chromium: Browser, house: House) -> Iterator[Arrive]:
    """`arrive(ops_token=TOKEN)`: an operator before a server with these settings."""
    operators: list[Operator] = []

    def arrive(*, context: dict[str, Any] | None = None, **settings: object) -> Operator:
        url = house.serve(make_settings(house.upstream.url, **settings))
        operators.append(Operator(chromium.new_context(**(context or {})), url))
        return operators[-1]

    yield arrive
    for operator in operators:
        operator.context.close()
    house.rest()
    for operator in operators:
        operator.assert_content()


def test_a_quiet_server(arrive: Arrive) -> None:
    operator = arrive()
    operator.visit()
    expect(operator.figure("Calls now")).to_have_text("0/s")
    expect(operator.figure("Latency p50")).to_have_text("\N{EN DASH}")
    expect(operator.page.locator("#no-calls")).to_contain_text("No calls yet")
    expect(operator.panel("Providers")).to_contain_text("circuit closed")
    expect(operator.page.locator("#server")).to_contain_text("state in memory")


def test_calls_appear_as_they_end(arrive: Arrive, house: House) -> None:
    house.upstream.will(ok(usage=usage_of(1000, 100)), ok(), error(401))
    operator = arrive()
    operator.call()
    operator.visit()
    expect(operator.rows).to_have_count(1)
    expect(operator.figure("Spent")).to_have_text("$0.00021")
    operator.call()
    operator.call()
    operator.waits()
    expect(operator.rows).to_have_count(3)
    expect(operator.rows.first).to_contain_text("provider misconfigured 500")
    expect(operator.figure("Failed")).to_have_text("33.3%")
    outcomes = operator.panel("Outcomes")
    expect(outcomes.locator("li").first).to_have_text("completed2")
    expect(operator.panel("Models").locator("tbody tr")).to_contain_text("gpt-4o-mini")
    expect(operator.panel("Callers").locator("tbody tr")).to_contain_text("anonymous")
    chart = operator.page.get_by_role("img", name="Calls over time: 2 completed")
    expect(chart).to_have_accessible_name(
        "Calls over time: 2 completed, 0 refused (4xx), 1 failed (5xx). "
        "Arrow keys read single moments."
    )
    expect(chart.locator("rect.server-errors")).to_have_count(1)


def test_the_timeline_of_a_call_that_was_tried_again(arrive: Arrive, house: House) -> None:
    house.upstream.will(error(503, ("retry-after-ms", "20")), answer_stream("One", " two"))
    operator = arrive()
    operator.call({**HELLO, "stream": True}, **{"X-Request-Id": "order-7"})
    operator.visit()
    opener = operator.rows.first.get_by_role("button")
    opener.focus()
    operator.page.keyboard.press("Enter")
    expect(opener).to_have_attribute("aria-expanded", "true")
    steps = operator.detail.get_by_role("list", name="Timeline").get_by_role("listitem")
    expect(steps.locator(".label")).to_have_text(
        [
            "guards",
            "attempt 1: default, gpt-4o-mini",
            "backoff",
            "attempt 2: default, gpt-4o-mini",
            "stream",
        ]
    )
    expect(steps.nth(1)).to_contain_text("status 503")
    expect(steps.nth(3)).to_contain_text("answered")
    expect(steps.nth(4)).to_contain_text("first token at")
    bars = [bar.bounding_box() for bar in steps.locator("rect").all()]
    for earlier, later in pairwise(bars):
        assert earlier
        assert later
        assert earlier["x"] <= later["x"]
    expect(operator.detail.locator("line.first-token")).to_have_count(5)
    expect(operator.detail).to_contain_text("order-7")
    operator.page.keyboard.press("Enter")
    expect(operator.detail).to_have_count(0)


def test_the_request_id_is_copied(arrive: Arrive, house: House) -> None:
    house.upstream.will(ok())
    operator = arrive(context={"permissions": ["clipboard-read", "clipboard-write"]})
    operator.call(**{"X-Request-Id": "order-7"})
    operator.visit()
    operator.rows.first.click()
    operator.detail.get_by_role("button", name="Copy").click()
    expect(operator.detail.get_by_role("button", name="Copied")).to_be_visible()
    assert operator.page.evaluate("navigator.clipboard.readText()") == "order-7"


def test_an_open_row_stays_open_while_others_come(arrive: Arrive, house: House) -> None:
    house.upstream.will(ok(), ok())
    operator = arrive()
    operator.call(**{"X-Request-Id": "order-7"})
    operator.visit()
    operator.rows.first.click()
    operator.call()
    operator.waits()
    expect(operator.rows).to_have_count(2)
    expect(operator.detail).to_contain_text("order-7")


def test_filters_leave_what_was_asked_for(arrive: Arrive, house: House) -> None:
    house.upstream.will(ok(), error(401), ok())
    operator = arrive(chat_models="gpt-4o")
    operator.call()
    operator.call()
    operator.call({**HELLO, "model": "gpt-4o"})
    operator.call({**HELLO, "model": "nope"})
    operator.visit()
    shown = operator.page.locator("#calls > tr:not(.detail):not([hidden])")
    expect(shown).to_have_count(4)
    operator.page.get_by_label("failures only").check()
    expect(shown).to_have_count(2)
    operator.page.get_by_label("Outcome", exact=True).select_option("model not found")
    expect(shown).to_have_count(1)
    operator.page.get_by_label("failures only").uncheck()
    operator.page.get_by_label("Outcome", exact=True).select_option("")
    operator.page.get_by_label("Model", exact=True).select_option("gpt-4o")
    expect(shown).to_have_count(1)
    operator.page.get_by_label("Outcome", exact=True).select_option("model not found")
    expect(shown).to_have_count(0)
    expect(operator.page.locator("#no-calls")).to_be_visible()


def test_the_arrow_keys_read_a_chart(arrive: Arrive, house: House) -> None:
    house.upstream.will(ok())
    operator = arrive()
    operator.call()
    operator.visit()
    figure = operator.page.locator("figure").first
    figure.locator(".plot").focus()
    read = []
    for key in ("End", "ArrowLeft", "ArrowLeft", "ArrowRight", "Home"):
        operator.page.keyboard.press(key)
        read.append(figure.locator("output").inner_text().partition(": ")[2])
    # Meanwhile one slot may have ended, so that now is another.
    assert "1 completed" in read[:2]
    assert read[1] == read[3]
    assert (read[2], read[4]) == ("no calls", "no calls")


def test_periods(arrive: Arrive, house: House) -> None:
    house.upstream.will(ok())
    operator = arrive()
    operator.call()
    operator.visit()
    for name, told in (("15 min", "last 15 min"), ("today", "today"), ("1 hour", "last hour")):
        operator.page.get_by_label(name).check(force=True)
        expect(operator.page.locator("#figures")).to_contain_text(f"1 completed {told}"[:12])
        expect(operator.page.locator("#figures")).to_contain_text(told)


def test_a_token_is_asked_for_and_stays_in_this_tab(arrive: Arrive) -> None:
    operator = arrive(auth_mode="public", ops_token=TOKEN)
    operator.visit("Locked")
    field = operator.page.get_by_label("Operator")
    expect(field).to_be_focused()
    expect(operator.page.locator("#board")).to_be_hidden()
    for wrong in (f"{TOKEN}x", "käse"):
        field.fill(wrong)
        field.press("Enter")
        expect(operator.page.get_by_role("alert")).to_have_text("That is not the token.")
    field.fill(TOKEN)
    field.press("Enter")
    expect(operator.state).to_have_text("Live")
    expect(field).to_be_hidden()
    operator.visit()  # again, in the same tab
    stored = "[localStorage.length, document.cookie, location.search]"
    assert operator.page.evaluate(stored) == [0, "", ""]
    other = operator.context.new_page()
    other.goto(f"{operator.url}ops")
    expect(other.locator("#state")).to_have_text("Locked")


def test_nobody_is_asked_while_paused_or_hidden(arrive: Arrive) -> None:
    operator = arrive()
    operator.page.add_init_script(
        "Object.defineProperty(document, 'hidden', {get: () => window.isHidden ?? false})"
    )
    operator.visit()
    operator.page.get_by_role("button", name="Pause").click()
    expect(operator.state).to_contain_text("Paused")
    asked = operator.asked()
    operator.waits()
    operator.waits()
    operator.page.get_by_role("button", name="Resume").click()
    expect(operator.state).to_have_text("Live")
    assert operator.asked() == asked + 1
    look = "isHidden = {}; document.dispatchEvent(new Event('visibilitychange'))"
    operator.page.evaluate(look.format("true"))
    operator.waits()
    operator.waits()
    assert operator.asked() == asked + 1
    with operator.page.expect_response("**/api/ops*"):
        operator.page.evaluate(look.format("false"))


def test_a_server_that_is_gone_and_one_that_comes_in_its_place(
    arrive: Arrive, house: House
) -> None:
    house.upstream.will(ok(), ok())
    operator = arrive()
    operator.call()
    operator.visit()
    operator.page.route("**/api/ops*", lambda route: route.abort())
    operator.waits()
    expect(operator.state).to_contain_text("No answer since")
    expect(operator.rows).to_have_count(1)
    operator.page.unroute("**/api/ops*")

    other = arrive()
    other.call()

    def elsewhere(route: Any) -> None:
        route.continue_(url=route.request.url.replace(operator.url, other.url))

    operator.page.route("**/api/ops*", elsewhere)
    operator.waits()
    expect(operator.state).to_have_text("Live")
    operator.waits()
    expect(operator.rows).to_have_count(1)


def test_markup_in_names_is_only_text(arrive: Arrive, house: House) -> None:
    house.upstream.will(ok(), ok())
    operator = arrive(
        auth_mode="jwt", auth_jwt_secret=SECRET, ops_token=TOKEN, chat_models="<b>bold</b>"
    )
    token = jwt.encode({"sub": MARKUP, "exp": time.time() + 60}, SECRET, "HS256")
    operator.call({**HELLO, "model": "<b>bold</b>"}, Authorization=f"Bearer {token}")
    operator.visit("Locked")
    operator.page.get_by_label("Operator").fill(TOKEN)
    operator.page.keyboard.press("Enter")
    operator.rows.first.click()
    for place in (operator.rows, operator.detail, operator.panel("Callers")):
        expect(place).to_contain_text(MARKUP)
    for place in (operator.rows, operator.panel("Models")):
        expect(place).to_contain_text("<b>bold</b>")
    expect(operator.page.locator("#filter-model option")).to_have_text(
        ["every model", "<b>bold</b>"]
    )
    expect(operator.page.locator("main :is(img, i)")).to_have_count(0)
    expect(operator.page.locator("#panels b")).to_have_count(0)


def test_it_fits_a_phone(arrive: Arrive, house: House) -> None:
    house.upstream.will(error(503), answer_stream("One", " two"))
    operator = arrive(context=PHONE)
    operator.call({**HELLO, "stream": True}, **{"X-Request-Id": "x" * 128})
    operator.visit()
    operator.rows.first.click()
    expect(operator.detail).to_be_visible()
    widths = operator.page.evaluate(
        "[...document.querySelectorAll('body, main, .scroll, table, .detail, figure, dl')]"
        ".map(each => Math.max(each.scrollWidth, each.getBoundingClientRect().right))"
    )
    assert max(widths) <= 360


@pytest.mark.skipif(
    not AXE.exists(), reason="NO ACCESSIBILITY CHECK: axe-core is missing (npm; sh tests/tools.sh)"
)
@pytest.mark.parametrize("size", [{}, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(
    arrive: Arrive, house: House, scheme: str, size: dict[str, Any]
) -> None:
    house.upstream.will(error(503), answer_stream("One", " two"), error(401), ok())
    context = {"bypass_csp": True, "color_scheme": scheme, **size}
    operator = arrive(context=context, ops_token=TOKEN, limit_total_usd_per_day=20)
    for _ in range(3):
        operator.call({**HELLO, "stream": True})
    operator.call({"userMessage": 1})
    operator.visit("Locked")
    assert operator.barriers() == []
    operator.page.get_by_label("Operator").fill(TOKEN)
    operator.page.keyboard.press("Enter")
    operator.rows.last.click()
    expect(operator.detail).to_be_visible()
    assert operator.barriers() == []


def test_it_is_dark_where_that_is_liked(arrive: Arrive) -> None:
    papers = []
    for scheme in ("light", "dark"):
        operator = arrive(context={"color_scheme": scheme})
        operator.visit()
        papers.append(
            operator.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        )
    assert papers == ["rgb(250, 249, 246)", "rgb(18, 24, 26)"]
