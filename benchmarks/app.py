"""How soon each page of the app is ready: `python benchmarks/app.py STORE [--rounds 5]` (see benchmarks/history.py).

Starts `hepduck app` on the store and opens its pages in headless Chromium, as a link from a ticket does: a new session
each time. A page is ready when its script has run to the end and nothing is drawn stale any more. The first visit
counts apart: a browser that never saw the app, and no answer kept. Later ones come from that browser, once the app's
kept answers are too old to be used. The tab is open before its address is given: what Chromium does for each new tab
of its own takes half a second of CPU. Prints one table, and the most memory that the app took.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

import psutil
from playwright.sync_api import Browser, BrowserContext, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import CHROMIUM, FLAGS, READY

from benchmarks.machine import describe
from pipeline.store.lake import Reader

ANSWERS_KEPT_S = 11  # `app.data.ANSWERS_KEPT` and a little
TAB_SETTLES_S = 2


def pages(store: Path) -> dict[str, str]:
    """Addresses below the app's root, by what they show."""
    with Reader(store) as reader:
        heard = "SELECT call_id FROM leg_quality WHERE call_id IN (SELECT call_id FROM call) LIMIT 1"
        (row,) = reader.query(heard).to_pylist()
        call_id = row["call_id"]
    asked = {
        "Calls, 24 hours": ("calls", {"range": "24h"}),
        "Calls, all 14 days": ("calls", {"range": "all"}),
        "Calls, all, searched": ("calls", {"range": "all", "q": "state:failed pdd>1s"}),
        "Call": ("call", {"range": "all", "call_id": call_id}),
        "Quality, 24 hours": ("quality", {"range": "24h"}),
        "Quality, all 14 days": ("quality", {"range": "all"}),
        "Ghost calls, all": ("ghosts", {"range": "all"}),
        "Registrations, 24 hours": ("registrations", {"range": "24h"}),
        "Live": ("live", {"range": "24h"}),
        "Health": ("health", {"range": "24h"}),
    }
    return {name: f"{page}?{urlencode(query)}" for name, (page, query) in asked.items()}


def ready_s(browser: Browser | BrowserContext, url: str) -> float:
    """Seconds from the address to the page being ready."""
    page = browser.new_page()
    time.sleep(TAB_SETTLES_S)
    began = time.monotonic()
    page.goto(url)
    page.wait_for_function(READY, timeout=120_000)
    took_s = time.monotonic() - began
    page.close()
    return took_s


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=8599)
    given = parser.parse_args()
    print(describe())
    command = [sys.executable, "-m", "pipeline", "app", "--no-config", "--store", str(given.store)]
    app = subprocess.Popen([*command, "-L", f"127.0.0.1:{given.port}"], stderr=subprocess.DEVNULL)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            _wait(browser, f"http://127.0.0.1:{given.port}/")
            print("\n| page | first, s | then p50, s | worst, s |\n|---|---|---|---|")
            for name, path in pages(given.store).items():
                first, *then = _visits(browser, f"http://127.0.0.1:{given.port}/{path}", given.rounds + 1)
                print(
                    f"| {name} | {first:.2f} | {statistics.median(then):.2f} | {max(then):.2f} |", flush=True
                )
            browser.close()
        processes = [psutil.Process(app.pid), *psutil.Process(app.pid).children(recursive=True)]
        print(f"\nmemory of the app: {sum(each.memory_info().rss for each in processes) / 2**20:.0f} MB")
    finally:
        app.terminate()
        app.wait(30)


def _visits(browser: Browser, url: str, visits: int) -> list[float]:
    with browser.new_context() as visitor:
        times = []
        for _ in range(visits):
            times.append(ready_s(visitor, url))
            time.sleep(ANSWERS_KEPT_S)
        return times


def _wait(browser: Browser, url: str) -> None:
    give_up_s = time.monotonic() + 60
    while True:
        try:
            ready_s(browser, url)
        except Exception:
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.5)
        else:
            return


if __name__ == "__main__":
    main()
