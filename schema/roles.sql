-- Two roles with the least rights that their work needs, to be granted to the users that do it:
--
--     processor migrate                                  -- as the owner of the tables
--     psql "$PROCESSOR_DATABASE_URL" -f schema/roles.sql -- as the owner, who may create roles
--     CREATE ROLE reader LOGIN PASSWORD '…' IN ROLE processor_reader;
--     CREATE ROLE writer LOGIN PASSWORD '…' IN ROLE processor_writer;
--
-- processor_reader: report, status, dead-letters, verify. It can write nothing.
-- processor_writer: run, spark run, doctor. It can neither delete what was counted nor change a table; what
-- does, is the owner's: migrate, replay, spark replay, generations drop and switch, prune.
--
-- No migration: roles belong to the server, not to a database. To be run again after a migration.

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['processor_reader', 'processor_writer'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION WHEN duplicate_object THEN
            NULL;
        END;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role_name);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role_name);
    END LOOP;
END
$$;

GRANT SELECT ON
    schema_migrations, generations, hourly_counts, hourly_report, checkpoints, ledger, dead_letters,
    log_files, hour_offsets, streams
TO processor_reader, processor_writer;

GRANT INSERT, UPDATE ON
    generations, hourly_counts, checkpoints, ledger, log_files, streams
TO processor_writer;
GRANT INSERT ON dead_letters, hour_offsets TO processor_writer;
GRANT DELETE ON log_files TO processor_writer; -- those that rotation removed
