-- One row a leg. hepduck reads it by ended_at, with an account that may only SELECT.
CREATE TABLE leg_qos (
    ended_at timestamp NOT NULL, -- UTC, by the clock of Asterisk
    uniqueid varchar(150) NOT NULL,
    linkedid varchar(150),
    channel varchar(128),
    leg char(1), -- a: came in, b: was dialled
    call_id varchar(512), -- SIP Call-ID of this leg
    call_id_a varchar(512), -- SIP Call-ID of the leg that dialled it
    codec varchar(40),
    rtp_dest varchar(64),
    hangup_cause varchar(8),
    rtcp_all varchar(255),
    rtcp_all_jitter varchar(255),
    rtcp_all_loss varchar(255),
    rtcp_all_rtt varchar(255),
    rtcp_all_mes varchar(255)
);
CREATE INDEX leg_qos_ended_at ON leg_qos (ended_at);
-- CREATE ROLE hepduck LOGIN PASSWORD '...';
-- GRANT SELECT ON leg_qos TO hepduck;
