"""The store that the app reads, and questions to it with their answers kept for a short while."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from app.config import settings
from pipeline.api.opened import Store
from pipeline.privacy import mask_frame

ANSWERS_KEPT = "10s"
_MOST_ANSWERS = 200
_MOST_BYTES = "200MB"  # of kept answers: what the app's memory is bounded by


def store() -> Store:
    """The configured store, opened once for all sessions. Raises StoreError where there is none."""
    return _opened(str(folder()))


def ask(function: Callable[..., Any], /, **arguments: Any) -> Any:
    """`function(**arguments, store=store())` of `pipeline.api`; asked again after `ANSWERS_KEPT`.

    Arguments must be plain values (text, numbers, times, lists of them). The answer is the caller's own copy; in
    tables numbers are masked where `app.mask_numbers` says so.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    return _answer((name, str(folder()), arguments), function)


def folder() -> Path:
    """Where the store lies."""
    return settings().store.path.absolute()


@st.cache_resource(show_spinner=False, on_release=Store.close)
def _opened(path: str) -> Store:
    return Store(path)


@st.cache_data(ttl=ANSWERS_KEPT, max_entries=_MOST_ANSWERS, max_size=_MOST_BYTES, show_spinner=False)
def _answer(question: tuple[str, str, dict[str, Any]], _function: Callable[..., Any]) -> Any:
    _, path, arguments = question
    found = _function(**arguments, store=_opened(path))
    return _masked(found) if settings().app.mask_numbers else found


def _masked(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _masked(each) for name, each in found.items()}
    return mask_frame(found) if isinstance(found, pd.DataFrame) else found
