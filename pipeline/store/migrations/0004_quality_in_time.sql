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

-- leg_quality_chosen(since, until, call): the row numbers that leg_quality_best chooses, as 0003 describes; some lie up
-- to an hour outside. Most directions are told of once, and most of the others once by each source, at the same time,
-- of the same Call-ID: these need no windows. `same` is a hash of what is compared; should two be alike by chance,
-- they are told apart as the intricate ones are, by the values.
CREATE MACRO leg_quality_chosen(since, until, call) AS TABLE
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
    FROM best;

DROP MACRO TABLE leg_quality_best;
CREATE MACRO leg_quality_best(since, until, call) AS TABLE
    SELECT * EXCLUDE (revision, recorded_at) FROM leg_quality_state
    WHERE rowid IN (FROM leg_quality_chosen(since, until, call))
        AND (since::TIMESTAMPTZ IS NULL OR ts >= since::TIMESTAMPTZ)
        AND (until::TIMESTAMPTZ IS NULL OR ts < until::TIMESTAMPTZ)
        AND (call::VARCHAR IS NULL OR call_id = call::VARCHAR);

DROP VIEW cdr_call;
CREATE VIEW cdr_call AS
    SELECT l.* EXCLUDE (revision, recorded_at)
    FROM cdr_call_state l
    ANTI JOIN (
        SELECT unit, max(revision) AS newest FROM cdr_call_state
        GROUP BY unit HAVING min(revision) < max(revision)
    ) again ON l.unit = again.unit AND l.revision < again.newest
    WHERE l.cdr_rows IS NOT NULL;

DROP VIEW call_leg;
CREATE VIEW call_leg AS
    SELECT l.* EXCLUDE (revision, recorded_at)
    FROM call_leg_state l
    ANTI JOIN (
        SELECT unit, max(revision) AS newest FROM call_leg_state
        GROUP BY unit HAVING min(revision) < max(revision)
    ) again ON l.unit = again.unit AND l.revision < again.newest
    WHERE l.leg IS NOT NULL;

-- sip_call(since, until): the latest row of each call on the mirror that was on at some time of [since, until), as the
-- node that saw the most of it has it; calls that are leg B of another left out. The time is asked of every row of a
-- call: the latest has the widest span, so it passes whenever an earlier one does.
CREATE MACRO sip_call(since, until) AS TABLE
    WITH newest AS NOT MATERIALIZED (
        SELECT * EXCLUDE (recorded_at) FROM call_state
        WHERE (since::TIMESTAMPTZ IS NULL OR last_ts >= since::TIMESTAMPTZ)
            AND (until::TIMESTAMPTZ IS NULL OR first_ts < until::TIMESTAMPTZ)
        QUALIFY row_number() OVER (PARTITION BY node, call_id ORDER BY recorded_at DESC) = 1
    )
    FROM newest
    WHERE call_id NOT IN (SELECT name FROM call_leg WHERE kind = 'call-id' AND leg = 'b' AND name <> call_id)
    QUALIFY row_number() OVER (PARTITION BY call_id ORDER BY messages DESC NULLS LAST, node) = 1;

-- call_join(since, until): the join that 0003 describes, of calls that began in [since, until). What is joined began
-- within an hour of each other.
DROP VIEW call_join;
CREATE MACRO call_join(since, until) AS TABLE
    WITH one_cdr AS NOT MATERIALIZED (  -- several sources may hold the same call
        SELECT * FROM cdr_call
        WHERE (since::TIMESTAMPTZ IS NULL OR start_ts >= since::TIMESTAMPTZ - INTERVAL 1 HOUR)
            AND (until::TIMESTAMPTZ IS NULL OR start_ts < until::TIMESTAMPTZ + INTERVAL 1 HOUR)
        QUALIFY row_number() OVER (PARTITION BY coalesce(linkedid, unit), src, dst
            ORDER BY call_id IS NULL, media_rows DESC, cdr_rows DESC, unit) = 1
    ),
    joined AS NOT MATERIALIZED (
        SELECT coalesce(s.call_id, c.call_id) AS call_id,
            c.call_id_b,
            coalesce(least(s.first_ts, c.start_ts), s.first_ts, c.start_ts) AS ts,
            coalesce(s.from_user, c.src) AS from_user,
            coalesce(s.to_user, c.dst) AS to_user,
            s.call_id IS NOT NULL AS in_sip,
            c.unit IS NOT NULL AS in_cdr,
            s.outcome, s.invite_ts, s.answer_ts, s.end_ts, s.final_status, s.final_reason,
            s.srd_ms, s.pdd_ms, s.ring_ms, s.talk_ms, s.user_agent, s.codec, s.src_ip, s.dst_ip,
            c.source AS cdr_source, c.linkedid, c.start_ts AS cdr_start_ts, c.answer_ts AS cdr_answer_ts,
            c.end_ts AS cdr_end_ts, c.duration_ms, c.billsec_ms, c.disposition, c.src, c.dst, c.clid,
            c.channel, c.dst_channel, c.trunk, c.accountcode, c.cdr_rows,
            coalesce(s.node, c.node) AS node,
            coalesce(s.call_id, c.call_id, c.unit) AS legs_of
        FROM sip_call(since::TIMESTAMPTZ - INTERVAL 1 HOUR, until::TIMESTAMPTZ + INTERVAL 1 HOUR) s
        FULL JOIN one_cdr c ON s.call_id = c.call_id
            AND c.start_ts <= s.last_ts + INTERVAL 1 MINUTE AND c.end_ts >= s.first_ts - INTERVAL 1 MINUTE
    )
    FROM joined
    WHERE (since::TIMESTAMPTZ IS NULL OR ts >= since::TIMESTAMPTZ)
        AND (until::TIMESTAMPTZ IS NULL OR ts < until::TIMESTAMPTZ);

CREATE VIEW call_join AS FROM call_join(NULL, NULL);

-- sip_unjoined(since, until): calls on the mirror that began in [since, until) and that no CDR tells of, each with the
-- first reason that holds.
DROP VIEW sip_unjoined;
CREATE MACRO sip_unjoined(since, until) AS TABLE
    WITH cdrs AS (SELECT min(start_ts) AS first_ts, max(end_ts) AS last_ts FROM cdr_call),
    switch AS (
        SELECT DISTINCT dst_ip FROM call_state
        WHERE dst_ip IS NOT NULL AND call_id IN (SELECT call_id FROM cdr_call WHERE call_id IS NOT NULL)
    ),
    lone AS (
        SELECT s.* FROM sip_call(since, until) s
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
    SELECT CASE
            WHEN l.call_id IN (SELECT call_id FROM cdr_call WHERE call_id IS NOT NULL)
                THEN 'reused Call-ID out of time'
            WHEN l.call_id IN (SELECT call_id FROM cut) THEN 'cut Call-ID'
            WHEN l.src_ip IN (SELECT dst_ip FROM switch) THEN 'B leg only'
            WHEN cdrs.last_ts IS NULL OR coalesce(l.end_ts, l.last_ts) > cdrs.last_ts THEN 'no CDR yet'
            WHEN l.last_ts < cdrs.first_ts THEN 'outside retention'
            ELSE 'Call-ID unknown to the CDRs'
        END AS reason, l.*
    FROM lone l, cdrs;

CREATE VIEW sip_unjoined AS FROM sip_unjoined(NULL, NULL);
