-- The files that a log is spread over by rotation, so that each is known again.

CREATE TABLE log_files (
    log_id                bigint  NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    start_offset          bigint  NOT NULL,
    device                numeric NOT NULL,
    inode                 numeric NOT NULL,
    name                  text    NOT NULL,
    read_bytes            bigint  NOT NULL CHECK (read_bytes >= 0),
    head                  text    NOT NULL,
    tail                  text    NOT NULL,
    tail_bytes            integer NOT NULL CHECK (tail_bytes BETWEEN 0 AND read_bytes),
    PRIMARY KEY (log_id, start_offset)
);
COMMENT ON TABLE log_files IS
    'The files of a log, one after the other. Offsets of a log count from the first byte of its first file.';
COMMENT ON COLUMN log_files.start_offset IS
    'Where the file begins in the log; before zero if the log was read from the end of the file on.';
COMMENT ON COLUMN log_files.read_bytes IS
    'How much of the file is accounted for.';
COMMENT ON COLUMN log_files.head IS
    'Digest of the first bytes of the file, 4096 at most, as far as they are accounted for.';
COMMENT ON COLUMN log_files.tail IS
    'Digest of the last tail_bytes that are accounted for.';
