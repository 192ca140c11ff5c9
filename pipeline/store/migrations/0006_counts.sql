-- Counts that outlive what they count. See pipeline/store/rollups.py.

-- SIP messages by minute of their own time; several rows of one minute add up. A minute gets rows for as long as
-- messages of it come in.
CREATE TABLE sip_minute (
    minute TIMESTAMPTZ,
    node VARCHAR,
    method VARCHAR,  -- of replies that of the request
    status_class INTEGER,  -- 1 to 6; NULL: requests
    messages BIGINT,
    bytes BIGINT,  -- of payloads
    counted_to TIMESTAMPTZ,  -- what was committed by then is counted, here or in earlier rows
    recorded_at TIMESTAMPTZ
);

-- Voice quality by hour in which legs began; an hour is written whole, again when a leg of it changed, and the newest
-- rows of an hour count.
CREATE TABLE quality_hour_state (
    hour TIMESTAMPTZ,
    node VARCHAR,
    trunk VARCHAR,  -- endpoint of the switch, or address of the phone
    codec VARCHAR,
    directions BIGINT,  -- of legs; NULL: nothing is known of this hour any more
    rated BIGINT,
    grounded BIGINT,
    r_mean DOUBLE,
    r_p5 DOUBLE,
    r_p50 DOUBLE,
    r_p95 DOUBLE,
    loss_pct_p50 DOUBLE,
    loss_pct_p95 DOUBLE,
    jitter_ms_p50 DOUBLE,
    jitter_ms_p95 DOUBLE,
    rtt_ms_p50 DOUBLE,
    rtt_ms_p95 DOUBLE,
    counted_to TIMESTAMPTZ,  -- what was committed by then is counted
    recorded_at TIMESTAMPTZ
);
CREATE VIEW quality_hour AS
    SELECT * EXCLUDE (counted_to, recorded_at) FROM quality_hour_state
    WHERE directions IS NOT NULL
        AND (hour, recorded_at) IN (SELECT (hour, max(recorded_at)) FROM quality_hour_state GROUP BY hour);
