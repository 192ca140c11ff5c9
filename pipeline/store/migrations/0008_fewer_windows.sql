-- The same rules as in 0004 with less sorting: windows only over what is there more than once, which is little once
-- upkeep dropped what was replaced.

-- sip_call(since, until): the latest row of each call on the mirror that was on at some time of [since, until), as the
-- node that saw the most of it has it; calls that are leg B of another left out. The time is asked of every row of a
-- call: the latest has the widest span, so it passes whenever an earlier one does.
DROP MACRO TABLE sip_call;
CREATE MACRO sip_call(since, until) AS TABLE
    WITH asked AS NOT MATERIALIZED (
        SELECT * FROM call_state
        WHERE (since::TIMESTAMPTZ IS NULL OR last_ts >= since::TIMESTAMPTZ)
            AND (until::TIMESTAMPTZ IS NULL OR first_ts < until::TIMESTAMPTZ)
            AND call_id NOT IN (
                SELECT name FROM call_leg WHERE kind = 'call-id' AND leg = 'b' AND name <> call_id)
    ),
    several AS MATERIALIZED (
        SELECT call_id FROM call_state
        WHERE (since::TIMESTAMPTZ IS NULL OR last_ts >= since::TIMESTAMPTZ)
            AND (until::TIMESTAMPTZ IS NULL OR first_ts < until::TIMESTAMPTZ)
        GROUP BY call_id HAVING count(*) > 1
    ),
    newest AS NOT MATERIALIZED (
        FROM asked SEMI JOIN several USING (call_id)
        QUALIFY row_number() OVER (PARTITION BY node, call_id ORDER BY recorded_at DESC) = 1
    )
    SELECT * EXCLUDE (recorded_at) FROM asked ANTI JOIN several USING (call_id)
    UNION ALL BY NAME
    SELECT * EXCLUDE (recorded_at) FROM newest
    QUALIFY row_number() OVER (PARTITION BY call_id ORDER BY messages DESC NULLS LAST, node) = 1;

-- leg_quality_newest(call): what 0004 describes as leg_quality_row, of one call without a look at all units.
CREATE MACRO leg_quality_newest(call) AS TABLE
    SELECT l.rowid AS row_id, l.*
    FROM leg_quality_state l
    ANTI JOIN (
        SELECT unit, max(revision) AS newest FROM leg_quality_state
        WHERE call::VARCHAR IS NULL
            OR unit IN (SELECT unit FROM leg_quality_state WHERE call_id = call::VARCHAR)
        GROUP BY unit HAVING min(revision) < max(revision)
    ) again ON l.unit = again.unit AND l.revision < again.newest
    WHERE l.leg IS NOT NULL AND (call::VARCHAR IS NULL OR l.call_id = call::VARCHAR);
DROP VIEW leg_quality_row;
CREATE VIEW leg_quality_row AS FROM leg_quality_newest(NULL);

-- leg_quality_chosen(since, until, call), as 0004 describes it.
DROP MACRO TABLE leg_quality_chosen;
CREATE MACRO leg_quality_chosen(since, until, call) AS TABLE
    WITH told AS MATERIALIZED (
        SELECT row_id, hash(coalesce(call_id, unit), leg, direction) AS same, ts, end_ts,
            CASE source WHEN 'leg table' THEN 0::TINYINT WHEN 'cdr' THEN 1::TINYINT ELSE 2::TINYINT END AS rank,
            (2 * (loss_pct IS NULL)::INTEGER + coalesce(
                regexp_matches(flags, 'truncated_b|clamped|seq_restart|opus_clock'), false)::INTEGER)::TINYINT AS doubt
        FROM leg_quality_newest(call)
        WHERE (since::TIMESTAMPTZ IS NULL OR ts >= since::TIMESTAMPTZ - INTERVAL 1 HOUR)
            AND (until::TIMESTAMPTZ IS NULL OR ts < until::TIMESTAMPTZ + INTERVAL 1 HOUR)
    ),
    several AS MATERIALIZED (
        SELECT same FROM told GROUP BY same HAVING count(*) > 1
    ),
    beside AS MATERIALIZED (
        SELECT told.*, named.leg_call_id
        FROM told SEMI JOIN several USING (same)
        JOIN (SELECT rowid AS row_id, leg_call_id FROM leg_quality_state) named USING (row_id)
    ),
    plain AS MATERIALIZED (
        SELECT same, arg_min(row_id, 3 * doubt + rank) AS row_id
        FROM beside
        GROUP BY same
        HAVING min(leg_call_id) = max(leg_call_id) AND max(ts) <= min(end_ts) + INTERVAL 1 MINUTE
            AND count(*) FILTER (rank = 0) <= 1 AND count(*) FILTER (rank = 1) <= 1
            AND count(*) FILTER (rank = 2) <= 1
    ),
    intricate AS NOT MATERIALIZED (
        SELECT l.*, b.row_id, b.rank, b.doubt, coalesce(l.call_id, l.unit) AS of_call
        FROM (SELECT rowid, * FROM leg_quality_state) l
        JOIN (FROM beside ANTI JOIN plain USING (same)) b ON l.rowid = b.row_id
    ),
    in_time AS NOT MATERIALIZED (
        SELECT *, coalesce(ts > max(end_ts) OVER before + INTERVAL 1 MINUTE, false)::INTEGER AS pause
        FROM intricate
        WINDOW before AS (PARTITION BY of_call, leg, direction ORDER BY ts
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ),
    uses AS NOT MATERIALIZED (
        SELECT *, sum(pause) OVER (PARTITION BY of_call, leg, direction ORDER BY ts) AS pauses FROM in_time
    ),
    named AS NOT MATERIALIZED (
        SELECT *, coalesce(leg_call_id, CASE WHEN min(leg_call_id) OVER one = max(leg_call_id) OVER one
            THEN min(leg_call_id) OVER one END, unit) AS one_leg
        FROM uses WINDOW one AS (PARTITION BY of_call, leg, direction, pauses)
    ),
    best AS NOT MATERIALIZED (
        SELECT row_id FROM named
        QUALIFY row_number() OVER (PARTITION BY of_call, leg, direction, pauses, one_leg
            ORDER BY doubt, rank, packets DESC NULLS LAST, unit) = 1
    )
    SELECT row_id FROM told ANTI JOIN several USING (same)
    UNION ALL
    SELECT row_id FROM plain
    UNION ALL
    FROM best;
