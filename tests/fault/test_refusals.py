"""What the database refuses, and who works beside the writer: an end in words, or no harm."""

import re
import subprocess

import psycopg
import pytest
from conftest import wait_until
from servers import Server, servers_folder
from test_process import Writer, has_committed, settle

from processor.edges.embedded import binaries

AT_COMMIT = """

CREATE SEQUENCE refusals;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    IF nextval('refusals') <= {times} THEN
        RAISE EXCEPTION 'refused by a test' USING ERRCODE = '{state}';
    END IF;
    RETURN NULL;
END$$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON ledger
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"""
"""Refuses so many COMMITs, and none of the statements before."""


@pytest.fixture
def db(command):
    """A connection to the database of the command."""
    url = command.environment["PROCESSOR_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def test_a_commit_that_is_refused_for_now_is_tried_again(command, db, make_log):
    """Fault 35: at COMMIT itself, three times; nothing counts twice."""
    log = make_log(events=2_000, hours=2, malformed=0.01)
    command("migrate")
    db.execute(AT_COMMIT.format(times=3, state="40001"))
    done = command("run", "--once", log, "--batch-lines", 500)
    assert done.stderr.count("trying again") == 3
    settle(command, log)


def test_a_commit_that_is_refused_for_good_ends_the_run_in_words(command, db, make_log):
    """Fault 35: nothing is written, and once it is mended, the run goes on."""
    log = make_log(events=2_000, hours=2)
    command("migrate")
    db.execute(AT_COMMIT.format(times=1_000, state="23514"))
    assert "refused by a test" in command("run", "--once", log, exit_code=1).stderr
    assert command.report() == {}
    assert command.ledger()["byte_offset"] == 0
    db.execute("DROP TRIGGER refuse ON ledger")
    settle(command, log)


@pytest.mark.parametrize(
    ("harm", "mending", "words"),
    [
        ("REVOKE UPDATE ON checkpoints FROM writer", "GRANT ALL ON checkpoints TO writer", "right"),
        ("ALTER TABLE ledger RENAME TO gone", "ALTER TABLE gone RENAME TO ledger", "ledger"),
    ],
)
def test_rights_and_tables_that_are_taken_away_end_it_in_words(
    command, db, tmp_path, harm, mending, words
):
    """Fault 39: the daemon that runs, and one that starts; mended, the next one goes on."""
    log = tmp_path / "app.log"
    writer = Writer(log, 39, events=5_000, hours=2)
    writer.write(0.3)
    command("migrate")
    db.execute("CREATE ROLE writer")
    db.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO writer")
    as_writer = command.environment["PROCESSOR_DATABASE_URL"] + " options='-c role=writer'"
    environment = {**command.environment, "PROCESSOR_DATABASE_URL": as_writer}
    daemon = command.start("run", log, "--batch-seconds", 0.05, env=environment)
    wait_until(lambda: has_committed(command, daemon.pid), what="the first commit")
    db.execute(harm)
    writer.write(0.6)
    err = daemon.communicate(timeout=30)[1]
    assert daemon.returncode == 1
    assert words in err
    assert words in command("run", "--once", log, exit_code=1, env=environment).stderr
    db.execute(mending)
    writer.write(1)
    command("run", "--once", log, env=environment)
    settle(command, log)
    db.execute("DROP OWNED BY writer")
    db.execute("DROP ROLE writer")  # roles are the server's, and another test makes it again


def test_a_schema_of_a_newer_version_is_left_alone(command, db, make_log):
    """Fault 39: an older binary ends in words."""
    log = make_log(events=100)
    command("migrate")
    db.execute("INSERT INTO schema_migrations (version, name) VALUES (9999, 'of_the_future')")
    assert "newer" in command("run", "--once", log, exit_code=1).stderr
    assert db.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)


def test_of_two_migrations_at_once_one_wins(command, db):
    """Fault 39: each step is applied once, and both end well."""
    started = [command.start("migrate") for _ in range(3)]
    printed = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    applied = re.findall(r"applied (\d+)_", "".join(printed))
    rows = db.execute("SELECT version FROM schema_migrations ORDER BY version").fetchall()
    assert sorted(map(int, applied)) == [version for (version,) in rows]


def test_a_standby_is_not_written_to(command, make_log):
    """Fault 39: words that help; promoted, it is."""
    log = make_log(events=1_000)
    with servers_folder() as folder:
        primary = Server(folder).start()
        replica = primary.replica(5433)
        try:
            url = command.environment["PROCESSOR_DATABASE_URL"] = primary.url()
            command("migrate")
            command.environment["PROCESSOR_DATABASE_URL"] = replica.url()
            wait_until(lambda: replica.sql("SELECT to_regclass('generations')") != [(None,)])
            assert "read-only" in command("run", "--once", log, exit_code=1).stderr
            replica.promote()
            settle(command, log)
            command.environment["PROCESSOR_DATABASE_URL"] = url
            assert command.report() == {}
        finally:
            replica.close()
            primary.close()


def test_readers_dumps_and_vacuum_beside_the_writer_do_no_harm(command, db, tmp_path):
    """Fault 40: the writer goes on, and who reads sees one state, however long."""
    log = tmp_path / "app.log"
    writer = Writer(log, 40, events=20_000, hours=6)
    writer.write(0.1)
    daemon = command.start("run", log, "--batch-lines", 200, "--batch-seconds", 0.02)
    wait_until(lambda: has_committed(command, daemon.pid), what="the first commit")
    url = command.environment["PROCESSOR_DATABASE_URL"]
    counted = "SELECT coalesce(sum(page_loads + clicks), 0) FROM hourly_report"
    applied = "SELECT coalesce(sum(lines), 0) FROM ledger WHERE outcome = 'applied'"
    with psycopg.connect(url) as long_reader:
        long_reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        before = long_reader.execute(counted).fetchone()
        assert before == long_reader.execute(applied).fetchone()
        for share in range(2, 10):
            writer.write(share / 10)
            db.execute("VACUUM")
            subprocess.run([binaries() / "pg_dump", url], check=True, stdout=subprocess.DEVNULL)
            assert db.execute(f"SELECT ({counted}) = ({applied})").fetchone() == (True,)
        assert long_reader.execute(counted).fetchone() == before
    writer.write(1)
    daemon.terminate()
    err = daemon.communicate(timeout=10)[1]
    assert daemon.returncode == 0, err
    assert "trying again" not in err
    settle(command, log)
