"""Makes the pictures in docs/images: `python docs/screenshots.py`, takes a minute, needs Debian's chromium.

A tap hears recordings of a real Asterisk with its CDRs, and of a real Kamailio (a minute of many calls, then a single
one), as if they had just ended; the app is opened on its store.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from app_store import just_ended
from browser import WIDE, Scheme, Visit, chromium
from recordings import PATHS, load
from tap import RunningTap, eventually

from pipeline.demo import asterisk
from pipeline.demo.web import WebApp
from pipeline.ingest.recordings import RecordingWriter

IMAGES: Final = Path(__file__).with_name("images")
MANY, ONE = "mix", "c"
_SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")


@contextmanager
def running_tap() -> Iterator[RunningTap]:
    """A tap that has heard Asterisk's calls, and knows how they sounded."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cdrs, heard = folder / "cdr.csv", folder / "heard.hep"
        asterisk.write_header(cdrs)
        source = [{"source": str(cdrs), "name": "asterisk", "interval": "1s", "jitter": "0s"}]
        settings = {"cdr": json.dumps(source), "quality.interval": "1s", "rules.max_per_minute": "1000"}
        options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        with RunningTap(folder, *options) as tap:
            asterisk.write_moved(heard, cdrs)
            tap.send(heard)
            sources = "SELECT count(DISTINCT source) AS n FROM leg_quality WHERE call_id IS NOT NULL"
            eventually(lambda: tap.rows(sources)[0]["n"] == 2, "qualities of both sources")
            yield tap
            tap.stop()


def play(tap: RunningTap, *recordings: str) -> None:
    """Kamailio's calls, with their ghosts; returns when all that are owed were found."""
    for name in recordings:
        with RecordingWriter(heard := tap.folder / f"{name}.hep") as writer:
            writer.write(just_ended(PATHS[name]))
        tap.send(heard)
    owed = sum(len(load(name).label["expected"]) for name in recordings)
    found = "SELECT count(*) AS n FROM action_attempt WHERE action = 'log'"
    eventually(lambda: tap.rows(found)[0]["n"] >= owed, "ghost calls")


def main() -> None:
    """Three pages, light and dark."""
    IMAGES.mkdir(exist_ok=True)
    (owed,) = load(ONE).label["expected"]
    with running_tap() as tap, closing(WebApp(tap.store)) as app, chromium() as browser:
        for scheme in _SCHEMES:
            with closing(Visit(browser, app.url, scheme=scheme)) as visit:
                shoot(visit.open("quality", range="1h"), f"quality-{scheme}", 805)
        play(tap, MANY, ONE)
        for scheme in _SCHEMES:
            with closing(Visit(browser, app.url, scheme=scheme)) as visit:
                shoot(visit.open("ghosts", range="15m"), f"ghosts-{scheme}", 1100)
                visit.open("call", range="1h", call_id=owed["call_id"])
                visit.arrow("REGISTER")
                visit.page.wait_for_url("**msg=*")
                shoot(visit, f"call-{scheme}", 830)


def shoot(visit: Visit, name: str, height_px: int) -> None:
    """The top of the page as a PNG, the pointer out of its way."""
    visit.page.mouse.move(0, 0)
    visit.page.set_viewport_size({"width": WIDE, "height": height_px})
    visit.ready()
    visit.page.wait_for_load_state("networkidle")
    time.sleep(1)  # charts fade in
    with Image.open(BytesIO(visit.page.screenshot(animations="disabled"))) as shot:
        shot.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            IMAGES / f"{name}.png", optimize=True
        )


if __name__ == "__main__":
    main()
