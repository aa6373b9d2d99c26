-- For psql, after schema/roles.sql: a user that writes the report, and one that reads it. Their
-- passwords are those of the environment, WRITER_PASSWORD and READER_PASSWORD.

\getenv writer_password WRITER_PASSWORD
\getenv reader_password READER_PASSWORD

SELECT format('CREATE ROLE %I', name)
FROM (VALUES ('writer'), ('reader')) AS users (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

ALTER ROLE writer LOGIN PASSWORD :'writer_password';
ALTER ROLE reader LOGIN PASSWORD :'reader_password';
GRANT processor_writer TO writer;
GRANT processor_reader TO reader;
