-- Counts, checkpoints and all that hangs on them belong to a generation. One is live; a replay makes
-- another beside it. Each generation is made by one set of rules.

CREATE TABLE generations (
    generation            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state                 text        NOT NULL CHECK (state IN ('live', 'kept', 'replay')),
    contract_version      integer     NOT NULL CHECK (contract_version > 0),
    attribution_window_us bigint      NOT NULL CHECK (attribution_window_us >= 0),
    allowed_lateness_us   bigint      NOT NULL CHECK (allowed_lateness_us >= 0),
    timezone              text        NOT NULL,
    max_line_bytes        bigint      NOT NULL,
    commits               bigint      NOT NULL DEFAULT 0,
    first_hour            timestamptz,
    end_hour              timestamptz,
    copied_from           bigint,
    accepts_loss          boolean     NOT NULL DEFAULT false,
    made_by               text,
    counts_from           timestamptz,
    begun_at              timestamptz NOT NULL DEFAULT now(),
    live_from             timestamptz,
    live_until            timestamptz
);
CREATE UNIQUE INDEX generations_state ON generations (state) WHERE state <> 'kept';
COMMENT ON TABLE generations IS
    'Reports beside each other: the live one, those it replaced, and the one that a replay makes.';
COMMENT ON COLUMN generations.timezone IS
    'The zone of times that carry no offset of their own.';
COMMENT ON COLUMN generations.commits IS
    'Grows with each transaction on the generation, so that a processor notices that it is not the only one.';
COMMENT ON COLUMN generations.first_hour IS
    'With end_hour: the hours that were made anew; the others are those of the generation it replaced.';
COMMENT ON COLUMN generations.copied_from IS
    'The generation that the other hours are a copy of, until this one has taken its place.';
COMMENT ON COLUMN generations.accepts_loss IS
    'Whether it was begun without what was in no file any more.';
COMMENT ON COLUMN generations.made_by IS
    'The replay that makes it, or made it: host, process id, and a token of that run.';
COMMENT ON COLUMN generations.counts_from IS
    'Hours before this one were pruned: they are not counted any more.';

INSERT INTO generations
    (state, contract_version, attribution_window_us, allowed_lateness_us, timezone, max_line_bytes,
     commits, live_from)
SELECT 'live', contract_version, attribution_window_us, allowed_lateness_us, timezone,
    max_line_bytes, commits, now()
FROM rules;
DROP TABLE rules;

-- What is there belongs to the first generation. A constant default writes no row anew.
ALTER TABLE hourly_counts ADD COLUMN generation bigint NOT NULL DEFAULT 1;
ALTER TABLE hourly_counts ALTER COLUMN generation DROP DEFAULT;
ALTER TABLE hourly_counts DROP CONSTRAINT hourly_counts_pkey;
ALTER TABLE hourly_counts ADD PRIMARY KEY (generation, customer_id, hour);
DROP INDEX hourly_counts_hour;
CREATE INDEX hourly_counts_hour ON hourly_counts (generation, hour, customer_id);

-- Replaced in place, so that rights granted on it stay.
CREATE OR REPLACE VIEW hourly_report AS
SELECT
    customer_id,
    hour,
    page_loads,
    clicks,
    unique_user_clicks,
    related_clicks,
    clicked_page_loads,
    round(clicked_page_loads::numeric / nullif(page_loads, 0), 6) AS click_through_rate
FROM hourly_counts
WHERE generation = (SELECT generation FROM generations WHERE state = 'live');
COMMENT ON VIEW hourly_report IS
    'The live report. click_through_rate lies between 0 and 1, and is null without page loads.';

ALTER TABLE checkpoints ADD COLUMN generation bigint NOT NULL DEFAULT 1
    REFERENCES generations ON DELETE CASCADE;
ALTER TABLE checkpoints ALTER COLUMN generation DROP DEFAULT;
ALTER TABLE checkpoints DROP CONSTRAINT checkpoints_path_key;
ALTER TABLE checkpoints ADD UNIQUE (generation, path);

CREATE TABLE hour_offsets (
    log_id                bigint      NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    hour                  timestamptz NOT NULL,
    byte_offset           bigint      NOT NULL,
    watermark             timestamptz NOT NULL,
    ahead_offsets         bigint[]    NOT NULL,
    PRIMARY KEY (log_id, hour)
);
COMMENT ON TABLE hour_offsets IS
    'From where a log can be read again for an hour, so that a replay of some hours need not read it all.';
COMMENT ON COLUMN hour_offsets.watermark IS
    'No line before byte_offset fired after this, save those at ahead_offsets.';
