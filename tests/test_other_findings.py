"""Findings of other detectors than that of ghost calls, as people see them: on the page, on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from app_store import App, reading
from filled import Run, run_in_process  # noqa: F401 - a fixture
from story import Story
from watching import told

from detectors.cancel_storm import CancelStorm, CancelStormSettings
from pipeline.engine.rows import finding_row
from pipeline.evidence import in_words
from pipeline.store.writer import Writer

WINDOW = "window 60 s"


@pytest.fixture(scope="module", name="store")
def store_with_a_storm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alice gives up twelve calls within a second or so."""
    story = Story()
    for number in range(12):
        story.call(100 * number).cancel(100 * number + 50)
    found = told(story, CancelStorm(CancelStormSettings(cancels=10)))
    path = tmp_path_factory.mktemp("storm") / "store"
    with Writer(path, "tap") as writer:
        writer.append("finding", [finding_row(finding, "tap") for finding in found])
    return path


def test_they_stand_below_the_ghost_calls(store: Path) -> None:
    with reading(store):
        (table,) = (each.value for each in App("ghosts").test.dataframe if each.key == "ghosts_others")
    (row,) = table.to_dict("records")
    assert (row["finding"], row["about"]) == ("cancel storm", "alice@sip.test")
    assert "cancels 10" in row["facts"] and WINDOW in row["facts"]


def test_where_numbers_are_hidden_so_are_the_facts(store: Path) -> None:
    with reading(store, mask_numbers=True):
        (table,) = (each.value for each in App("ghosts").test.dataframe if each.key == "ghosts_others")
    assert WINDOW not in table["facts"].iloc[0]


def test_the_command_line_tells_them(store: Path, run_here: Run, tmp_path: Path) -> None:
    done = run_here("findings", "--store", store, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cancels 10" in done.stdout and WINDOW in done.stdout


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({"source_ip": "192.0.2.7", "window_s": 60.0}, "source ip 192.0.2.7, window 60 s"),
        ({"skew_ms": 12.5, "loss_pct": 3}, "skew 12.5 ms, loss 3 %"),
        ({"statuses": {"401": 60, "403": 2}}, "statuses 401: 60 and 403: 2"),
        ({"silent": ["incoming", "outgoing"]}, "silent incoming and outgoing"),
        ({"habits_known": False, "first_us": 1, "endpoint": None, "leg_name": ""}, "habits known no"),
        ({"account": "a\x1b[2Jb"}, "account a\N{MIDDLE DOT}[2Jb"),
        ({}, ""),
        (None, ""),
    ],
)
def test_facts_in_words(evidence: dict[str, object] | None, words: str) -> None:
    assert in_words(evidence) == words
