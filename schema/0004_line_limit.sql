-- How long a line may be is a rule like the others: it shapes the numbers.

ALTER TABLE rules ADD COLUMN max_line_bytes bigint NOT NULL DEFAULT 1048576;
