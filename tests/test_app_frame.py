"""What stands on every page of the app, and the ways between pages."""

from __future__ import annotations

import pytest
from app_store import App

PAGES = ["calls", "call", "quality", "ghosts", "registrations", "live", "health"]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_runs(page: str, open_app: type[App]) -> None:
    open_app(page)
