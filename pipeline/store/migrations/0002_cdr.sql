-- Call detail records of a switch, with all that they say of media quality. Nobody wrote `cdr` before.
-- Names of Asterisk are kept where the value is Asterisk's, unchanged. Empty text, zero dates and columns that
-- were filled by a default are NULL: NULL means not known, never zero.

DROP TABLE cdr;

-- One row of a CDR table or file. A call has one to three of them; `linkedid` ties them.
CREATE TABLE cdr (
    ts TIMESTAMPTZ,  -- when the record starts; by the source's time zone, or from `uniqueid` where it has no start
    node VARCHAR,  -- which hepduck read it
    source VARCHAR,  -- name of the [[cdr]] entry
    source_row VARCHAR,  -- the row's key within its source: (source, source_row) is stored once
    uniqueid VARCHAR,  -- [systemname-]epoch.N of the channel: unique per channel, not per row
    linkedid VARCHAR,  -- uniqueid of the call's first channel
    sequence BIGINT,  -- per process, starts at 0 again
    call_id VARCHAR,  -- SIP Call-ID as the row's hangup handler A wrote it (sip_callid)
    call_id_b VARCHAR,  -- SIP Call-ID of leg B, where the table has a column for it
    src VARCHAR,
    dst VARCHAR,
    clid VARCHAR,
    dcontext VARCHAR,
    channel VARCHAR,
    dst_channel VARCHAR,
    last_app VARCHAR,
    last_data VARCHAR,
    answer_ts TIMESTAMPTZ,  -- NULL: not answered, or the source has no such column
    end_ts TIMESTAMPTZ,  -- NULL: the source has no such column
    duration_ms BIGINT,
    billsec_ms BIGINT,
    disposition VARCHAR,  -- in words: ANSWERED, NO ANSWER, BUSY, FAILED, CONGESTION, CANCEL
    amaflags VARCHAR,  -- in words: OMIT, BILLING, DOCUMENTATION
    accountcode VARCHAR,
    peeraccount VARCHAR,
    userfield VARCHAR,
    rtcp_a_all VARCHAR,  -- CHANNEL(rtcp,all...) of leg A as they came, not mended
    rtcp_a_all_jitter VARCHAR,
    rtcp_a_all_loss VARCHAR,
    rtcp_a_all_rtt VARCHAR,
    rtcp_a_all_mes VARCHAR,
    rtcp_a_txjitter DOUBLE,  -- seconds; names as Asterisk swaps them
    rtcp_a_rxjitter DOUBLE,  -- seconds
    rtcp_a_txploss BIGINT,  -- packets
    rtcp_a_rxploss BIGINT,  -- packets
    rtcp_a_rtt DOUBLE,  -- seconds
    rtcp_b_all VARCHAR,  -- the same of leg B
    rtcp_b_all_jitter VARCHAR,
    rtcp_b_all_loss VARCHAR,
    rtcp_b_all_rtt VARCHAR,
    rtcp_b_all_mes VARCHAR,
    rtcp_b_txjitter DOUBLE,
    rtcp_b_rxjitter DOUBLE,
    rtcp_b_txploss BIGINT,
    rtcp_b_rxploss BIGINT,
    rtcp_b_rtt DOUBLE,
    defects VARCHAR,  -- what is wrong with the row, words with spaces between: cut, zone, no_start
    extra JSON,  -- every other column of the source that holds anything, by its name there
    imported_at TIMESTAMPTZ
);

-- One leg of a call, from the table `leg_qos` of deploy/asterisk: written once when its channel hangs up.
CREATE TABLE cdr_leg (
    ts TIMESTAMPTZ,  -- when the leg's channel began, to the second: from `uniqueid`
    node VARCHAR,
    source VARCHAR,
    source_row VARCHAR,  -- as in `cdr`; here the channel's uniqueid, so that a leg is stored once
    uniqueid VARCHAR,
    linkedid VARCHAR,  -- ties the legs of a call, and joins cdr.linkedid
    channel VARCHAR,
    leg VARCHAR,  -- a: came in; b: was dialled by Asterisk
    call_id VARCHAR,  -- SIP Call-ID of this leg
    call_id_a VARCHAR,  -- SIP Call-ID of the leg that dialled this one; of leg a its own
    end_ts TIMESTAMPTZ,  -- when the channel hung up
    codec VARCHAR,  -- CHANNEL(audioreadformat): ulaw, alaw, g722, opus ...
    rtp_dest VARCHAR,  -- CHANNEL(rtp,dest): the other side's address:port of RTP
    hangup_cause INTEGER,  -- Q.850
    rtcp_all VARCHAR,  -- CHANNEL(rtcp,all...) as they came, not mended
    rtcp_all_jitter VARCHAR,
    rtcp_all_loss VARCHAR,
    rtcp_all_rtt VARCHAR,
    rtcp_all_mes VARCHAR,
    defects VARCHAR,
    extra JSON,
    imported_at TIMESTAMPTZ
);

-- How each source is doing and how far it was read; every change is a row, the view shows the latest.
CREATE TABLE cdr_source_state (
    updated_at TIMESTAMPTZ,
    node VARCHAR,
    source VARCHAR,
    state VARCHAR,  -- ok, or failing (with the reason in `error`)
    error VARCHAR,  -- what failed last, in one line; NULL while all is well
    warning VARCHAR,  -- what works, but looks wrong: a time zone, lines that were refused
    position JSON,  -- of a table {"start": ...}, of a file {"inode", "offset", "head", "head_bytes"}
    imported BIGINT,  -- rows stored, since the source was first read
    refused BIGINT,  -- lines or rows that could not be read, since the source was first read
    recorded_at TIMESTAMPTZ
);
CREATE VIEW cdr_source AS
    SELECT * EXCLUDE (recorded_at) FROM cdr_source_state
    QUALIFY row_number() OVER (PARTITION BY node, source ORDER BY recorded_at DESC, updated_at DESC) = 1;
