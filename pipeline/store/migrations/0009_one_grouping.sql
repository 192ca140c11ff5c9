-- The same answers as of 0008 and 0004, for half of the work.

-- leg_quality_chosen(since, until, call), as 0004 describes it: the records of each direction of a leg are grouped once,
-- and only those that differ in more than their source are sorted. Numbers instead of texts are compared: 64 bits are
-- enough.
DROP MACRO TABLE leg_quality_chosen;
CREATE MACRO leg_quality_chosen(since, until, call) AS TABLE
    WITH told AS MATERIALIZED (
        SELECT row_id, hash(coalesce(call_id, unit), leg, direction) AS same, ts, end_ts,
            CASE WHEN leg_call_id IS NOT NULL THEN hash(leg_call_id) END AS leg_of,
            CASE source WHEN 'leg table' THEN 0::TINYINT WHEN 'cdr' THEN 1::TINYINT ELSE 2::TINYINT END AS rank,
            (2 * (loss_pct IS NULL)::INTEGER + coalesce(
                regexp_matches(flags, 'truncated_b|clamped|seq_restart|opus_clock'), false)::INTEGER)::TINYINT AS doubt
        FROM leg_quality_newest(call)
        WHERE (since::TIMESTAMPTZ IS NULL OR ts >= since::TIMESTAMPTZ - INTERVAL 1 HOUR)
            AND (until::TIMESTAMPTZ IS NULL OR ts < until::TIMESTAMPTZ + INTERVAL 1 HOUR)
    ),
    grouped AS MATERIALIZED (
        SELECT same, arg_min(row_id, 3 * doubt + rank) AS row_id,
            count(*) = 1 OR coalesce(
                count(*) = bit_count(bit_or(1 << rank))  -- each source once
                AND min(leg_of) = max(leg_of) AND max(ts) <= min(end_ts) + INTERVAL 1 MINUTE, false) AS is_plain
        FROM told GROUP BY same
    ),
    intricate AS NOT MATERIALIZED (
        SELECT l.*, t.row_id, t.rank, t.doubt, coalesce(l.call_id, l.unit) AS of_call
        FROM (SELECT rowid, * FROM leg_quality_state) l
        JOIN (FROM told SEMI JOIN (FROM grouped WHERE NOT is_plain) USING (same)) t ON l.rowid = t.row_id
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
    SELECT row_id FROM grouped WHERE is_plain
    UNION ALL
    FROM best;

-- call_without_cdr(since, until): calls on the mirror that began in [since, until) and that no CDR tells of, each with
-- the first reason that holds; sip_unjoined has them with all that is known of them.
CREATE MACRO call_without_cdr(since, until) AS TABLE
    WITH cdrs AS (SELECT min(start_ts) AS first_ts, max(end_ts) AS last_ts FROM cdr_call),
    switch AS (
        SELECT DISTINCT dst_ip FROM call_state
        WHERE dst_ip IS NOT NULL AND call_id IN (SELECT call_id FROM cdr_call WHERE call_id IS NOT NULL)
    ),
    lone AS (
        SELECT s.call_id, s.first_ts, s.last_ts, s.end_ts, s.src_ip FROM sip_call(since, until) s
        ANTI JOIN cdr_call c ON s.call_id = c.call_id
            AND c.start_ts <= s.last_ts + INTERVAL 1 MINUTE AND c.end_ts >= s.first_ts - INTERVAL 1 MINUTE
        WHERE since::TIMESTAMPTZ IS NULL OR s.first_ts >= since::TIMESTAMPTZ
    ),
    cut AS (
        SELECT DISTINCT l.call_id FROM lone l JOIN cdr_call c ON left(l.call_id, 16) = left(c.call_id, 16)
        WHERE length(c.call_id) >= 16 AND length(l.call_id) > length(c.call_id)
            AND starts_with(l.call_id, c.call_id)
            AND c.start_ts <= l.last_ts + INTERVAL 1 MINUTE AND c.end_ts >= l.first_ts - INTERVAL 1 MINUTE
    )
    SELECT l.call_id,
        CASE
            WHEN l.call_id IN (SELECT call_id FROM cdr_call WHERE call_id IS NOT NULL)
                THEN 'reused Call-ID out of time'
            WHEN l.call_id IN (SELECT call_id FROM cut) THEN 'cut Call-ID'
            WHEN l.src_ip IN (SELECT dst_ip FROM switch) THEN 'B leg only'
            WHEN cdrs.last_ts IS NULL OR coalesce(l.end_ts, l.last_ts) > cdrs.last_ts THEN 'no CDR yet'
            WHEN l.last_ts < cdrs.first_ts THEN 'outside retention'
            ELSE 'Call-ID unknown to the CDRs'
        END AS reason
    FROM lone l, cdrs;
DROP MACRO TABLE sip_unjoined;
CREATE MACRO sip_unjoined(since, until) AS TABLE
    SELECT w.reason, s.* FROM sip_call(since, until) s JOIN call_without_cdr(since, until) w USING (call_id);
