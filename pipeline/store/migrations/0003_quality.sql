-- Voice quality, and the join of calls, CDRs and reports. Nobody wrote `leg_quality` before.
--
-- What is known of one call of the CDRs, or of one leg of the RTCP reports, is a `unit`. A unit is always written
-- whole, again whenever a fact comes late, and its newest `revision` (microseconds) counts; a unit that is no more
-- gets one last row that says nothing (`leg` or `call_id` NULL). See pipeline/quality/refresh.py.

DROP TABLE leg_quality;

-- Quality of one direction of one leg, as the switch sees it: incoming is from the phone to it.
CREATE TABLE leg_quality_state (
    call_id VARCHAR,  -- of the call: that of its leg A
    leg VARCHAR,  -- a: came in; b: was dialled by the switch
    direction VARCHAR,  -- incoming: measured by the switch; outgoing: as the phone reports it
    packets BIGINT,
    lost BIGINT,  -- signed: duplicates make it negative
    loss_pct DOUBLE,
    jitter_ms DOUBLE,
    jitter_max_ms DOUBLE,
    rtt_ms DOUBLE,  -- between the switch and the phone
    rtt_max_ms DOUBLE,
    codec VARCHAR,
    clock_rate INTEGER,  -- Hz, of the RTP timestamps
    r_factor DOUBLE,
    mos_cq DOUBLE,
    mos_lq DOUBLE,
    mos_method VARCHAR,
    grounded BOOLEAN,  -- the codec's impairment is published
    source VARCHAR,  -- cdr, leg table, hep rtcp
    flags VARCHAR,  -- words with spaces between: pipeline.protocols.leg.FLAGS
    leg_call_id VARCHAR,  -- SIP Call-ID of this leg, where known
    leg_name VARCHAR,  -- what the source calls the leg: a correlation id, or a channel
    endpoint VARCHAR,  -- of the switch: PJSIP/trunk
    peer_ip VARCHAR,  -- where the phone's reports come from
    ssrc BIGINT,  -- of the switch
    remote_ssrc BIGINT,  -- of the phone
    reports INTEGER,  -- RTCP reports that this is made of
    joined_by VARCHAR,  -- how the source found its call: call-id, call-id-127, channel, sdp, cdr
    ts TIMESTAMPTZ,
    end_ts TIMESTAMPTZ,
    node VARCHAR,
    raw JSON,  -- as it came, not mended
    unit VARCHAR,
    revision BIGINT,
    recorded_at TIMESTAMPTZ
);
ALTER TABLE leg_quality_state SET SORTED BY (call_id, ts);
ALTER TABLE leg_quality_state SET PARTITIONED BY (year(recorded_at), month(recorded_at), day(recorded_at));

-- One call of the CDRs, made of its one to three rows.
CREATE TABLE cdr_call_state (
    call_id VARCHAR,  -- SIP Call-ID of leg A; NULL: no row of this call has one
    call_id_b VARCHAR,  -- of the leg that answered, else of the last that was tried
    source VARCHAR,  -- name of the [[cdr]] entry
    linkedid VARCHAR,
    start_ts TIMESTAMPTZ,
    answer_ts TIMESTAMPTZ,
    end_ts TIMESTAMPTZ,
    duration_ms BIGINT,  -- from the first row's start to the last one's end: not the sum of the rows
    billsec_ms BIGINT,  -- from the answer to the end of the call
    disposition VARCHAR,
    src VARCHAR,
    dst VARCHAR,
    clid VARCHAR,
    channel VARCHAR,
    dst_channel VARCHAR,
    trunk VARCHAR,  -- endpoint of dst_channel
    accountcode VARCHAR,
    cdr_rows INTEGER,
    media_rows INTEGER,  -- of these, with anything about media
    node VARCHAR,
    unit VARCHAR,
    revision BIGINT,
    recorded_at TIMESTAMPTZ
);
ALTER TABLE cdr_call_state SET SORTED BY (call_id, start_ts);
ALTER TABLE cdr_call_state SET PARTITIONED BY (year(recorded_at), month(recorded_at), day(recorded_at));

-- Which leg of which call a Call-ID or a channel is.
CREATE TABLE call_leg_state (
    name VARCHAR,  -- Call-ID or channel
    kind VARCHAR,  -- call-id, channel
    call_id VARCHAR,
    leg VARCHAR,
    leg_call_id VARCHAR,
    endpoint VARCHAR,  -- of the switch: PJSIP/trunk
    tied_by VARCHAR,  -- cdr, leg table, x-cid, ssrc
    ts TIMESTAMPTZ,
    end_ts TIMESTAMPTZ,
    node VARCHAR,
    unit VARCHAR,
    revision BIGINT,
    recorded_at TIMESTAMPTZ
);
ALTER TABLE call_leg_state SET SORTED BY (name, ts);
ALTER TABLE call_leg_state SET PARTITIONED BY (year(recorded_at), month(recorded_at), day(recorded_at));

-- How far the facts have been taken in, as {"cdr": commit of its last row, ...}; the newest of a node counts.
CREATE TABLE quality_mark_state (
    node VARCHAR,
    position JSON,
    updated_at TIMESTAMPTZ,
    recorded_at TIMESTAMPTZ
);

-- A semi-join and not a window: it lets a filter on call_id through to the files, and keeps no wide rows.
CREATE VIEW leg_quality AS
    SELECT * EXCLUDE (revision, recorded_at) FROM leg_quality_state
    WHERE leg IS NOT NULL
        AND (unit, revision) IN (SELECT (unit, max(revision)) FROM leg_quality_state GROUP BY unit);

CREATE VIEW cdr_call AS
    SELECT * EXCLUDE (revision, recorded_at) FROM cdr_call_state
    WHERE cdr_rows IS NOT NULL
        AND (unit, revision) IN (SELECT (unit, max(revision)) FROM cdr_call_state GROUP BY unit);

CREATE VIEW call_leg AS
    SELECT * EXCLUDE (revision, recorded_at) FROM call_leg_state
    WHERE leg IS NOT NULL
        AND (unit, revision) IN (SELECT (unit, max(revision)) FROM call_leg_state GROUP BY unit);

-- Of several sources about one direction of one leg: who knows the loss (without it nothing can be rated) before who
-- does not; who was not disturbed (truncated_b, clamped, seq_restart, opus_clock) before who was; the table of legs
-- before the CDR before the reports; then who counted more packets. A leg of a CDR that has no Call-ID of its own
-- is taken for the only one that has. One Call-ID used again after a pause of a minute is another leg.
--
-- leg_quality_best(since, until, call) takes the legs that began in [since, until) and those of one call only, each
-- NULL for all, without a look at the others: sources of one leg do not differ by an hour. Most legs have one
-- source, so the sorting is done for the others only.
CREATE MACRO leg_quality_best(since, until, call) AS TABLE
    WITH told AS NOT MATERIALIZED (
        SELECT *, coalesce(call_id, unit) AS of_call FROM leg_quality
        WHERE (since::TIMESTAMPTZ IS NULL OR ts >= since::TIMESTAMPTZ - INTERVAL 1 HOUR)
            AND (until::TIMESTAMPTZ IS NULL OR ts < until::TIMESTAMPTZ + INTERVAL 1 HOUR)
            AND (call::VARCHAR IS NULL OR call_id = call::VARCHAR)
    ),
    several AS NOT MATERIALIZED (
        SELECT of_call, leg, direction FROM told GROUP BY ALL HAVING count(*) > 1
    ),
    in_time AS NOT MATERIALIZED (
        SELECT *, coalesce(ts > max(end_ts) OVER before + INTERVAL 1 MINUTE, false)::INTEGER AS pause
        FROM told SEMI JOIN several USING (of_call, leg, direction)
        WINDOW before AS (PARTITION BY of_call, leg, direction ORDER BY ts
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ),
    uses AS NOT MATERIALIZED (
        SELECT *, sum(pause) OVER (PARTITION BY of_call, leg, direction ORDER BY ts) AS pauses FROM in_time
    ),
    named AS NOT MATERIALIZED (
        SELECT *, coalesce(leg_call_id, CASE WHEN min(leg_call_id) OVER same = max(leg_call_id) OVER same
            THEN min(leg_call_id) OVER same END, unit) AS one_leg
        FROM uses WINDOW same AS (PARTITION BY of_call, leg, direction, pauses)
    ),
    best AS NOT MATERIALIZED (
        SELECT * EXCLUDE (of_call) FROM told ANTI JOIN several USING (of_call, leg, direction)
        UNION ALL BY NAME
        SELECT * EXCLUDE (of_call, pause, pauses, one_leg) FROM named
        QUALIFY row_number() OVER (PARTITION BY of_call, leg, direction, pauses, one_leg
            ORDER BY loss_pct IS NULL, regexp_matches(flags, 'truncated_b|clamped|seq_restart|opus_clock'),
                CASE source WHEN 'leg table' THEN 0 WHEN 'cdr' THEN 1 ELSE 2 END,
                packets DESC NULLS LAST, unit) = 1
    )
    FROM best
    WHERE (since::TIMESTAMPTZ IS NULL OR ts >= since::TIMESTAMPTZ)
        AND (until::TIMESTAMPTZ IS NULL OR ts < until::TIMESTAMPTZ);

CREATE VIEW leg_quality_best AS FROM leg_quality_best(NULL, NULL, NULL);

-- One row a call, whether SIP or CDRs or both know of it. A call of the CDRs is the call of the same Call-ID that
-- was on at that time. Calls that are leg B of another are no rows of their own.
CREATE VIEW call_join AS
    WITH leg_b AS (SELECT DISTINCT name FROM call_leg WHERE kind = 'call-id' AND leg = 'b' AND name <> call_id),
    sip_call AS (
        SELECT * FROM call
        WHERE call_id NOT IN (SELECT name FROM leg_b)
        QUALIFY row_number() OVER (PARTITION BY call_id ORDER BY messages DESC NULLS LAST, node) = 1
    ),
    one_cdr AS (  -- several sources may hold the same call
        SELECT * FROM cdr_call
        QUALIFY row_number() OVER (PARTITION BY coalesce(linkedid, unit), src, dst
            ORDER BY call_id IS NULL, media_rows DESC, cdr_rows DESC, unit) = 1
    )
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
    FROM sip_call s FULL JOIN one_cdr c ON s.call_id = c.call_id
        AND c.start_ts <= s.last_ts + INTERVAL 1 MINUTE AND c.end_ts >= s.first_ts - INTERVAL 1 MINUTE;

-- The same with what was heard: the worst and the mean of all directions of all legs.
CREATE VIEW call_quality AS
    WITH heard AS (  -- each leg with the call that had begun when it did
        SELECT q.legs_of, q.ts,
            count(*) AS directions,
            min(l.r_factor) AS worst_r_factor,
            avg(l.r_factor) AS mean_r_factor,
            arg_min(l.leg || ' ' || l.direction, l.badness) AS worst_leg,
            arg_min(coalesce(l.mos_cq, l.mos_lq), l.badness) AS worst_mos,
            arg_min(l.mos_method, l.badness) AS worst_mos_method,
            bool_and(l.grounded) AS grounded,
            max(l.loss_pct) AS worst_loss_pct,
            max(l.jitter_ms) AS worst_jitter_ms,
            max(l.rtt_ms) AS worst_rtt_ms,
            nullif(array_to_string(list_sort(list_distinct(flatten(list(string_split(l.flags, ' '))))), ' '), '')
                AS flags,
            array_to_string(list_sort(list_distinct(list(l.source))), ', ') AS quality_sources
        FROM (
            SELECT *, coalesce(call_id, unit) AS legs_of, ts + INTERVAL 1 MINUTE AS by,
                CASE WHEN r_factor IS NOT NULL THEN (r_factor, leg, direction) END AS badness
            FROM leg_quality_best
        ) l
        ASOF JOIN call_join q ON l.legs_of = q.legs_of AND l.by >= q.ts
        GROUP BY q.legs_of, q.ts
    )
    SELECT q.* EXCLUDE (legs_of), h.* EXCLUDE (legs_of, ts)
    FROM call_join q LEFT JOIN heard h ON q.legs_of = h.legs_of AND q.ts = h.ts;

-- Calls of the CDRs that no call on the mirror is, each with the first reason that holds.
CREATE VIEW cdr_unjoined AS
    WITH seen AS (SELECT call_id, min(first_ts) AS first_ts, max(last_ts) AS last_ts FROM call GROUP BY call_id),
    tap AS (
        SELECT min(first_ts) AS held_since, least(min(first_ts), (SELECT min(first_seen) FROM agent_state),
            (SELECT min(minute) FROM ingest_minute)) AS began
        FROM seen
    ),
    lone AS (
        SELECT c.* FROM cdr_call c LEFT JOIN seen s ON c.call_id = s.call_id
            AND c.start_ts <= s.last_ts + INTERVAL 1 MINUTE AND c.end_ts >= s.first_ts - INTERVAL 1 MINUTE
        WHERE s.call_id IS NULL
    ),
    cut AS (
        SELECT DISTINCT l.unit FROM lone l JOIN seen s ON left(l.call_id, 16) = left(s.call_id, 16)
        WHERE length(l.call_id) >= 16 AND length(s.call_id) > length(l.call_id)
            AND starts_with(s.call_id, l.call_id)
            AND l.start_ts <= s.last_ts + INTERVAL 1 MINUTE AND l.end_ts >= s.first_ts - INTERVAL 1 MINUTE
    )
    SELECT CASE
            WHEN l.call_id IS NULL AND l.call_id_b IS NULL THEN 'no Call-ID in the CDR'
            WHEN l.call_id IN (SELECT call_id FROM seen) THEN 'reused Call-ID out of time'
            WHEN l.call_id_b IN (SELECT call_id FROM seen) THEN 'B leg only'
            WHEN l.unit IN (SELECT unit FROM cut) THEN 'cut Call-ID'
            WHEN tap.began IS NULL OR l.start_ts < tap.began - INTERVAL 1 SECOND THEN 'mirror started later'
            WHEN l.start_ts < tap.held_since - INTERVAL 1 SECOND THEN 'outside retention'
            ELSE 'Call-ID unknown to the tap'
        END AS reason, l.*
    FROM lone l, tap;

-- Calls on the mirror that no CDR tells of, each with the first reason that holds.
CREATE VIEW sip_unjoined AS
    WITH cdrs AS (SELECT min(start_ts) AS first_ts, max(end_ts) AS last_ts FROM cdr_call),
    switch AS (
        SELECT DISTINCT s.dst_ip FROM call s JOIN cdr_call c ON s.call_id = c.call_id WHERE s.dst_ip IS NOT NULL
    ),
    lone AS (
        SELECT s.* FROM call_join q JOIN call s ON q.call_id = s.call_id
        WHERE q.in_sip AND NOT q.in_cdr
        QUALIFY row_number() OVER (PARTITION BY s.call_id ORDER BY s.messages DESC NULLS LAST, s.node) = 1
    ),
    cut AS (
        SELECT DISTINCT l.call_id FROM lone l JOIN cdr_call c ON left(l.call_id, 16) = left(c.call_id, 16)
        WHERE length(c.call_id) >= 16 AND length(l.call_id) > length(c.call_id)
            AND starts_with(l.call_id, c.call_id)
            AND c.start_ts <= l.last_ts + INTERVAL 1 MINUTE AND c.end_ts >= l.first_ts - INTERVAL 1 MINUTE
    )
    SELECT CASE
            WHEN l.call_id IN (SELECT call_id FROM cdr_call) THEN 'reused Call-ID out of time'
            WHEN l.call_id IN (SELECT call_id FROM cut) THEN 'cut Call-ID'
            WHEN l.src_ip IN (SELECT dst_ip FROM switch) THEN 'B leg only'
            WHEN cdrs.last_ts IS NULL OR coalesce(l.end_ts, l.last_ts) > cdrs.last_ts THEN 'no CDR yet'
            WHEN l.last_ts < cdrs.first_ts THEN 'outside retention'
            ELSE 'Call-ID unknown to the CDRs'
        END AS reason, l.*
    FROM lone l, cdrs;
