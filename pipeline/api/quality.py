"""How calls sounded: figures over time and by what calls went through, the worst of them, and how much is known.

A leg counts twice, once for each direction: incoming is from the phone to the switch. Percentiles are of R, each with
the MOS of that R; percentile 5 is what the worst twentieth falls below. `rated` counts directions with an R, `enough`
those of them with at least 100 packets (or two RTCP reports): only such are ranked. What is not known is missing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from pipeline.api.opened import Moment, Store, current, moment
from pipeline.durations import step_of
from pipeline.protocols.codecs import impairment, lookup
from pipeline.store import coverage_queries, heard_queries
from pipeline.store.heard_queries import EDGES

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.store.queries import Row

GROUPINGS: Final = heard_queries.GROUPINGS
LEAST_STEPS, MOST_STEPS = 12, 200
FEW: Final = 20
"""Directions: of fewer, percentile 5 is but the worst one."""

_COUNT, _NUMBER, _TEXT, _TRUTH, _TIME = "Int64", "float64", "str", "boolean", "datetime64[us, UTC]"
_R: Final = {f"{what}_{share}": _NUMBER for what in ("r", "mos") for share in ("p5", "p50", "p95")}
_COUNTS: Final = {"rated": _COUNT, "enough": _COUNT}
_WORST: Final = {
    "ts": _TIME,
    **dict.fromkeys(("call_id", "from_user", "to_user", "leg", "direction"), _TEXT),
    "r_factor": _NUMBER,
    "band": _TEXT,
    "mos": _NUMBER,
    "mos_method": _TEXT,
    "grounded": _TRUTH,
    "seconds": _NUMBER,
    "due": _COUNT,
    "reports": _COUNT,
    **dict.fromkeys(("loss_pct", "jitter_ms", "rtt_ms"), _NUMBER),
    **dict.fromkeys(("codec", "trunk", "flags", "source"), _TEXT),
}
_COLUMNS: Final[dict[str, dict[str, str]]] = {
    "total": {"calls": _COUNT, "directions": _COUNT, **_COUNTS, "grounded": _COUNT, **_R},
    "over_time": {"at": _TIME, "step_s": _COUNT, **_COUNTS, **_R},
    "bands": {"band": _TEXT, "r_from": _NUMBER, "directions": _COUNT, "share_pct": _NUMBER},
    "spread": {"figure": _TEXT, "low": _NUMBER, "high": _NUMBER, "directions": _COUNT, "share_pct": _NUMBER},
    "by_hour": {"weekday": _COUNT, "hour": _COUNT, **_COUNTS, **_R},
    "by": {
        "key": _TEXT,
        "calls": _COUNT,
        **_COUNTS,
        "unrated": _COUNT,
        "grounded_pct": _NUMBER,
        **_R,
        **{f"{figure}_{share}": _NUMBER for figure in EDGES for share in ("p50", "p95")},
    },
    "methods": {
        **dict.fromkeys(("mos_method", "kind", "codec"), _TEXT),
        **dict.fromkeys(("ie", "bpl"), _NUMBER),
        "grounded": _TRUTH,
        "basis": _TEXT,
        "source": _TEXT,
        "directions": _COUNT,
        "enough": _COUNT,
    },
    "worst": _WORST,
    "unranked": _WORST,
}
_SEARCH_KEYS: Final = {"trunk": "trunk=", "codec": "codec=", "ua": "ua=", "account": "account="}


def quality_overview(
    *,
    since: Moment = None,
    until: Moment = None,
    by: str = "trunk",
    zone: str = "UTC",
    limit: int = 20,
    conceal_loss: bool = True,
    unranked: bool = True,
    store: Store | None = None,
) -> dict[str, pd.DataFrame]:
    """All that the functions below tell of [since, until), from one look at the store: much quicker than one by one.

    Keys: total (one row: calls that were rated, directions, rated, enough, grounded, r_*, mos_*), over_time, bands,
    spread, by_hour, by, methods, worst, unranked (where asked for).
    """
    parts = tuple(part for part in heard_queries.PARTS if unranked or part != "unranked")
    return _asked(parts, since, until, store, by, zone, limit, conceal_loss)


def quality(
    by: str = "all",
    *,
    since: Moment = None,
    until: Moment = None,
    zone: str = "UTC",
    store: Store | None = None,
) -> pd.DataFrame:
    """Figures by trunk, codec, ua (User-Agent), account, network (/24 or /48 of the phone's media address), hour, or
    all: the lowest r_p5 first. Raises StoreError for another `by`.

    | column | |
    |---|---|
    | `key` | the trunk, codec ...; `-` where it is not known |
    | `calls`, `rated`, `unrated`, `enough` | calls; directions with an R, without, with enough packets |
    | `r_p5`, `r_p50`, `r_p95`, `mos_p5` ... | percentiles of R, and the MOS of each |
    | `loss_pct_p50`, `_p95`, `jitter_ms_p50`, `_p95`, `rtt_ms_p50`, `_p95` | loss in percent, jitter, round trip |
    | `grounded_pct` | share of the rated whose codec has a published impairment |
    """
    return _asked(("by",), since, until, store, by, zone)["by"]


def quality_over_time(
    *, since: Moment = None, until: Moment = None, zone: str = "UTC", store: Store | None = None
) -> pd.DataFrame:
    """Percentiles of R in 12 to 200 steps, by how much there is: `at` (the start of each), `step_s`, `rated`,
    `enough`, r_*, mos_*. Steps with nothing in them are not there. Steps of days are days of `zone`."""
    return _asked(("over_time",), since, until, store, zone=zone)["over_time"]


def quality_spread(*, since: Moment = None, until: Moment = None, store: Store | None = None) -> pd.DataFrame:
    """How many directions had how much of each `figure` (loss_pct, jitter_ms, rtt_ms): above `low` and up to `high`
    (infinite for the last step), `directions`, `share_pct` of those of whom it is known."""
    return _asked(("spread",), since, until, store)["spread"]


def quality_bands(*, since: Moment = None, until: Moment = None, store: Store | None = None) -> pd.DataFrame:
    """How many directions lie in each `band` of R (ITU-T G.109), from `r_from` on: `directions`, `share_pct`."""
    return _asked(("bands",), since, until, store)["bands"]


def quality_by_hour(
    *, since: Moment = None, until: Moment = None, zone: str = "UTC", store: Store | None = None
) -> pd.DataFrame:
    """Percentiles of R by `weekday` (1 is Monday) and `hour` in `zone`; `rated`, `enough`, r_*, mos_*."""
    return _asked(("by_hour",), since, until, store, zone=zone)["by_hour"]


def quality_methods(
    *, since: Moment = None, until: Moment = None, conceal_loss: bool = True, store: Store | None = None
) -> pd.DataFrame:
    """How each MOS was made, most frequent first.

    | column | |
    |---|---|
    | `mos_method` | g107-simplified, g107-full (-lq: without delay); xr: by the phone; agent: by the HEP agent |
    | `kind` | CQ: conversational, with delay; LQ: listening, no round trip was known |
    | `codec`, `ie`, `bpl`, `grounded`, `basis` | the E-model's parameters of the codec and where they are from; missing where the E-model was not asked; `conceal_loss` as in the tap's settings |
    | `source` | cdr, leg table, hep rtcp |
    | `directions`, `enough` | rated so; with enough packets |
    """  # noqa: E501  one row of a table
    return _asked(("methods",), since, until, store, conceal_loss=conceal_loss)["methods"]


def worst_calls(
    *,
    since: Moment = None,
    until: Moment = None,
    limit: int = 20,
    ranked: bool = True,
    store: Store | None = None,
) -> pd.DataFrame:
    """The calls with the lowest R, each with its worst direction.

    | column | |
    |---|---|
    | `ts`, `call_id`, `from_user`, `to_user` | when the leg began (UTC), Call-ID, parties |
    | `leg`, `direction` | a or b; incoming (from the phone) or outgoing |
    | `r_factor`, `band`, `mos`, `mos_method`, `grounded` | R, what users say at that R, MOS and how it was made |
    | `seconds`, `due`, `reports` | length of the leg; the sample: packets expected, RTCP reports |
    | `loss_pct`, `jitter_ms`, `rtt_ms`, `codec`, `trunk`, `flags`, `source` | what it went through |

    `ranked=False`: instead those that no ranking counts: too few packets, or a codec without published impairment.
    """
    part = "worst" if ranked else "unranked"
    return _asked((part,), since, until, store, limit=limit)[part]


def quality_coverage(
    *, since: Moment = None, until: Moment = None, store: Store | None = None
) -> pd.DataFrame:
    """How many calls have quality and why the others have none: `why`, `calls`, `audible`, most frequent first.

    `why` is "rated", "not answered" (with `audible` False: there was nothing to hear), or the reason.
    """
    import pandas as pd  # noqa: PLC0415  0.3 s that commands without a table do without

    rows = coverage_queries.coverage(current(store).reader, since=moment(since), until=moment(until))
    told = [
        {"why": row["why"] or "not answered", "calls": row["calls"], "audible": row["why"] is not None}
        for row in rows
    ]
    return pd.DataFrame(told, columns=["why", "calls", "audible"]).astype(
        {"why": _TEXT, "calls": _COUNT, "audible": _TRUTH}
    )


def search_for(by: str, key: str, below_r: int | None = None) -> str:
    """The search of calls (`pipeline.store.search`) that finds those of one row of `quality(by)`, or of these those
    with an R below `below_r`. Empty where the search knows no such thing."""
    terms = []
    if key != "-":
        if by in _SEARCH_KEYS:
            terms.append(_SEARCH_KEYS[by] + _quoted(key))
        elif by == "network":  # an address is known by its text there
            prefix, _, length = key.rpartition("/")
            terms.append(f"trunk:{prefix[:-1] if length == '24' else prefix.removesuffix(':')}*")
    if below_r is not None:
        terms.append(f"r<{below_r}")
    return " ".join(terms)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _asked(
    parts: tuple[str, ...],
    since: Moment,
    until: Moment,
    store: Store | None,
    by: str = "all",
    zone: str = "UTC",
    limit: int = 20,
    conceal_loss: bool = True,
) -> dict[str, pd.DataFrame]:
    asked, start, end = current(store), moment(since), moment(until)
    steps = _steps(asked, start, end, zone) if "over_time" in parts else heard_queries.NO_STEPS
    found = heard_queries.overview(
        asked.reader, parts, since=start, until=end, by=by, zone=zone, steps=steps, limit=limit
    )
    for row in found.get("over_time", ()):
        row["step_s"] = steps[0]
    found.get("over_time", []).sort(key=itemgetter("at"))
    found.get("by_hour", []).sort(key=itemgetter("weekday", "hour"))
    if "bands" in found:
        found["bands"] = _with_shares(found["bands"])
    if "spread" in found:
        found["spread"] = _every_step(found["spread"])
    if "methods" in found:
        found["methods"] = _with_parameters(found["methods"], conceal_loss)
    return {name: _frame(name, rows) for name, rows in found.items()}


def _steps(store: Store, since: datetime | None, until: datetime | None, zone: str) -> tuple[int, datetime]:
    """The length of a step in seconds, and the midnight in `zone` that steps of hours are counted from.

    No more steps than there are percentiles to be told in: FEW directions for each, if they came evenly.
    """
    known = heard_queries.span(store.reader, since, until)
    if known is None:
        return heard_queries.NO_STEPS
    first, last, directions = known
    most = max(LEAST_STEPS, min(MOST_STEPS, directions // FEW))
    step_s = step_of(max(last - first, timedelta(seconds=1)), most)
    midnight = first.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    return step_s, midnight.astimezone(UTC)


def _with_shares(rows: list[Row]) -> list[Row]:
    total = sum(row["directions"] for row in rows)
    return [{**row, "share_pct": 100 * row["directions"] / total if total else None} for row in rows]


def _every_step(rows: list[Row]) -> list[Row]:
    """All steps in order, those with nothing in them too, with their lower ends."""
    counted = {(row["figure"], row["high"]): row["directions"] for row in rows}
    steps = []
    for figure, edges in EDGES.items():
        ends = [float("-inf"), *map(float, edges), float("inf")]
        steps += _with_shares(
            [
                {"figure": figure, "low": low, "high": high, "directions": counted.get((figure, high), 0)}
                for low, high in pairwise(ends)
            ]
        )
    return steps


def _with_parameters(rows: list[Row], conceal_loss: bool) -> list[Row]:
    made = []
    for row in sorted(rows, key=lambda row: (-row["directions"], str(row["mos_method"]), str(row["codec"]))):
        by_model = (row["mos_method"] or "").startswith("g107")
        used = impairment(lookup(row["codec"]), plc=conceal_loss) if by_model else None
        made.append(
            {
                **row,
                "kind": "CQ" if row["conversational"] else "LQ",
                "ie": used and used.ie,
                "bpl": used and used.bpl,
                "basis": used and used.source,
            }
        )
    return made


def _frame(part: str, rows: list[Row]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

    series: dict[str, Any] = {}
    for name, kind in _COLUMNS[part].items():
        values: Any = [row.get(name) for row in rows]
        series[name] = pd.Series(pd.to_datetime(values, utc=True) if kind == _TIME else values, dtype=kind)
    return pd.DataFrame(series)
