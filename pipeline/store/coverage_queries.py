"""How many calls it is known of how they sounded, and why it is not known of the others.

A call counts here when there was something to hear: it was answered, as SIP or the CDRs have it, or there are records
of its media. It counts once for each Call-ID; leg B of a call is no call of its own.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pipeline.store.queries import Row, Source, rows_of

RATED: Final = "rated"
NO_SOURCE: Final = "no CDRs are read, and no reports came"
# The first that holds counts. `said` are the flags of all its records (pipeline.protocols.leg.FLAGS).
_WHY: Final = f"""CASE
        WHEN rated THEN '{RATED}'
        WHEN contains(said, 'no_rtcp') THEN 'the phone sent no RTCP reports'
        WHEN contains(said, 'short') THEN 'too short for an RTCP report'
        WHEN said IS NOT NULL THEN 'the reports do not tell the loss'
        WHEN in_cdr AND media_rows = 0 THEN 'its CDR holds nothing of media'
        WHEN in_cdr THEN 'what its CDR holds of media cannot be read'
        WHEN (SELECT count(*) FROM cdr_call_state) = 0 THEN '{NO_SOURCE}'
    END"""

# Calls are told apart by a hash: 64 bits are enough, and much quicker than text.
# `said` is empty text where there are records without flags, NULL where there are none.
_CALLS: Final = f"""
    WITH heard AS (
        SELECT hash(coalesce(call_id, unit)) AS of_call, bool_or(r_factor IS NOT NULL) AS rated,
            coalesce(string_agg(DISTINCT flags, ' '), '') AS said
        FROM leg_quality
        WHERE ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until) GROUP BY ALL
    ),
    sip AS (
        SELECT hash(call_id) AS of_call, max(answer_ts) IS NOT NULL AS answered
        FROM call_state
        WHERE ($since IS NULL OR last_ts >= $since) AND ($until IS NULL OR first_ts < $until)
            AND call_id NOT IN (
                SELECT name FROM call_leg WHERE kind = 'call-id' AND leg = 'b' AND name <> call_id)
        GROUP BY ALL HAVING $since IS NULL OR min(first_ts) >= $since
    ),
    cdr AS (
        SELECT hash(coalesce(call_id, unit)) AS of_call, bool_or(disposition = 'ANSWERED') AS answered,
            max(media_rows) AS media_rows
        FROM cdr_call
        WHERE ($since IS NULL OR start_ts >= $since) AND ($until IS NULL OR start_ts < $until) GROUP BY ALL
    ),
    known AS (
        SELECT coalesce(h.of_call, s.of_call, c.of_call) AS of_call, h.rated IS TRUE AS rated, h.said,
            c.of_call IS NOT NULL AS in_cdr, c.media_rows,
            h.of_call IS NOT NULL OR s.answered IS TRUE OR c.answered IS TRUE AS audible
        FROM sip s
        FULL JOIN cdr c ON c.of_call = s.of_call
        FULL JOIN heard h ON h.of_call = coalesce(s.of_call, c.of_call)
    ),
    told AS (SELECT of_call, CASE WHEN audible THEN coalesce({_WHY}, '') END AS why FROM known)"""


def coverage(source: Source, *, since: datetime | None = None, until: datetime | None = None) -> list[Row]:
    """Of the calls that began in [since, until): `why` (RATED, or why there is no quality; None: never answered, so
    there was nothing to hear) and `calls`, most frequent first."""
    # Of those that are heard of in SIP only, where there are CDRs, the join knows why they have none.
    sql = f"""{_CALLS}
        SELECT CASE WHEN t.why = '' THEN coalesce('no CDR: ' || u.reason, 'no CDR') ELSE t.why END AS why,
            count(*) AS calls
        FROM told t
        LEFT JOIN call_without_cdr($since, $until) u ON hash(u.call_id) = CASE WHEN t.why = '' THEN t.of_call END
        GROUP BY ALL"""
    found = rows_of(source, sql, {"since": since, "until": until})
    return sorted(found, key=lambda row: (-row["calls"], row["why"] or ""))
