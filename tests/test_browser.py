"""The chat page as people meet it: in a real browser, before a real server."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import AXE, CHROMIUM, House, Visitor
from conftest import make_settings
from playwright.sync_api import Browser, BrowserContext, Route, expect
from upstream import DONE, after_content, answer_stream, chunks, delta, error, finish, held, silence

from guards.auth import key_file

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO BROWSER TESTS: chromium is missing (sh tests/tools.sh installs it)"
)
expect.set_options(timeout=5_000)

MARKDOWN = (
    "## Title\n\n1. one\n2. *two*\n\n- [x] done\n\n[site](https://e.x/)\n\n"
    "| a |\n|---|\n| b |\n\n```python\npass\n```\n"
)
STREAM = {"Content-Type": "text/event-stream"}
WHOLE = 'data: {"type":"text-delta","id":"0","delta":"Yes"}\n\ndata: {"type":"finish"}\n\n'


class Reader(Visitor):
    """Somebody on the chat page."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        super().__init__(context, url)
        self.question = self.page.get_by_role("textbox", name="Your question")
        self.status = self.page.get_by_role("status")
        self.answers = self.page.locator(".answer")
        self.answer = self.answers.last
        self.text = self.answer.locator(".text")

    def visit(self) -> "Reader":
        self.page.goto(self.url)
        return self

    def asks(self, question: str = "Hello", until: str = "complete") -> None:
        self.question.fill(question)
        self.question.press("Enter")
        self.ends(until)

    def ends(self, state: str = "complete") -> None:
        expect(self.answer).to_have_attribute("data-state", state)

    def button(self, name: str | re.Pattern[str]) -> Any:
        return self.page.get_by_role("button", name=name)

    def css(self, selector: str, name: str) -> str:
        value = self.page.eval_on_selector(selector, "(e, n) => getComputedStyle(e)[n]", name)
        return str(value)


Visit = Callable[..., Reader]


@pytest.fixture
def visit(chromium: Browser, house: House) -> Iterator[Visit]:
    """`visit(auth_mode="keys")`: a new reader on the page of a server with these settings."""
    readers: list[Reader] = []

    def visit(
        *, replay: bool = False, context: dict[str, Any] | None = None, **settings: object
    ) -> Reader:
        url = house.serve(make_settings(house.upstream.url, **settings), replay=replay)
        readers.append(Reader(chromium.new_context(**(context or {})), url))
        return readers[-1].visit()

    yield visit
    for reader in readers:
        reader.context.close()
    house.rest()
    for reader in readers:
        reader.assert_content()


def test_a_first_visit_to_an_answered_question(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream("Hi", " **there**"))
    reader = visit()
    expect(reader.question).to_be_focused()
    expect(reader.page.locator("#banner")).to_be_hidden()

    reader.asks("Hello")

    expect(reader.text).to_have_text("Hi there")
    expect(reader.text.locator("strong")).to_have_text("there")
    facts = reader.answer.locator(".facts")
    for fact in ("gpt-4o-mini", "9 tokens in, 3 out", "≈ $0.00", "first word after", "1 attempt"):
        expect(facts).to_contain_text(fact)
    expect(reader.status).to_have_text("Answer complete.")
    expect(reader.answer).to_have_attribute("aria-busy", "false")
    expect(reader.question).to_be_focused()
    expect(reader.question).to_have_value("")
    expect(reader.page.locator("#turns")).to_match_aria_snapshot("""
        - list "Conversation":
          - listitem:
            - article:
              - heading "You asked" [level=2]
              - paragraph: Hello
            - article:
              - heading "Answer" [level=2]
              - paragraph:
                - text: Hi
                - strong: there
              - list
              - button "Copy"
              - button "Retry"
    """)


def test_what_was_said_goes_along(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream("I am well"))
    reader = visit()
    reader.asks("How are you?")
    reader.asks("And yesterday?\n\n")
    expect(reader.answers).to_have_count(2)

    assert house.upstream.requests[-1].json["messages"][1:] == [
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "I am well"},
        {"role": "user", "content": "And yesterday?"},
    ]

    reader.button("New chat").click()
    expect(reader.answers).to_have_count(0)
    expect(reader.question).to_be_focused()
    reader.asks("Who are you?")
    assert len(house.upstream.requests[-1].json["messages"]) == 2


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stop_keeps_the_half_and_ends_the_call(visit: Visit, house: House, way: str) -> None:
    house.upstream.will(after_content(silence), answer_stream("All of it"))
    reader = visit()
    reader.asks(until="answering")
    expect(reader.text).to_have_text("One two three")
    expect(reader.answer).to_have_attribute("aria-busy", "true")
    expect(reader.status).to_have_text("Answering.")

    if way == "button":
        reader.button("Stop").click()
    else:
        reader.page.keyboard.press("Escape")

    reader.ends("stopped")
    expect(reader.text).to_have_text("One two three")
    expect(reader.answer.locator(".note")).to_have_text("Stopped here.")
    expect(reader.question).to_be_focused()
    house.wait(house.upstream.exchanges[-1].closed)

    reader.button("Retry").click()
    reader.ends()
    expect(reader.text).to_have_text("All of it")
    expect(reader.answers).to_have_count(1)


def test_a_new_chat_ends_the_call_too(visit: Visit, house: House) -> None:
    house.upstream.will(after_content(silence), answer_stream("Another"))
    reader = visit()
    reader.asks(until="answering")
    expect(reader.text).to_have_text("One two three")

    reader.button("New chat").click()

    house.wait(house.upstream.exchanges[-1].closed)
    reader.asks()
    expect(reader.text).to_have_text("Another")


def test_a_failure_is_told_in_words_and_retried(visit: Visit, house: House) -> None:
    house.upstream.will(error(500), answer_stream("Now"))
    reader = visit(retry_max_attempts=1)

    reader.asks(until="failed")

    note = reader.answer.locator(".note")
    expect(note).to_contain_text("Upstream provider unavailable.")
    expect(note).to_contain_text(re.compile(r"Request [0-9a-f]{32}"))
    expect(reader.status).to_have_text("Upstream provider unavailable.")

    reader.button("Retry").click()
    reader.ends()
    expect(reader.text).to_have_text("Now")
    expect(note).to_be_empty()
    expect(reader.answers).to_have_count(1)


def test_a_limit_counts_down_to_a_retry(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream("Yes"))
    reader = visit(limit_ip_requests_per_minute=1)
    reader.page.clock.install()
    reader.asks()

    reader.asks("Again", until="failed")

    expect(reader.answer.locator(".note")).to_contain_text("The limit is 1 request a minute")
    retry = reader.button(re.compile("Retry in "))
    expect(retry).to_have_attribute("aria-disabled", "true")
    expect(reader.status).to_contain_text("You can retry in ")
    asked = len(house.upstream.requests)
    retry.focus()
    retry.click(force=True)
    reader.ends("failed")

    reader.page.clock.fast_forward("02:00")
    expect(reader.status).to_have_text("You can retry now.")
    expect(reader.button("Retry")).to_be_focused()
    assert len(house.upstream.requests) == asked
    reader.page.route("**/api/chat", lambda route: route.fulfill(body=WHOLE, headers=STREAM))
    reader.page.keyboard.press("Enter")
    reader.ends()


def test_a_prompt_that_cannot_pass_comes_back_to_be_changed(visit: Visit, house: House) -> None:
    reader = visit(chat_max_prompt_tokens=50)
    long = "word " * 100

    reader.asks(long, until="failed")

    note = reader.answer.locator(".note")
    expect(note).to_contain_text("the limit is 50 tokens")
    expect(note).not_to_contain_text("new chat")
    expect(reader.button("Retry")).to_have_count(0)
    expect(reader.question).to_have_value(long.strip())

    reader.asks(long, until="failed")
    expect(note).to_contain_text("A new chat goes without")


def test_a_stream_that_breaks_is_no_whole_answer(visit: Visit, house: House) -> None:
    house.upstream.will(after_content(chunks()))
    reader = visit()
    reader.asks(until="failed")
    expect(reader.text).to_have_text("One two three")
    expect(reader.answer.locator(".note")).to_contain_text("The answer is not whole.")
    expect(reader.button("Retry")).to_be_enabled()


@pytest.mark.parametrize("end", ["", 'data: {"type":"text-del', "data: [DONE]\n\n"])
def test_a_stream_without_finish_is_no_whole_answer(visit: Visit, end: str) -> None:
    reader = visit()
    body = f'data: {{"type":"text-delta","id":"0","delta":"Half"}}\n\n: ping\n\n{end}'
    reader.page.route("**/api/chat", lambda route: route.fulfill(body=body, headers=STREAM))
    reader.asks(until="failed")
    expect(reader.text).to_have_text("Half")
    expect(reader.answer.locator(".note")).to_contain_text(
        "The connection broke off. The answer is not whole."
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda route: route.abort(), "The server cannot be reached."),
        (
            lambda route: route.fulfill(status=503, body="<html>", headers={"Retry-After": "9"}),
            "The server answered 503.",
        ),
        (lambda route: route.fulfill(status=200, body="<html>"), "The server answered 200."),
    ],
    ids=["unreachable", "proxy", "portal"],
)
def test_what_stands_before_the_server_may_fail(
    visit: Visit, answer: Callable[[Route], None], told: str
) -> None:
    reader = visit()
    reader.page.route("**/api/chat", answer)
    reader.asks(until="failed")
    expect(reader.answer.locator(".note")).to_have_text(told)
    expect(reader.button(re.compile("Retry"))).to_be_visible()


def test_where_a_key_is_needed_it_is_asked_for(visit: Visit, house: House, tmp_path: Path) -> None:
    house.upstream.will(answer_stream("Welcome"))
    file = tmp_path / "keys.ini"
    key, _ = key_file.add(file, "web", "2026-01-01")
    reader = visit(auth_mode="keys", auth_keys_file=str(file), chat_models="other")
    field = reader.page.get_by_label("Key")
    expect(field).to_be_visible()

    reader.question.fill("Hello")
    reader.question.press("Enter")
    expect(field).to_be_focused()
    expect(reader.question).to_have_value("Hello")

    field.fill("sluice_wrong")
    reader.question.press("Enter")
    reader.ends("failed")
    expect(reader.answer.locator(".note")).to_contain_text("Authentication is required.")
    expect(reader.page.get_by_text("This key is not accepted.")).to_be_visible()

    field.fill(key)
    reader.button("Retry").click()
    reader.ends()
    expect(reader.text).to_have_text("Welcome")
    expect(reader.page.get_by_label("Model")).to_have_value("gpt-4o-mini")

    reader.visit()
    expect(field).to_have_value(key)
    kept = "[localStorage.length, document.cookie, location.href]"
    assert reader.page.evaluate(kept) == [0, "", reader.url]


def test_there_is_a_choice_where_there_are_models(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream("Yes"))
    reader = visit(chat_models="other")
    reader.page.get_by_label("Model").select_option("other")
    reader.asks()
    assert house.upstream.requests[-1].json["model"] == "other"


def test_a_page_with_cookies_has_its_token(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream("Yes"))
    reader = visit()
    reader.page.wait_for_load_state("networkidle")  # /api/session sets the cookie
    assert [cookie["name"] for cookie in reader.context.cookies()] == ["_xsrf"]
    reader.context.add_cookies([{"name": "other", "value": "x", "url": reader.url}])
    reader.asks()
    expect(reader.text).to_have_text("Yes")


def test_a_replay_says_so_and_plays_failures(visit: Visit) -> None:
    reader = visit(replay=True, retry_backoff_s=0.01)
    expect(reader.page.locator("#banner")).to_contain_text("Replaying recorded answers")
    reader.button("What is the capital of France?").click()
    reader.ends()
    expect(reader.text).to_contain_text("Paris")
    expect(reader.answer.locator(".note")).to_be_empty()

    reader.asks("Which of my socks is the left one?")
    expect(reader.answer.locator(".note")).to_contain_text("a recorded answer to another prompt")

    reader.page.get_by_label("Try a failure").select_option("server error once")
    reader.asks("Tell me about the ocean.")
    expect(reader.answer.locator(".facts")).to_contain_text("2 attempts")

    reader.page.get_by_label("Try a failure").select_option("insufficient quota")
    reader.asks("Hello", until="failed")
    expect(reader.answer.locator(".note")).to_contain_text("Unexpected provider error.")
    expect(reader.answer.get_by_role("button", name="Retry")).to_have_count(0)
    expect(reader.question).to_have_value("Hello")
    reader.question.press("Enter")
    reader.ends()


def test_it_copies_the_answer_and_its_code(visit: Visit, house: House) -> None:
    source = "Try *this*:\n\n```python\nprint('<b>')\n```\n"
    house.upstream.will(answer_stream(source))
    reader = visit(context={"permissions": ["clipboard-read", "clipboard-write"]})
    reader.asks()
    clipboard = "navigator.clipboard.readText()"

    reader.page.get_by_role("button", name="Copy", exact=True).click()
    expect(reader.status).to_have_text("Copied")
    assert reader.page.evaluate(clipboard) == source
    expect(reader.answer.locator(".code-head span")).to_have_text("python")
    reader.button("Copy code").click()
    expect(reader.button("Copied")).to_have_count(2)
    assert reader.page.evaluate(clipboard) == "print('<b>')\n"


def test_it_copies_where_there_is_no_clipboard_to_write_to(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream("Some *words*"))
    reader = visit(context={"permissions": ["clipboard-read"]})
    reader.page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined}); 0")
    reader.asks()
    reader.page.get_by_role("button", name="Copy", exact=True).click()
    expect(reader.status).to_have_text("Copied")
    reader.question.press("Control+v")
    expect(reader.question).to_have_value("Some words")


# Everybody


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_day_and_by_night(visit: Visit, house: House, scheme: str) -> None:
    house.upstream.will(after_content(chunks()))
    reader = visit(context={"color_scheme": scheme})
    reader.asks(until="failed")

    paper = reader.css("html", "backgroundColor")
    assert (luminance(paper) < 0.05) == (scheme == "dark")
    assert contrast(reader.css(".text", "color"), paper) >= 7
    assert contrast(reader.css(".quiet", "color"), paper) >= 4.5
    for selector in (".question p", ".note", "#send", "#hint"):
        holder = "#composer .sheet" if selector == "#hint" else selector
        behind = reader.css(holder, "backgroundColor")
        assert contrast(reader.css(selector, "color"), behind) >= 4.5, selector


def test_nothing_is_wider_than_the_smallest_phone(visit: Visit, house: House) -> None:
    wide = "x" * 500
    table = "|a|b|\n|-|-|\n|" + "cell " * 9 + f"|{wide[:80]}|"
    text = (
        f"{wide}\n\n```\n{wide}\n```\n\n{table}\n\n> {wide}\n\n- `{wide}`\n\n[{wide}](https://e.x/)"
    )
    house.upstream.will(answer_stream(text), error(500))
    phone = {"viewport": {"width": 320, "height": 568}, "is_mobile": True, "has_touch": True}
    reader = visit(context=phone, chat_models="another-model-with-a-name-of-some-length")
    widest = "document.documentElement.scrollWidth"
    assert reader.page.evaluate(widest) == 320

    reader.asks(wide)

    assert reader.page.evaluate(widest) == 320
    expect(reader.button("Send")).to_be_in_viewport(ratio=1)
    for name in ("Copy", "Retry", "New chat"):
        box = reader.page.get_by_role("button", name=name, exact=True).bounding_box()
        assert box["height"] >= 24
        assert box["width"] >= 24
    reader.asks("Again", until="failed")
    assert reader.page.evaluate(widest) == 320

    reader = visit(replay=True, context=phone, chat_models="another-model-with-a-long-name")
    expect(reader.page.get_by_label("Try a failure")).to_be_visible()
    expect(reader.button("Send")).to_be_in_viewport(ratio=1)
    assert reader.page.evaluate(widest) == 320


def test_a_keyboard_is_enough(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream("One"), answer_stream("Two"))
    reader = visit()
    press = reader.page.keyboard.press

    reader.page.keyboard.type("First line")
    press("Shift+Enter")
    reader.page.keyboard.type("second line")
    expect(reader.question).to_have_value("First line\nsecond line")
    press("Enter")
    reader.ends()
    expect(reader.page.locator(".question p")).to_have_text("First line\nsecond line")

    press("Shift+Tab")
    expect(reader.button("Retry")).to_be_focused()
    assert reader.css(":focus", "outlineStyle") == "solid"
    press("Enter")
    expect(reader.text).to_have_text("Two")
    expect(reader.question).to_be_focused()

    seen = []
    for _ in range(6):  # once around, the browser's own place included
        press("Tab")
        focused = reader.page.locator("button:focus")
        if focused.count():
            seen.append(focused.text_content())
            assert reader.css(":focus", "outlineStyle") == "solid"
    assert seen == ["Send", "New chat", "Copy", "Retry"]


def test_the_enter_that_ends_a_composition_does_not_send(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream("はい"))
    reader = visit()
    typed = reader.context.new_cdp_session(reader.page)
    key = "e => e.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, %s}))"

    typed.send(
        "Input.imeSetComposition", {"text": "にほん", "selectionStart": 3, "selectionEnd": 3}
    )
    for sign in ("isComposing: true", "keyCode: 229"):
        reader.question.evaluate(key % sign)
        expect(reader.question).to_have_value("にほん")
    typed.send("Input.insertText", {"text": "日本"})
    expect(reader.answers).to_have_count(0)
    reader.question.press("Enter")

    reader.ends()
    expect(reader.page.locator(".question p")).to_have_text("日本")


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_for_those_who_do_not_like_it(
    visit: Visit, house: House, motion: str
) -> None:
    go = asyncio.Event()
    house.upstream.will(held(go, answer_stream("Done")))
    reader = visit(context={"reduced_motion": motion})
    reader.asks(until="answering")
    expect(reader.page.locator(".dots")).to_be_visible()
    moving = reader.page.evaluate("document.getAnimations().length")
    assert (moving == 0) == (motion == "reduce")
    house.loop.call_soon_threadsafe(go.set)
    reader.ends()


def test_it_follows_a_reader_who_is_at_the_end_only(visit: Visit, house: House) -> None:
    long = "\n\n".join(f"Paragraph {n}" for n in range(60))
    go = asyncio.Event()

    async def in_halves(exchange: Any) -> None:
        await exchange.stream_head()
        await exchange.chunk(delta(long))
        await go.wait()
        await chunks(delta("\n\n" + long), finish(), DONE)(exchange)

    house.upstream.will(in_halves)
    reader = visit()
    at = "Math.round(scrollY + innerHeight - document.documentElement.scrollHeight)"
    reader.asks(until="answering")
    expect(reader.text.locator("p")).to_have_count(60)
    assert reader.page.evaluate(at) == 0

    reader.page.mouse.wheel(0, -700)
    # Playwright's wait_for_function would evaluate a string, which the page's policy forbids.
    reader.page.evaluate(
        """() => new Promise(done => (function look() {
            if (scrollY + innerHeight < document.body.scrollHeight - 500) done();
            else requestAnimationFrame(look);
        })())"""
    )
    before = reader.page.evaluate("scrollY")
    house.loop.call_soon_threadsafe(go.set)
    reader.ends()
    expect(reader.text.locator("p")).to_have_count(120)
    assert reader.page.evaluate("scrollY") == before


@pytest.mark.skipif(
    not AXE.exists(), reason="NO ACCESSIBILITY CHECK: axe-core is missing (npm; sh tests/tools.sh)"
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(visit: Visit, house: House, scheme: str) -> None:
    house.upstream.will(answer_stream(MARKDOWN), error(500))
    reader = visit(context={"bypass_csp": True, "color_scheme": scheme})
    assert reader.barriers() == []
    reader.asks()
    assert reader.barriers() == []
    reader.asks(until="failed")
    assert reader.barriers() == []


# Hostile answers


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s></svg>",
    "[click](javascript:alert(1)) [click](JaVaScRiPt:alert(1)) [click](&#106;avascript:alert(1))",
    "[a](data:text/html,<script>alert(1)</script>) [b](vbscript:x) [c](//evil.example/x)",
    "![picture](https://evil.example/track.png) ![x](javascript:alert(1))",
    '![x](x "onerror=alert(1)")\n\n[x](https://e.x/ "\' onmouseover=alert(1)")',
    "[x](https://e.x/\"onmouseover=\"alert(1)) <https://e.x/'onclick='alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe><object data=x></object><embed src=x>",
    "<form action=https://evil.example><input name=q><button>Go</button></form>",
    "<style>*{display:none}</style><link rel=stylesheet href=https://evil.example/x.css>",
    '<math><mi//xlink:href="data:x,<script>alert(1)</script>"><mtext><style><img onerror=alert(1)>',
    "</textarea></main></body><h1>Owned</h1>",
    "```html\n<script>alert(1)</script><img src=x onerror=alert(1)>\n```",
    '```"><img src=x onerror=alert(1)>\nunclosed <script>alert(1)</script>',
    "| <img src=x onerror=alert(1)> |\n|-|\n| <script>alert(1)</script> |",
    "\u202egnp.exe \u2066reversed\n\n`\u202ecode`",
    "<a id=status name=composer href=#>clobber</a><base href=https://evil.example>",
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "<" * 3000 + "[" * 3000 + "*_" * 1500,
    ">" * 20_000,
    "x" * 50_000,
]


def test_hostile_answers_are_only_text(visit: Visit, house: House) -> None:
    house.upstream.will(*map(answer_stream, ATTACKS))
    reader = visit(chat_max_tokens=100_000, chat_max_tokens_limit=100_000)
    reader.page.evaluate("globalThis.alert = globalThis.open = () => console.error('it ran'); 0")

    for attack in ATTACKS:
        reader.button("New chat").click()
        reader.asks()
        found = reader.text.locator(
            "script, img, svg, iframe, form, input, style, link, object, embed, base, math, h1,"
            "[onclick], [onload], [onerror], [onmouseover], [style], [id], [name], [src]"
        )
        assert found.count() == 0, attack
        hrefs = reader.text.locator("a").evaluate_all("all => all.map(a => [a.href, a.rel])")
        for href, rel in hrefs:
            assert not href or (href.startswith("https://"), rel) == (True, "noopener noreferrer")
        expect(reader.page.locator("h1")).to_have_text("Sluice")
        assert reader.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), attack


def test_html_in_an_answer_is_shown_as_written(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream("Use <b>bold</b> & `<i>` or **<u>**\n\n<div>\nblock\n</div>"))
    reader = visit()
    reader.asks()
    expect(reader.text.locator("p").first).to_have_text("Use <b>bold</b> & <i> or <u>")
    expect(reader.text).to_contain_text("<div>\nblock\n</div>")


def test_markdown_is_set_while_it_comes(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream(*MARKDOWN))
    reader = visit()
    reader.asks()
    expect(reader.text).to_match_aria_snapshot("""
        - heading "Title" [level=3]
        - list:
          - listitem: one
          - listitem:
            - emphasis: two
        - list:
          - listitem: ☑ done
        - paragraph:
          - link "site":
            - /url: https://e.x/
        - table:
          - rowgroup:
            - row "a"
          - rowgroup:
            - row "b"
        - text: python
        - button "Copy code"
        - code: pass
    """)
    link = reader.text.get_by_role("link")
    expect(link).to_have_attribute("target", "_blank")
    expect(link).to_have_attribute("rel", "noopener noreferrer")


NUMBERED = "1. one\n\n```\ncode\n```\n\n2. two\n3. three\n\nand\n\n0. zero\n"
ALIGNED = "| a | b | c | d |\n|---|:--|:-:|--:|\n| 1 | 2 | 3 | 4 |\n"


def test_lists_keep_their_numbers_and_columns_their_alignment(visit: Visit, house: House) -> None:
    house.upstream.will(answer_stream(*NUMBERED, *ALIGNED))
    reader = visit()
    reader.asks()
    starts = "all => all.map(list => [list.start, list.children.length])"
    assert reader.text.locator("ol").evaluate_all(starts) == [[1, 1], [2, 2], [0, 1]]
    aligned = "all => all.map(cell => getComputedStyle(cell).textAlign.replace('-webkit-', ''))"
    for cells in ("th", "td"):
        told = reader.text.locator(cells).evaluate_all(aligned)
        assert told == ["start", "left", "center", "right"]
