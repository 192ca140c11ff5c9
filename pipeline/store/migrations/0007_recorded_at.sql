-- When a row was committed, by the writer's clock, one time for each commit and strictly rising: what came since a
-- look at the tables is told by it. (DuckLake's row ids do not tell: a merge that sorts deals them out anew.)
ALTER TABLE sip ADD COLUMN recorded_at TIMESTAMPTZ;
ALTER TABLE rtcp ADD COLUMN recorded_at TIMESTAMPTZ;
ALTER TABLE cdr ADD COLUMN recorded_at TIMESTAMPTZ;
ALTER TABLE cdr_leg ADD COLUMN recorded_at TIMESTAMPTZ;
