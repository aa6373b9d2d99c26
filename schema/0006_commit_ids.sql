-- A database that was put back to an earlier state, or that a failover lost commits of, may have come
-- to as many commits again by another way. So each commit leaves an id of its own.

ALTER TABLE generations ADD COLUMN commit_id uuid NOT NULL DEFAULT gen_random_uuid();
COMMENT ON COLUMN generations.commit_id IS
    'Names the last transaction on the generation: whoever goes on from another one has other offsets in mind.';
