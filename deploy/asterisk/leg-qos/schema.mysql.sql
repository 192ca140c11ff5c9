-- One row a leg. hepduck reads it by ended_at, with an account that may only SELECT.
CREATE TABLE leg_qos (
    ended_at DATETIME NOT NULL COMMENT 'UTC, by the clock of Asterisk',
    uniqueid VARCHAR(150) NOT NULL,
    linkedid VARCHAR(150),
    channel VARCHAR(128),
    leg CHAR(1) COMMENT 'a: came in, b: was dialled',
    call_id VARCHAR(512) COMMENT 'SIP Call-ID of this leg',
    call_id_a VARCHAR(512) COMMENT 'SIP Call-ID of the leg that dialled it',
    codec VARCHAR(40),
    rtp_dest VARCHAR(64),
    hangup_cause VARCHAR(8),
    rtcp_all VARCHAR(255),
    rtcp_all_jitter VARCHAR(255),
    rtcp_all_loss VARCHAR(255),
    rtcp_all_rtt VARCHAR(255),
    rtcp_all_mes VARCHAR(255),
    KEY leg_qos_ended_at (ended_at)
);
-- CREATE USER hepduck@'192.0.2.10' IDENTIFIED BY '...';
-- GRANT SELECT ON asterisk.leg_qos TO hepduck@'192.0.2.10';
