"""Recordings through the detectors, without a store: what they find, and what other settings would have found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipeline.durations import format_duration

if TYPE_CHECKING:
    import pandas as pd

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_COLUMNS = (
    *("ts", "kind", "call_id", "aor", "target", "outcome", "late_ms", "severity", "trusted", "finding_id"),
    *("evidence", "msg_ids"),
)


def replay(
    source: Source,
    *,
    window: str | timedelta | None = None,
    shuffle_ms: int = 0,
    seed: int = 0,
    detector: str = "late_register",
    settings: dict[str, Any] | None = None,
    **detector_settings: Any,
) -> pd.DataFrame:
    """What the detectors find in one recording or several, one after the other, in order of the findings.

    `window` and other keywords are settings of `detector` (`outcomes=["canceled"]`, `aliases={...}`), durations as
    text or timedelta; `settings` overrides any others by their full keys (`{"engine.calls_max": 1000}`). `shuffle_ms`
    first permutes arrival within so many ms, by `seed`.

    Columns: `ts` (UTC), `kind`, `call_id`, `aor`, `target`, `outcome`, `late_ms`, `severity`, `trusted`,
    `finding_id`, `evidence` (a dict), `msg_ids`. Raises CaptureError, ConfigError.
    """
    import pandas as pd  # noqa: PLC0415  0.4 s that `hepduck --help` can do without

    from pipeline.assemble import detectors_of  # noqa: PLC0415  likewise pydantic and the engine
    from pipeline.engine.rows import finding_row  # noqa: PLC0415
    from pipeline.ingest.recordings import read_recording, shuffle  # noqa: PLC0415
    from pipeline.replay import replay as run  # noqa: PLC0415
    from pipeline.settings import load  # noqa: PLC0415

    paths = [source] if isinstance(source, str | os.PathLike) else source
    given = detector_settings if window is None else {"window": window, **detector_settings}
    overrides = {f"detectors.{detector}.{name}": _as_text(value) for name, value in given.items()}
    chosen, _ = load(overrides=overrides | (settings or {}))
    heard = (datagram for path in paths for datagram in read_recording(path))
    arriving = shuffle(heard, shuffle_ms, seed) if shuffle_ms else heard
    findings = list(run(arriving, detectors_of(chosen), settings=chosen.engine))
    frame = pd.DataFrame([finding_row(finding, "replay") for finding in findings], columns=list(_COLUMNS))
    return frame.astype({"ts": "datetime64[us, UTC]", "late_ms": "float64", "trusted": "bool"})


def _as_text(value: object) -> object:
    return format_duration(value) if isinstance(value, timedelta) else value
