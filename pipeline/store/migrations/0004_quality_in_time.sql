-- Reports on large stores: the same rules as in 0003, so put that a question about some time reads that time only,
-- and that wide columns are read for the rows that count. What is known of calls without quality can be asked by time.

-- `leg_quality` with the lake's own row number: the choice below is made on numbers, the columns are read afterwards.
-- Few units were written more than once: it is quicker to leave their older rows out than to look for the newest of
-- all.
CREATE VIEW leg_quality_row AS
    SELECT l.rowid AS row_id, l.*
    FROM leg_quality_state l
    ANTI JOIN (
        SELECT unit, max(revision) AS newest FROM leg_quality_state
        GROUP BY unit HAVING min(revision) < max(revision)
    ) again ON l.unit = again.unit AND l.revision < again.newest
    WHERE l.leg IS NOT NULL;
DROP VIEW leg_quality;
CREATE VIEW leg_quality AS SELECT * EXCLUDE (row_id, revision, recorded_at) FROM leg_quality_row;

-- leg_quality_best(since, until, call): the choice that 0003 describes. Most directions are told of once, and most
-- of the others once by each source, at the same time, of the same Call-ID: these need no windows. `same` is a hash
-- of what is compared; should two be alike by chance, they are told apart as the intricate ones are, by the values.
DROP MACRO TABLE leg_quality_best;
CREATE MACRO leg_quality_best(since, until, call) AS TABLE
    SELECT * EXCLUDE (revision, recorded_at) FROM leg_quality_state
    WHERE rowid IN (
        WITH told AS MATERIALIZED (
            SELECT row_id, hash(coalesce(call_id, unit), leg, direction) AS same, ts, end_ts,
                CASE source WHEN 'leg table' THEN 0::TINYINT WHEN 'cdr' THEN 1::TINYINT ELSE 2::TINYINT END AS rank,
                (2 * (loss_pct IS NULL)::INTEGER + coalesce(
                    regexp_matches(flags, 'truncated_b|clamped|seq_restart|opus_clock'), false)::INTEGER)::TINYINT AS doubt
            FROM leg_quality_row
            WHERE (since::TIMESTAMPTZ IS NULL OR ts >= since::TIMESTAMPTZ - INTERVAL 1 HOUR)
                AND (until::TIMESTAMPTZ IS NULL OR ts < until::TIMESTAMPTZ + INTERVAL 1 HOUR)
                AND (call::VARCHAR IS NULL OR call_id = call::VARCHAR)
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
            SELECT same, arg_min(row_id, (doubt, rank)) AS row_id
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
        FROM best
    )
        AND (since::TIMESTAMPTZ IS NULL OR ts >= since::TIMESTAMPTZ)
        AND (until::TIMESTAMPTZ IS NULL OR ts < until::TIMESTAMPTZ)
        AND (call::VARCHAR IS NULL OR call_id = call::VARCHAR);
