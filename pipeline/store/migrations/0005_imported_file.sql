-- One capture or recording that was imported, whole: it is committed together with its messages. These carry the
-- first 16 digits of `sha256` at the start of their `batch_id`.

CREATE TABLE imported_file (
    recorded_at TIMESTAMPTZ,
    node VARCHAR,
    name VARCHAR,
    sha256 VARCHAR,  -- of the content, unpacked
    bytes BIGINT,  -- likewise
    packets BIGINT,
    messages BIGINT,  -- stored in `sip`, `rtcp` and `log`
    first_ts TIMESTAMPTZ,
    last_ts TIMESTAMPTZ,
    ignored JSON,  -- packets by what they were instead, {"rtp": 4711}
    weird JSON  -- what is in `weird` of it, by kind
);
