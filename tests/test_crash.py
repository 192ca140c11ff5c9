"""Killed again and again: see `kills`; `benchmarks/kills.py` does it a hundred times."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import kill_often


@pytest.mark.timeout(180)
def test_kills_under_load(tmp_path: Path) -> None:
    print(kill_often(tmp_path, 3))
