"""Questions about findings: what was found, what was done about it, how often, and how long woken phones take.

The push that wakes a phone is not on the mirror. A proxy sends it when the INVITE comes for a phone that it cannot
reach; so the delay from push to REGISTER is taken from the call's first INVITE to the REGISTER being accepted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from pipeline.store.call_queries import Question
from pipeline.store.queries import Row, Source, rows_of

LATE: Final = "late_register"
HORIZON: Final = timedelta(
    seconds=60
)  # a phone rings that long at most: what registers later was not woken by it
_LONGEST_RING: Final = timedelta(minutes=5)

# RFC 8599, and what was there before it.
_PUSH: Final = (
    r"""array_to_string(regexp_extract_all(lower(contact), 'pn-(provider|type)=[^;>,"\s]+'), ';')"""
)

# What actions made of a finding, by `finding_id`.
_DONE: Final = """
    done AS (
        SELECT finding_id, list({
            'action': action, 'dry_run': dry_run, 'outcome': outcome, 'detail': detail,
            'statuses': json_extract_string(sip_statuses, '$[*].status'),
            'register_to_invite_ms': register_to_invite_ms} ORDER BY started_at, attempt_id) AS attempts
        FROM action_attempt WHERE finding_id IN (SELECT finding_id FROM page) GROUP BY finding_id
    )"""


def findings(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    kind: str | None = None,
    other_than: str | None = None,
    call_id: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> Question:
    """Newest first, each with its attempts (a list of structs, oldest first, or NULL)."""
    sql = f"""
        WITH page AS (
            SELECT * FROM finding
            WHERE ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)
                AND ($kind IS NULL OR kind = $kind) AND ($other_than IS NULL OR kind <> $other_than)
                AND ($call_id IS NULL OR call_id = $call_id)
            ORDER BY ts DESC, finding_id LIMIT $limit OFFSET $offset
        ), {_DONE}
        SELECT p.ts, p.kind, p.call_id, p.aor, p.evidence->>'caller_user' AS caller,
            p.evidence->>'caller_display' AS from_display, p.target, p.evidence->>'device' AS device,
            p.evidence->>'user_agent' AS user_agent, p.outcome, p.late_ms,
            make_timestamptz((p.evidence->>'invite_us')::BIGINT) AS invite_ts,
            make_timestamptz((p.evidence->>'outcome_us')::BIGINT) AS outcome_ts,
            make_timestamptz((p.evidence->>'register_us')::BIGINT) AS register_ts,
            p.trusted, p.severity, p.node, p.finding_id, p.identifier, p.evidence, d.attempts
        FROM page p LEFT JOIN done d USING (finding_id)
        ORDER BY p.ts DESC, p.finding_id"""
    asked = {"since": since, "until": until, "kind": kind, "other_than": other_than, "call_id": call_id}
    return Question(sql, {**asked, "limit": limit, "offset": offset})


def totals(
    *, since: datetime | None = None, until: datetime | None = None, kind: str | None = None
) -> Question:
    """By outcome: findings, phones, calls, late_ms at p50 and p95, the last one's time; most frequent first, before
    them the same of all together (outcome NULL)."""
    sql = """
        SELECT CASE WHEN grouping(outcome) = 0 THEN coalesce(outcome, '-') END AS outcome, count(*) AS findings,
            count(DISTINCT evidence->>'device') AS phones, count(DISTINCT call_id) AS calls,
            quantile_cont(late_ms, 0.5) AS late_ms_p50, quantile_cont(late_ms, 0.95) AS late_ms_p95, max(ts) AS last
        FROM finding
        WHERE ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until) AND ($kind IS NULL OR kind = $kind)
        GROUP BY GROUPING SETS ((), (outcome)) HAVING findings > 0
        ORDER BY grouping(outcome) DESC, findings DESC, outcome"""
    return Question(sql, {"since": since, "until": until, "kind": kind})


def kinds(source: Source) -> list[str]:
    """All kinds of findings there are."""
    return [row["kind"] for row in rows_of(source, "SELECT DISTINCT kind FROM finding ORDER BY kind")]


def span(source: Source, kind: str | None) -> tuple[datetime, datetime] | None:
    """When the first and the last were found; None when there is none."""
    sql = "SELECT min(ts) AS first, max(ts) AS last FROM finding WHERE $kind IS NULL OR kind = $kind"
    row = rows_of(source, sql, {"kind": kind})[0]
    return None if row["first"] is None else (row["first"], row["last"])


def by_step(
    *,
    since: datetime | None,
    until: datetime | None,
    kind: str | None,
    step_s: int,
    midnight: datetime,
) -> Question:
    """Per step of `step_s` seconds, counted from `midnight`: at (its start), outcome, findings."""
    sql = """
        SELECT time_bucket(to_seconds($step_s), ts, $midnight::TIMESTAMPTZ) AS at, coalesce(outcome, '-') AS outcome,
            count(*) AS findings
        FROM finding
        WHERE ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until) AND ($kind IS NULL OR kind = $kind)
        GROUP BY ALL ORDER BY ALL"""
    asked = {"since": since, "until": until, "kind": kind}
    return Question(sql, {**asked, "step_s": step_s, "midnight": midnight})


def attempts(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    call_id: str | None = None,
    limit: int = 100,
) -> Question:
    """What actions did, newest first; `statuses` and `statuses_at` are lists of equal length."""
    sql = """
        SELECT started_at, ended_at, action, rule, dry_run, outcome, detail, call_id, device, target,
            json_extract_string(sip_statuses, '$[*].status')::INTEGER[] AS statuses,
            list_transform(json_extract_string(sip_statuses, '$[*].at_us'), lambda us: make_timestamptz(us::BIGINT))
                AS statuses_at,
            register_to_invite_ms, finding_id, attempt_id, node
        FROM action_attempt
        WHERE ($since IS NULL OR started_at >= $since) AND ($until IS NULL OR started_at < $until)
            AND ($call_id IS NULL OR call_id = $call_id)
        ORDER BY started_at DESC, attempt_id LIMIT $limit"""
    return Question(sql, {"since": since, "until": until, "call_id": call_id, "limit": limit})


def attempt_counts(*, since: datetime | None = None, until: datetime | None = None) -> Question:
    """By action, dry_run and outcome: attempts, register_to_invite_ms at p50 and p95, the last one's time."""
    sql = """
        SELECT action, dry_run, outcome, count(*) AS attempts, quantile_cont(register_to_invite_ms, 0.5)
                AS register_to_invite_ms_p50,
            quantile_cont(register_to_invite_ms, 0.95) AS register_to_invite_ms_p95, max(started_at) AS last
        FROM action_attempt
        WHERE ($since IS NULL OR started_at >= $since) AND ($until IS NULL OR started_at < $until)
        GROUP BY ALL ORDER BY action, dry_run, attempts DESC, outcome"""
    return Question(sql, {"since": since, "until": until})


def device_kinds(
    source: Source, *, since: datetime | None = None, until: datetime | None = None
) -> list[Row]:
    """The kinds of devices that registered: user_agent, and `push`, the push parameters of their contacts."""
    sql = f"""
        SELECT DISTINCT user_agent, {_PUSH} AS push FROM registration
        WHERE ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)"""
    return rows_of(source, sql, {"since": since, "until": until})


# Who came back after which call: the last one for its account whose INVITE came before the REGISTER, its first REGISTER
# after that INVITE. Callee keys are compared as the detector does by default, without its aliases.
_CAME_BACK: Final = f"""
    came AS (
        SELECT ts, aor, device FROM registration
        WHERE event IN ('registered', 'refreshed') AND ($since IS NULL OR ts >= $since)
            AND ($until IS NULL OR ts < $until::TIMESTAMPTZ + $horizon::INTERVAL)
            AND (coalesce(user_agent, ''), coalesce({_PUSH}, '')) IN (
                SELECT (unnest($user_agents), unnest($pushes)))
    ),
    called AS (
        SELECT call_id, any_value(to_user) AS to_user, any_value(ruri_user) AS ruri_user,
            any_value(lower(to_host)) AS host, min(invite_ts) AS invite_ts, max(coalesce(answer_ts, end_ts)) AS over_ts
        FROM call_state
        WHERE invite_ts IS NOT NULL AND ($since IS NULL OR last_ts >= $since::TIMESTAMPTZ - $horizon::INTERVAL)
            AND ($until IS NULL OR first_ts < $until)
        GROUP BY call_id
    ),
    rang AS (
        SELECT call_id, unnest(list_distinct(['sip:' || to_user || '@' || host, 'sip:' || ruri_user || '@' || host]))
            AS aor, invite_ts, over_ts
        FROM called
    ),
    woken AS (
        SELECT r.call_id, c.aor, c.device, r.invite_ts, r.over_ts, min(c.ts) AS register_ts
        FROM came c ASOF JOIN (FROM rang WHERE aor IS NOT NULL) r ON c.aor = r.aor AND c.ts > r.invite_ts
        WHERE r.invite_ts >= c.ts - $longest::INTERVAL AND ($since IS NULL OR r.invite_ts >= $since)
            AND ($until IS NULL OR r.invite_ts < $until)
        GROUP BY ALL
    )"""


def _devices(kinds_of_devices: Collection[Row], since: datetime | None, until: datetime | None) -> Row:
    """What `_CAME_BACK` is asked with."""
    return {
        "since": since,
        "until": until,
        "horizon": HORIZON,
        "longest": _LONGEST_RING,
        "user_agents": [kind["user_agent"] or "" for kind in kinds_of_devices],
        "pushes": [kind["push"] or "" for kind in kinds_of_devices],
    }


def delays(
    kinds_of_devices: Collection[Row],
    edges_ms: Sequence[float],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Question:
    """From the call's first INVITE to the phone's REGISTER, counted: `what`, `high` (upper end of the step in ms,
    infinite beyond the last of `edges_ms`), `phones`.

    `what`: late (there is a finding), in time (it registered before the call was over), or after the end (and yet no
    finding: it was reached, came after the detector's window, or the call's end does not count).
    """
    sql = f"""
        WITH late AS (
            SELECT call_id, evidence->>'device' AS device,
                ((evidence->>'register_us')::BIGINT - (evidence->>'invite_us')::BIGINT) / 1000 AS delay_ms
            FROM finding
            WHERE kind = '{LATE}' AND (evidence->>'invite_us') IS NOT NULL
                AND ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)
        ), {_CAME_BACK},
        told AS (
            SELECT 'late' AS what, delay_ms FROM late
            UNION ALL
            SELECT CASE WHEN over_ts IS NULL OR register_ts <= over_ts THEN 'in time' ELSE 'after the end' END,
                date_diff('microsecond', invite_ts, register_ts) / 1000
            FROM woken ANTI JOIN late USING (call_id, device)
            WHERE register_ts <= invite_ts + $horizon::INTERVAL
        ),
        counted AS (SELECT what, histogram(delay_ms, $edges::DOUBLE[]) AS h FROM told GROUP BY what)
        SELECT what, unnest(map_keys(h)) AS high, unnest(map_values(h)) AS phones FROM counted ORDER BY ALL"""
    return Question(sql, {**_devices(kinds_of_devices, since, until), "edges": list(edges_ms)})


def messages_of_races(
    kinds_of_devices: Collection[Row],
    *,
    methods: Collection[str],
    window: timedelta,
    most: int,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Question:
    """The stored messages, in order of arrival and at most `most`, that tell who was late by up to `window`:
    calls for whose account a push device registered after their INVITE, and all REGISTERs of these accounts."""
    sql = f"""
        WITH {_CAME_BACK},
        race AS (
            SELECT call_id, aor FROM woken WHERE over_ts IS NULL OR register_ts <= over_ts + $window::INTERVAL
            UNION
            SELECT call_id, aor FROM finding
            WHERE kind = '{LATE}' AND ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)
        )
        SELECT ts, received_at, agent_id, agent_addr, transport, src_ip, src_port, dst_ip, dst_port, msg_id, payload
        FROM sip
        WHERE ($since IS NULL OR received_at >= $since::TIMESTAMPTZ - INTERVAL 1 HOUR)
            AND ($until IS NULL OR received_at < $until::TIMESTAMPTZ + INTERVAL 1 HOUR)
            AND list_contains($methods, method)
            AND (call_id IN (SELECT call_id FROM race)
                OR (method = 'REGISTER' AND 'sip:' || to_user || '@' || lower(to_host) IN (SELECT aor FROM race)))
        ORDER BY received_at, msg_id LIMIT $most"""
    given = _devices(kinds_of_devices, since, until)
    return Question(sql, {**given, "methods": sorted(methods), "window": window, "most": most})
