"""The web app of the demo: started on the demo's store, and asked whether it answers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import webbrowser
from pathlib import Path
from typing import Final

import httpx

from pipeline.errors import StoreError

_START_S: Final = 60.0
_ADDRESS: Final = re.compile(r"hepduck app: (http://\S+?),")


class WebApp:
    """`hepduck app` in a process of its own; `url` once it answers."""

    def __init__(self, store: Path) -> None:
        self._log = store / "app.log"
        words = ["app", "--no-config", "--store", str(store), "-L", "127.0.0.1:0"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "pipeline", *words], stderr=log)
        try:
            self.url = self._answering()
        except BaseException:
            self.close()
            raise

    def _answering(self) -> str:
        give_up_s = time.monotonic() + _START_S
        while time.monotonic() < give_up_s and self._process.poll() is None:
            found = _ADDRESS.search(self._log.read_text(errors="replace"))
            if found and _answers(found[1]):
                return found[1]
            time.sleep(0.1)
        raise StoreError(f"the app did not start; {self._log} says why")

    def open_browser(self) -> None:
        """Show it, where there is a browser to show it in."""
        if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin":
            webbrowser.open(self.url)

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)


def _answers(url: str) -> bool:
    try:
        health, page = (httpx.get(f"{url}{path}", timeout=5) for path in ("/_stcore/health", "/"))
    except httpx.HTTPError:
        return False
    return health.text == "ok" and page.status_code == 200
