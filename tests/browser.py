"""A real browser at a real `hepduck app`: Debian's Chromium, headless, by Playwright.

`Visit` is one tab that remembers what went wrong in it: errors of scripts, requests to anywhere else, alerts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qs, urlencode, urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY: Final = """() => {
    const app = document.querySelector('[data-testid="stApp"]');
    return app && app.dataset.testScriptState === 'notRunning'
        && document.querySelector('[data-testid="stMainBlockContainer"]')?.innerText.length > 40
        && !document.querySelector('[data-stale="true"], [data-testid="stSkeleton"]');
}"""
"""The script has run to its end, and nothing is drawn stale any more."""

Scheme = Literal["light", "dark"]

PATIENCE_S: Final = 90
WIDE, NARROW = 1280, 400
_HEIGHT_PX: Final = 900
_HEAD_PX, _ROW_PX = 32, 30  # of all our tables that can be clicked
_OWN_PROBES: Final = re.compile(r"/_stcore/(health|host-config)$")  # Streamlit looks for its server by trying
_HOOK: Final = "window.alerted = []; window.alert = text => window.alerted.push(String(text));"


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; what has no page of its own in it needs `Visit`."""
    assert Path(CHROMIUM).exists(), "Debian's chromium is missing: sh tests/system-packages.sh chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One visitor in one tab: a session of their own, in a zone of their own."""

    def __init__(self, browser: Browser, url: str, zone: str = "UTC", scheme: Scheme = "light") -> None:
        self.url = url
        self.problems: list[str] = []
        self._context = browser.new_context(
            viewport={"width": WIDE, "height": _HEIGHT_PX},
            timezone_id=zone,
            color_scheme=scheme,
        )
        self._context.set_default_timeout(PATIENCE_S * 1000)
        self._context.add_init_script(_HOOK)
        self.page: Page = self._context.new_page()
        self.page.on("request", lambda request: self._requested(request.url))
        self.page.on("websocket", lambda socket: self._requested(socket.url.replace("ws:", "http:", 1)))
        self.page.on("console", self._told)
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))

    def _requested(self, url: str) -> None:
        if not url.startswith((f"{self.url}/", "data:", f"blob:{self.url}/")):
            self.problems.append(f"request to {url}")

    def _told(self, message: ConsoleMessage) -> None:
        probe = _OWN_PROBES.search(message.location.get("url", ""))
        if message.type == "error" and not (probe and "404" in message.text):
            self.problems.append(f"console: {message.text}")

    def close(self) -> None:
        """No more of this visitor."""
        self._context.close()

    # -- going about -------------------------------------------------------------------------------------

    def open(self, page: str = "", /, **query: str) -> Visit:
        """Load a page anew, as a link from elsewhere does."""
        self.page.goto(f"{self.url}/{page}?{urlencode(query)}")
        return self.ready()

    def reload(self) -> Visit:
        """As F5."""
        self.page.reload()
        return self.ready()

    def ready(self) -> Visit:
        """Wait until all is drawn; no page may show an exception."""
        self.page.wait_for_function(READY)
        assert self.page.get_by_test_id("stException").count() == 0, self.text()
        return self

    @property
    def query(self) -> dict[str, str]:
        """What stands behind the `?` of the address."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.page.url).query).items()}

    def wait_for_query(self, **wanted: str) -> None:
        """Wait until the address says so."""
        self.page.wait_for_function(
            "wanted => Object.entries(wanted).every("
            "([name, value]) => new URLSearchParams(location.search).get(name) === value)",
            arg=wanted,
        )

    # -- what is shown -----------------------------------------------------------------------------------

    def text(self) -> str:
        """All text of the page."""
        return self.page.get_by_test_id("stMain").inner_text()

    def element(self, key: str) -> Locator:
        """What the app gave this `key`."""
        return self.page.locator(f".st-key-{key}")

    def table(self, key: str) -> list[dict[str, str]]:
        """The rows of a table that are in sight, as text under their headings (without arrows), once it has some."""
        self.element(key).locator("td").first.wait_for(state="attached")
        read: list[dict[str, str]] = self.element(key).evaluate(
            """element => {
                const texts = (row, cells) => [...row.querySelectorAll(cells)].map(cell => cell.textContent);
                const heads = texts(element, 'th').map(head => head.replace(/ [↑↓]$/, ''));
                return [...element.querySelectorAll('tbody tr')].map(row => Object.fromEntries(
                    texts(row, 'td').map((text, at) => [heads[at], text])));
            }"""
        )
        return read

    def wait_for_cell(self, key: str, text: str) -> None:
        """Wait until a table shows this text."""
        self.element(key).locator("td", has_text=text).first.wait_for(state="attached")

    def click_row(self, key: str, row: int) -> None:
        """Click into a table: it is painted, so the place is worked out. Its first row is row 0."""
        canvas = self.element(key).get_by_test_id("data-grid-canvas")
        canvas.scroll_into_view_if_needed()
        canvas.click(position={"x": 60, "y": _HEAD_PX + (row + 0.5) * _ROW_PX}, force=True)

    def raw(self) -> str:
        """The message beside the ladder, or how it differs from another."""
        shown = self.page.locator("pre.wire, [data-testid=stCode] code").all_text_contents()
        return "".join(shown).rstrip("\n")  # two for a moment, while one takes the other's place

    def arrow(self, label: str, nth: int = 0, *, hover: bool = False) -> None:
        """Click on an arrow of the ladder, or only point at it: the `nth` from the top whose label begins so."""
        drawn = self.element("ladder").locator("svg.marks text", has_text=re.compile(f"^{re.escape(label)}"))
        if hover:
            drawn.nth(nth).hover(force=True)
        else:
            drawn.nth(nth).click(force=True)

    # -- looks -------------------------------------------------------------------------------------------

    def look(self, width: int, scheme: Scheme) -> Visit:
        """Another width of the window, another scheme: waits until the page has its ground."""
        self.page.set_viewport_size({"width": width, "height": _HEIGHT_PX})
        self.page.emulate_media(color_scheme=scheme)
        self.page.wait_for_function(
            """dark => {
                const app = document.querySelector('[data-testid="stApp"]');
                const [red] = getComputedStyle(app).backgroundColor.match(/\\d+/);
                return (red < 128) === dark;
            }""",
            arg=scheme == "dark",
        )
        return self.ready()

    def fits(self) -> bool:
        """False when the page as a whole would have to be moved sideways to be read."""
        found: bool = self.page.evaluate(
            """() => [document.documentElement, document.querySelector('[data-testid="stMain"]')]
                .every(element => element.scrollWidth <= element.clientWidth)"""
        )
        return found
