-- Streams that keep their own place in what they read, as Spark does: which micro-batch of theirs was
-- committed last.

CREATE TABLE streams (
    generation            bigint  NOT NULL REFERENCES generations ON DELETE CASCADE,
    checkpoint            text    NOT NULL,
    batch                 bigint  NOT NULL,
    event_time            timestamptz,
    event_time_before     timestamptz,
    PRIMARY KEY (generation, checkpoint)
);
COMMENT ON TABLE streams IS
    'Which micro-batch of a stream was committed last. Moves by compare-and-swap, together with what the batch counts.';
COMMENT ON COLUMN streams.checkpoint IS
    'Where the stream keeps its own state; its batches are numbered there.';
COMMENT ON COLUMN streams.batch IS
    'The number of the micro-batch that was committed last, -1 before the first.';
COMMENT ON COLUMN streams.event_time IS
    'How far event time had come with that batch.';
COMMENT ON COLUMN streams.event_time_before IS
    'How far it had come with the batch before, which is what Spark held the lines of this one against.';
