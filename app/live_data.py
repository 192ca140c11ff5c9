"""What pages that move by themselves ask: answers a second old at most, one question for all who look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from app import data
from app.config import settings
from pipeline.errors import StoreError
from pipeline.privacy import mask_frame
from pipeline.status import read_status

ANSWERS_KEPT = "1s"


def ask(function: Callable[..., Any], /, **arguments: Any) -> pd.DataFrame:
    """As `data.ask`, for a table of `pipeline.api` that is wanted as it is now."""
    found: pd.DataFrame = _answer(
        (f"{function.__module__}.{function.__qualname__}", str(data.folder()), arguments), function
    )
    return found


def tap_status() -> dict[str, Any] | None:
    """What the tap says of itself now (`pipeline.api.health.tap_status`); None where none has ever run."""
    try:
        return read_status(data.folder())
    except StoreError:
        return None


@st.cache_data(ttl=ANSWERS_KEPT, max_entries=20, show_spinner=False)
def _answer(
    question: tuple[str, str, dict[str, Any]], _function: Callable[..., pd.DataFrame]
) -> pd.DataFrame:
    _, _, arguments = question
    found = _function(**arguments, store=data.store())
    return mask_frame(found) if settings().app.mask_numbers else found
