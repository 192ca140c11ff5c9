"""The notebooks run from top to bottom on the bundled data; their last cells check what they found themselves."""

from __future__ import annotations

from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))


def test_all_are_there() -> None:
    assert NAMES == ["ghost_call", "peer_check", "quality_week", "registrations"]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str) -> None:
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    client = NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(NOTEBOOKS)}})
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output for cell in cells for output in cell.outputs]
    talk = [output for output in shown if output.output_type == "stream" and output.name == "stderr"]
    assert not talk, talk[0]
    assert any(output.output_type == "execute_result" for output in shown)
