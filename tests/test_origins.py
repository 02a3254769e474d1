"""Which origins fit [browser] allowed_origins, as browsers write them."""

import pytest
from conftest import make_settings

from handlers.origins import is_allowed


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("https://app.example.com", "http://app.example.com", False),
        ("https://app.example.com", "https://app.example.com:8443", False),
        ("https://app.example.com", "https://appXexample.com", False),
        ("https://app.example.com", "https://app.example.com.evil.example", False),
        ("HTTPS://App.Example.com:443", "https://app.example.com", True),
        ("http://localhost:80", "http://localhost", True),
        ("https://*.vercel.app", "https://my-app.vercel.app", True),
        ("https://*.vercel.app", "https://a.b.vercel.app", True),
        ("https://*.vercel.app", "https://vercel.app", False),
        ("https://*.vercel.app", "https://evilvercel.app", False),
        ("https://*.vercel.app", "https://x.vercel.app:8443", False),
        ("https://*.vercel.app", "https://evil.example/.vercel.app", False),
        ("https://*.vercel.app:*", "https://x.vercel.app:8443", True),
        ("http://localhost:*", "http://localhost", True),
        ("http://localhost:*", "http://localhost:5173", True),
        ("http://localhost:*", "http://localhost:5173.evil.example", False),
        ("http://localhost:*", "https://localhost:5173", False),
        ("http://[::1]:*", "http://[::1]:5173", True),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("tauri://localhost", "tauri://localhost", True),
        ("app://-", "app://-", True),
        ("app://obsidian.md", "app://obsidian.md", True),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh", True),
        ("chrome-extension://abcdefgh", "chrome-extension://other", False),
        ("vscode-webview://*", "vscode-webview://0f3a9b", True),
        ("vscode-webview://*", "chrome-extension://0f3a9b", False),
        ("null", "null", True),
        ("null", "https://null", False),
    ],
)
def test_an_origin_fits(pattern: str, origin: str, allowed: bool) -> None:
    patterns = make_settings(
        browser_allowed_origins=f"https://first.example, {pattern}"
    ).browser.allowed_origins
    assert is_allowed(origin, patterns) is allowed
    assert is_allowed("https://first.example", patterns)


def test_where_nothing_is_listed_nothing_is_allowed() -> None:
    assert not is_allowed("", ())
    assert not is_allowed("null", ())
