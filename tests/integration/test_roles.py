"""The roles in `schema/roles.sql`: enough rights for their work, and no others."""

import os

import psycopg
import pytest
from conftest import PROJECT
from oracle import lines_of, report
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from replays import TABLES, states

ROLES = (PROJECT / "schema/roles.sql").read_text()
ALL_TABLES = ("schema_migrations", *TABLES, "streams")


@pytest.fixture
def users(command, connect):
    """Users of a report, each with one of the roles, or none: {role: connection string}."""
    command("migrate")
    url = command.environment["PROCESSOR_DATABASE_URL"]
    urls = {}
    with connect() as connection:
        connection.execute("REVOKE ALL ON SCHEMA public FROM public")
        connection.execute(ROLES)
        connection.execute(ROLES)  # again: nothing is wrong with that
        for role in ("reader", "writer", "nobody"):
            name = f"{role}_{os.getpid()}"
            connection.execute(f"CREATE ROLE {name} LOGIN")
            if role != "nobody":
                connection.execute(f"GRANT processor_{role} TO {name}")
            urls[role] = make_conninfo(**{**conninfo_to_dict(url), "user": name})
    yield urls
    with connect() as connection:
        connection.execute("DROP OWNED BY processor_reader, processor_writer")
        for url in urls.values():
            connection.execute(f"DROP ROLE {conninfo_to_dict(url)['user']}")


def test_a_writer_folds_and_a_reader_reads(command, users, make_log):
    """A log that is rotated, with lines of all kinds; then all commands that only read."""
    whole = make_log("whole.jsonl", events=4_000, hours=20, malformed=0.02, late=0.02)
    lines = whole.read_text().splitlines(keepends=True)
    log, files = whole.with_name("app.log"), "SELECT count(*) FROM log_files"
    command.environment["PROCESSOR_DATABASE_URL"] = users["writer"]
    for start in range(0, 4_000, 1_000):
        if log.exists():
            log.rename(log.with_name("app.log.1"))
        log.write_text("".join(lines[start : start + 1_000]))
        command("run", "--once", log, "--batch-lines", 300)
    command.environment["PROCESSOR_DATABASE_URL"] = users["reader"]
    with psycopg.connect(users["reader"]) as connection:
        assert connection.execute(files).fetchone()[0] < 4  # the writer has forgotten some
    assert command.report() == report(lines_of(whole))
    assert command.ledger()["lines"] == 4_000
    command("dead-letters", "--each", "--show")
    command("generations")
    command("report")


def test_a_reader_verifies(command, users, make_log):
    """To count again, nothing need be written."""
    log = make_log(events=500, hours=2)
    command.environment["PROCESSOR_DATABASE_URL"] = users["writer"]
    command("run", "--once", log)
    command.environment["PROCESSOR_DATABASE_URL"] = users["reader"]
    for engine in ("fold", "duckdb"):
        command("verify", log, "--engine", engine)


@pytest.mark.parametrize("role", ["reader", "writer"])
def test_nobody_but_the_owner_deletes_what_was_counted(users, role):
    """Nor empties, changes or drops a table, nor makes one."""
    with psycopg.connect(users[role], autocommit=True) as connection:
        for table in ALL_TABLES:
            statements = [
                "CREATE TABLE mine ()",
                f"TRUNCATE {table}",
                f"DROP TABLE {table} CASCADE",
                f"ALTER TABLE {table} ADD COLUMN mine integer",
                *([f"DELETE FROM {table}"] if (role, table) != ("writer", "log_files") else []),
                *([f"INSERT INTO {table} DEFAULT VALUES"] if role == "reader" else []),
            ]
            for statement in statements:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)


def test_a_reader_that_tries_to_write_is_told(command, users, make_log):
    """Nothing is written, and the message says what is missing; without a role, nothing is read."""
    command.environment["PROCESSOR_DATABASE_URL"] = users["reader"]
    refused = command("run", "--once", make_log(events=10), exit_code=1).stderr
    assert "rights are missing: INSERT, UPDATE on checkpoints" in refused
    assert "processor_writer" in refused
    command.environment["PROCESSOR_DATABASE_URL"] = users["nobody"]
    assert "none that this user may see" in command("report", exit_code=1).stderr


def test_a_writer_that_replays_is_told_before_anything_is_read(command, users, make_log):
    """All of it, or some hours."""
    log = make_log(events=100)
    command.environment["PROCESSOR_DATABASE_URL"] = users["writer"]
    command("run", "--once", log)
    for options in ([], ["--from", "2022-01-01"]):
        refused = command("replay", log, *options, exit_code=1).stderr
        assert "as the owner of the tables" in refused
    assert states(command) == {1: "live"}
