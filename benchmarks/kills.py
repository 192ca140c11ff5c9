"""kill -9 a hundred times: `python benchmarks/kills.py [ROUNDS] [--path DIR]`. It ends at the first wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from kills import kill_often

from benchmarks.machine import describe


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=100)
    parser.add_argument("--path", type=Path, help="folder on the disk to be used")
    given = parser.parse_args()
    print(describe())
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=given.path) as folder:
        print(kill_often(Path(folder), given.rounds), f"({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
