"""The colours of charts and drawings. Each has a contrast of at least 3 on white and on the app's dark background,
and is never the only sign of anything."""

from __future__ import annotations

from typing import Final

BLUE: Final = "#3d7fc4"
TEAL: Final = "#2a9499"
GREEN: Final = "#3f9a5c"
AMBER: Final = "#b8860b"
ORANGE: Final = "#d9762b"
RED: Final = "#d6504c"
VIOLET: Final = "#8d6cc3"
GREY: Final = "#7d8894"

ARROWS: Final = {
    "request": BLUE,
    "1xx": GREY,
    "2xx": GREEN,
    "3xx": AMBER,
    "failure": RED,
    "own": VIOLET,
    "finding": RED,
    "action": VIOLET,
}
"""Of a ladder's steps, by the family of an arrow and the kind of a note."""
