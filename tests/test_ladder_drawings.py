"""The ladder as a chart and as SVG: the same steps as the text, in the same order, and nothing that runs."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import altair as alt
import pytest
from test_ladder import ALICE, BOB, PROXY, attempt, finding, message

from pipeline.ladder import Ladder, build, to_text
from pipeline.ladder_chart import SELECTION, chart, height_px, min_width_px
from pipeline.ladder_svg import to_svg
from pipeline.palette import ARROWS

HOSTILE = "<script>alert(1)</script>\x1b[2J\x00&\ufffe"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(name="ladder", scope="module")
def ladder_with_everything() -> Ladder:
    return build(
        [
            message(0, ALICE, PROXY, user_agent=HOSTILE),
            message(2, PROXY, BOB, via_branch="z9hG4bK-2", ruri_user=HOSTILE),
            message(500, PROXY, BOB, via_branch="z9hG4bK-2", ruri_user=HOSTILE),
            message(600, BOB, ALICE, status=487, reason="Request Terminated"),
            message(700, PROXY, PROXY, method="OPTIONS"),
            message(800, PROXY, BOB, from_tag="late-1f", cseq=2),
        ],
        [finding(650)],
        [attempt(750)],
    )


def rows(drawn: alt.LayerChart) -> list[dict[str, Any]]:
    """What all layers draw, each row once."""
    datasets = drawn.to_dict()["datasets"].values()
    return [row for dataset in datasets for row in dataset]


def test_chart_draws_every_step(ladder: Ladder) -> None:
    """In their order from the top down, arrows between the lanes of their ends."""
    found = rows(chart(ladder))
    arrows = [row for row in found if "msg_id" in row]
    assert [row["msg_id"] for row in arrows] == [arrow.msg_id for arrow in ladder.arrows]
    assert [row["y"] for row in arrows] == sorted(row["y"] for row in arrows)
    assert [(row["x"], row["tip"]) for row in arrows[:3]] == [(0, 1), (1, 2), (2, 0)]
    assert [row["points"] for row in arrows[:3]] == ["right", "right", "left"]
    assert [row["kind"] for row in arrows] == ["request", "request", "failure", "request", "own"]
    assert arrows[1]["label"].endswith(" x2")
    notes = [row for row in found if row.get("kind") in ("finding", "action")]
    assert [row["label"].replace("\n", " ").partition(":")[0] for row in notes] == [
        "GHOST CALL",
        "fake_call (dry run)",
    ]
    assert arrows[2]["y"] < notes[0]["y"] < arrows[3]["y"] < notes[1]["y"] < arrows[4]["y"]
    assert {row["name"] for row in found if "name" in row} == set(ladder.participants)


def test_chart_can_be_clicked(ladder: Ladder) -> None:
    """A selection by message id, which is that of the chosen arrow's mark too."""
    spec = chart(ladder, selected=ladder.arrows[2].msg_id).to_dict()
    params = {param["name"]: param for param in spec["params"]}
    assert params[SELECTION]["select"] == {"type": "point", "fields": ["msg_id"], "toggle": False}
    marked = [row for row in spec["datasets"].values() if len(row) == 1 and "msg_id" in row[0]]
    assert [row[0]["label"] for row in marked] == ["487 Request Terminated"]
    assert all("expr" not in str(row) for row in rows(chart(ladder)))


def test_chart_grows_with_the_call(ladder: Ladder) -> None:
    many = build([message(at, ALICE, PROXY, cseq=at) for at in range(100)])
    assert height_px(many) > 10 * height_px(build([message(0, ALICE, PROXY)]))
    assert chart(many).to_dict()["height"] == pytest.approx(height_px(many), abs=1)
    wide = build([message(at, ("10.0.0.1", 1), ("10.0.0.2", 5000 + at)) for at in range(12)])
    assert min_width_px(wide) > 3 * min_width_px(ladder)
    assert chart(build([])).to_dict()["height"] < 60
    heads = [row for row in rows(chart(many)) if "name" in row]
    assert len(heads) == 4 * 2  # said again every 30 steps


def test_times_of_the_chart(ladder: Ladder) -> None:
    clocks = [
        row["time"]
        for row in rows(chart(ladder, clock="absolute", zone=ZoneInfo("Asia/Kolkata")))
        if set(row) == {"x", "y", "time"}
    ]
    assert clocks[0] == "17:30:00.000"
    assert len(clocks) == len(ladder.steps)


def svg_of(ladder: Ladder, **options: Any) -> ET.Element:
    return ET.fromstring(to_svg(ladder, **options))


def test_svg_says_what_the_text_says(ladder: Ladder) -> None:
    """Every label, every address, every note, the times; well-formed whatever the wire brought."""
    drawn = svg_of(ladder, title=f"call {HOSTILE}")
    texts = [element.text or "" for element in drawn.iter(f"{SVG}text")]
    for label in ("INVITE bob", "487 Request Terminated", "OPTIONS bob"):
        assert label in texts
        assert label in to_text(ladder)
    assert set(ladder.participants) <= set(texts)
    assert " ".join(texts).count("GHOST CALL: ") == 1
    assert {"+0.000", "+0.600", "+0.650"} <= set(texts)
    assert drawn.find(f".//{SVG}script") is None
    assert not [
        key
        for element in drawn.iter()
        for key in element.attrib
        if key.startswith("on") or key.endswith("href")
    ]


def test_svg_has_an_arrow_for_each_message(ladder: Ladder) -> None:
    """In the colour of its kind; those of a compensating call are dashed."""
    drawn = svg_of(ladder)
    assert [path.get("fill") for path in drawn.iter(f"{SVG}path")] == [
        ARROWS[arrow.family] for arrow in ladder.arrows
    ]
    dashed = [line for line in drawn.iter(f"{SVG}line") if line.get("stroke-dasharray")]
    assert [line.get("stroke") for line in dashed] == [ARROWS["own"]]
    bands = [rect.get("fill") for rect in drawn.iter(f"{SVG}rect")]
    assert bands == [ARROWS["finding"], ARROWS["action"]]
    width, height = (float(drawn.get(name) or 0) for name in ("width", "height"))
    for line in drawn.iter(f"{SVG}line"):
        assert 0 <= float(line.get("x1") or 0) <= width
        assert 0 <= float(line.get("y2") or 0) <= height


def test_no_messages() -> None:
    assert svg_of(build([]), zone=UTC).tag == f"{SVG}svg"
