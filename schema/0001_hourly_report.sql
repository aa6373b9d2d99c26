-- The hourly report, the checkpoints that keep it exact, and the ledger that accounts for every line.
-- Holds no user id, event id, ip or e-mail: counts per customer and hour, offsets, and pointers.

CREATE TABLE rules (
    only_row              boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    contract_version      integer NOT NULL CHECK (contract_version > 0),
    attribution_window_us bigint  NOT NULL CHECK (attribution_window_us >= 0),
    allowed_lateness_us   bigint  NOT NULL CHECK (allowed_lateness_us >= 0),
    timezone              text    NOT NULL,
    commits               bigint  NOT NULL DEFAULT 0
);
COMMENT ON TABLE rules IS
    'What shapes the numbers. The report is made by one set of rules; replay changes them.';
COMMENT ON COLUMN rules.timezone IS
    'The zone of times that carry no offset of their own.';
COMMENT ON COLUMN rules.commits IS
    'Grows with each transaction on the report, so that a processor notices that it is not the only one.';

-- No check compares two columns: INSERT ... ON CONFLICT checks the increment before it is added, and
-- an increment may hold a clicked page load whose page load came with an earlier batch.
CREATE TABLE hourly_counts (
    customer_id           bigint      NOT NULL,
    hour                  timestamptz NOT NULL CHECK (extract(epoch FROM hour) % 3600 = 0),
    page_loads            bigint      NOT NULL CHECK (page_loads >= 0),
    clicks                bigint      NOT NULL CHECK (clicks >= 0),
    unique_user_clicks    bigint      NOT NULL CHECK (unique_user_clicks >= 0),
    related_clicks        bigint      NOT NULL CHECK (related_clicks >= 0),
    clicked_page_loads    bigint      NOT NULL CHECK (clicked_page_loads >= 0),
    PRIMARY KEY (customer_id, hour)
);
CREATE INDEX hourly_counts_hour ON hourly_counts (hour, customer_id);
COMMENT ON TABLE hourly_counts IS
    'The fold over all logs up to their checkpoints, for each customer and hour (UTC) of fired_at.';
COMMENT ON COLUMN hourly_counts.related_clicks IS
    'Clicks that fired within attribution_window after a page load of the same visit.';
COMMENT ON COLUMN hourly_counts.clicked_page_loads IS
    'Page loads that a click is related to, whichever hour the click fell in.';

CREATE VIEW hourly_report AS
SELECT
    customer_id,
    hour,
    page_loads,
    clicks,
    unique_user_clicks,
    related_clicks,
    clicked_page_loads,
    round(clicked_page_loads::numeric / nullif(page_loads, 0), 6) AS click_through_rate
FROM hourly_counts;
COMMENT ON VIEW hourly_report IS
    'The report. click_through_rate lies between 0 and 1, and is null without page loads.';

CREATE TABLE checkpoints (
    log_id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path                  text        NOT NULL UNIQUE,
    byte_offset           bigint      NOT NULL DEFAULT 0 CHECK (byte_offset >= 0),
    lines                 bigint      NOT NULL DEFAULT 0 CHECK (lines >= 0),
    watermark             timestamptz,
    rebuild_from          bigint      NOT NULL DEFAULT 0,
    rebuild_watermark     timestamptz,
    ahead_offsets         bigint[]    NOT NULL DEFAULT '{}',
    committed_at          timestamptz NOT NULL DEFAULT now(),
    committed_by          text        NOT NULL,
    CHECK (rebuild_from BETWEEN 0 AND byte_offset)
);
COMMENT ON TABLE checkpoints IS
    'How much of each log is folded in. Moves by compare-and-swap on byte_offset, together with what it accounts for.';
COMMENT ON COLUMN checkpoints.lines IS
    'Lines before byte_offset; the lines in the ledger of the log add up to it.';
COMMENT ON COLUMN checkpoints.watermark IS
    'How far event time has come in the log; null until enough of its lines agree.';
COMMENT ON COLUMN checkpoints.rebuild_from IS
    'No line before this offset contributes to the working state, save those at ahead_offsets.';
COMMENT ON COLUMN checkpoints.ahead_offsets IS
    'Lines that fired ahead of the watermark, so that event time has yet to come to them.';
COMMENT ON COLUMN checkpoints.committed_by IS
    'The processor that committed last: host, process id, and a token of that run.';

CREATE TABLE ledger (
    log_id                bigint NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    outcome               text   NOT NULL CHECK (outcome IN ('applied', 'duplicate', 'ignored', 'dead_letter')),
    name                  text   NOT NULL,
    lines                 bigint NOT NULL CHECK (lines >= 0),
    PRIMARY KEY (log_id, outcome, name)
);
COMMENT ON TABLE ledger IS
    'What became of the lines of a log. name is the event type of ignored lines and the reason of dead letters.';

CREATE TABLE dead_letters (
    log_id                bigint  NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    byte_offset           bigint  NOT NULL CHECK (byte_offset >= 0),
    byte_length           bigint  NOT NULL CHECK (byte_length >= 0),
    reason                text    NOT NULL,
    detail                text    NOT NULL,
    PRIMARY KEY (log_id, byte_offset)
);
COMMENT ON TABLE dead_letters IS
    'Lines that do not count, as pointers into their log: lines hold personal data, so none is copied.';
