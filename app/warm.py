"""What the first visitor would otherwise wait for: libraries that pages import, the store, what it caches."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import duckdb

import pipeline as api
from pipeline.errors import HepduckError

_RANGE = timedelta(hours=24)


def start() -> threading.Thread:
    """Get ready in the background; pages work meanwhile, as slowly as they do without.

    An app that is stopped waits for the thread: Python aborts when it ends below a question to DuckDB.
    """
    thread = threading.Thread(target=_warm_up, name="warm-up")
    thread.start()
    return thread


def _warm_up() -> None:
    import altair  # noqa: F401, PLC0415  a second of imports, here and below

    from app import call_export, call_media, call_message, data, ghost_charts, quality_charts  # noqa: F401, PLC0415
    from app.call_data import signalling, whole_call  # noqa: PLC0415

    try:
        store = data.store()
        newest = api.calls(since=datetime.now(UTC) - _RANGE, limit=1, store=store)
        for call_id in newest["call_id"]:
            whole_call(
                signalling(call_id, store=store), lambda question, **given: question(**given, store=store)
            )
    except (HepduckError, duckdb.Error, RuntimeError):  # the page says so; or the app ends already
        return
