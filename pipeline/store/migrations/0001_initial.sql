-- The store's first shape. Times are UTC with microseconds. One column per line: schema.py reads this file.
-- Tables that hold messages are cut by day of arrival, never by the sender's own time: a sender with a
-- broken clock must not be able to scatter files over a thousand days. `recorded_at` is the writer's clock.

CREATE TABLE schema_version (
    version INTEGER,
    name VARCHAR,
    node VARCHAR,
    applied_at TIMESTAMPTZ
);

-- One SIP message as one hop saw it.
CREATE TABLE sip (
    ts TIMESTAMPTZ,
    received_at TIMESTAMPTZ,
    node VARCHAR,
    agent_id BIGINT,
    agent_addr VARCHAR,
    hep_version INTEGER,
    transport VARCHAR,
    src_ip VARCHAR,
    src_port INTEGER,
    dst_ip VARCHAR,
    dst_port INTEGER,
    direction VARCHAR,
    call_id VARCHAR,
    correlation_id VARCHAR,
    method VARCHAR,
    status INTEGER,
    reason VARCHAR,
    cseq BIGINT,
    from_user VARCHAR,
    from_host VARCHAR,
    from_display VARCHAR,
    from_tag VARCHAR,
    to_user VARCHAR,
    to_host VARCHAR,
    to_tag VARCHAR,
    ruri_user VARCHAR,
    ruri_host VARCHAR,
    via_branch VARCHAR,
    contact VARCHAR,
    expires BIGINT,
    user_agent VARCHAR,
    reason_header VARCHAR,
    x_cid VARCHAR,
    sdp_ip VARCHAR,
    sdp_port INTEGER,
    sdp_codecs VARCHAR,
    payload BLOB,
    payload_bytes INTEGER,
    msg_id BIGINT,
    batch_id VARCHAR
);
ALTER TABLE sip SET SORTED BY (call_id, ts);
ALTER TABLE sip SET PARTITIONED BY (year(received_at), month(received_at), day(received_at));

-- One report on media as HEP carries it; `packet_type` is HEP's protocol type (5 is RTCP as JSON).
CREATE TABLE rtcp (
    ts TIMESTAMPTZ,
    received_at TIMESTAMPTZ,
    node VARCHAR,
    agent_id BIGINT,
    agent_addr VARCHAR,
    src_ip VARCHAR,
    src_port INTEGER,
    dst_ip VARCHAR,
    dst_port INTEGER,
    correlation_id VARCHAR,
    packet_type INTEGER,
    ssrc BIGINT,
    source_ssrc BIGINT,
    fraction_lost INTEGER,
    packets_lost BIGINT,
    highest_seq_no BIGINT,
    jitter BIGINT,
    lsr BIGINT,
    dlsr BIGINT,
    sender_packets BIGINT,
    sender_octets BIGINT,
    payload BLOB,
    payload_bytes INTEGER,
    msg_id BIGINT,
    batch_id VARCHAR
);
ALTER TABLE rtcp SET SORTED BY (correlation_id, ts);
ALTER TABLE rtcp SET PARTITIONED BY (year(received_at), month(received_at), day(received_at));

-- A log line that an agent sent (HEP type 100).
CREATE TABLE log (
    ts TIMESTAMPTZ,
    received_at TIMESTAMPTZ,
    node VARCHAR,
    agent_id BIGINT,
    agent_addr VARCHAR,
    src_ip VARCHAR,
    src_port INTEGER,
    dst_ip VARCHAR,
    dst_port INTEGER,
    correlation_id VARCHAR,
    packet_type INTEGER,
    payload BLOB,
    payload_bytes INTEGER,
    msg_id BIGINT,
    batch_id VARCHAR
);
ALTER TABLE log SET SORTED BY (correlation_id, ts);
ALTER TABLE log SET PARTITIONED BY (year(received_at), month(received_at), day(received_at));

-- What could not be decoded, or only in part; `head` holds the first 256 bytes.
CREATE TABLE weird (
    ts TIMESTAMPTZ,
    received_at TIMESTAMPTZ,
    node VARCHAR,
    agent_addr VARCHAR,
    kind VARCHAR,
    detail VARCHAR,
    head BLOB,
    bytes INTEGER
);
ALTER TABLE weird SET PARTITIONED BY (year(received_at), month(received_at), day(received_at));

-- What is known of each capture agent; every change is a row, the view `agent` shows the latest.
CREATE TABLE agent_state (
    node VARCHAR,
    agent VARCHAR,
    agent_id BIGINT,
    agent_addr VARCHAR,
    name VARCHAR,
    hep_versions VARCHAR,
    trusted BOOLEAN,
    first_seen TIMESTAMPTZ,
    last_seen TIMESTAMPTZ,
    skew_ms DOUBLE,
    received BIGINT,
    stored BIGINT,
    rejected BIGINT,
    updated_at TIMESTAMPTZ,
    recorded_at TIMESTAMPTZ
);
CREATE VIEW agent AS
    SELECT * EXCLUDE (recorded_at) FROM agent_state
    QUALIFY row_number() OVER (PARTITION BY node, agent ORDER BY recorded_at DESC) = 1;

-- What is known of each call; every change is a row, the view `call` shows the latest.
CREATE TABLE call_state (
    call_id VARCHAR,
    node VARCHAR,
    first_ts TIMESTAMPTZ,
    last_ts TIMESTAMPTZ,
    from_user VARCHAR,
    from_host VARCHAR,
    from_display VARCHAR,
    to_user VARCHAR,
    to_host VARCHAR,
    ruri_user VARCHAR,
    outcome VARCHAR,
    invite_ts TIMESTAMPTZ,
    first_18x_ts TIMESTAMPTZ,
    answer_ts TIMESTAMPTZ,
    end_ts TIMESTAMPTZ,
    final_status INTEGER,
    final_reason VARCHAR,
    srd_ms DOUBLE,
    pdd_ms DOUBLE,
    ring_ms DOUBLE,
    talk_ms DOUBLE,
    legs INTEGER,
    messages INTEGER,
    user_agent VARCHAR,
    codec VARCHAR,
    src_ip VARCHAR,
    dst_ip VARCHAR,
    updated_at TIMESTAMPTZ,
    recorded_at TIMESTAMPTZ
);
ALTER TABLE call_state SET SORTED BY (call_id, first_ts);
ALTER TABLE call_state SET PARTITIONED BY (year(recorded_at), month(recorded_at), day(recorded_at));
CREATE VIEW call AS
    SELECT * EXCLUDE (recorded_at) FROM call_state
    QUALIFY row_number() OVER (PARTITION BY node, call_id ORDER BY recorded_at DESC) = 1;

-- Changes of bindings: event is registered, refreshed, removed or expired.
CREATE TABLE registration (
    ts TIMESTAMPTZ,
    node VARCHAR,
    aor VARCHAR,
    device VARCHAR,
    instance VARCHAR,
    contact VARCHAR,
    src_ip VARCHAR,
    src_port INTEGER,
    transport VARCHAR,
    user_agent VARCHAR,
    expires BIGINT,
    event VARCHAR,
    status INTEGER,
    call_id VARCHAR
);
ALTER TABLE registration SET SORTED BY (aor, ts);

-- Call detail records of a switch; `extra` keeps every column that has no place of its own.
CREATE TABLE cdr (
    ts TIMESTAMPTZ,
    node VARCHAR,
    source VARCHAR,
    source_row VARCHAR,
    uniqueid VARCHAR,
    linkedid VARCHAR,
    sequence BIGINT,
    call_id VARCHAR,
    src VARCHAR,
    dst VARCHAR,
    clid VARCHAR,
    dcontext VARCHAR,
    channel VARCHAR,
    dst_channel VARCHAR,
    answer_ts TIMESTAMPTZ,
    end_ts TIMESTAMPTZ,
    duration_ms BIGINT,
    billsec_ms BIGINT,
    disposition VARCHAR,
    accountcode VARCHAR,
    extra JSON,
    imported_at TIMESTAMPTZ
);

-- Voice quality of one direction of one leg; NULL means not known, never zero.
CREATE TABLE leg_quality (
    ts TIMESTAMPTZ,
    node VARCHAR,
    call_id VARCHAR,
    leg VARCHAR,
    direction VARCHAR,
    source VARCHAR,
    codec VARCHAR,
    packets BIGINT,
    packets_lost BIGINT,
    loss_percent DOUBLE,
    jitter_ms DOUBLE,
    rtt_ms DOUBLE,
    r_factor DOUBLE,
    mos_cq DOUBLE,
    mos_lq DOUBLE,
    mos_grounded BOOLEAN,
    detail JSON
);

CREATE TABLE finding (
    finding_id VARCHAR,
    node VARCHAR,
    kind VARCHAR,
    identifier VARCHAR,
    ts TIMESTAMPTZ,
    severity VARCHAR,
    call_id VARCHAR,
    aor VARCHAR,
    target VARCHAR,
    outcome VARCHAR,
    late_ms DOUBLE,
    trusted BOOLEAN,
    evidence JSON,
    msg_ids BIGINT[]
);

-- One attempt of one action; sip_statuses is [{"status": 180, "at_us": 1700000000000000}, ...].
CREATE TABLE action_attempt (
    attempt_id VARCHAR,
    node VARCHAR,
    finding_id VARCHAR,
    action VARCHAR,
    rule VARCHAR,
    call_id VARCHAR,
    device VARCHAR,
    target VARCHAR,
    dry_run BOOLEAN,
    started_at TIMESTAMPTZ,
    ended_at TIMESTAMPTZ,
    outcome VARCHAR,
    detail VARCHAR,
    sip_statuses JSON,
    register_to_invite_ms DOUBLE
);

-- Counts by minute; several rows of one minute add up. `shed` is {"reason": count}.
CREATE TABLE ingest_minute (
    minute TIMESTAMPTZ,
    node VARCHAR,
    received BIGINT,
    stored BIGINT,
    rejected BIGINT,
    shed JSON
);
