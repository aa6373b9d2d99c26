"""`processor doctor`: what is wrong is found, and what to do about it is said."""

import json
import os
from datetime import timedelta

import psycopg
import pytest
from conftest import PROJECT
from psycopg.conninfo import conninfo_to_dict, make_conninfo

PATCHED = """
from datetime import timedelta
from processor.shell import cli
from processor.shell.operate import doctor
now = doctor.now
{}
cli.main()
"""


def patched(words):
    """Return how to start a processor on which something of this machine is otherwise."""
    return {"program": ("-c", PATCHED.format(words))}


def examined(command, *arguments, exit_code, **options):
    """Return {check: detail} of what is well, and of what is not."""
    done = command("doctor", *arguments, "--format", "json", exit_code=exit_code, **options)
    rows = json.loads(done.stdout)
    assert {row["state"] for row in rows} <= {"ok", "FAILED"}
    by_state = [
        {row["check"]: row["detail"] for row in rows if row["state"] == state}
        for state in ("ok", "FAILED")
    ]
    assert bool(by_state[1]) == (exit_code == 1)
    return by_state


def failing(command, *arguments, **options):
    """Return {check: detail} of what is not well."""
    return examined(command, *arguments, exit_code=1, **options)[1]


@pytest.fixture
def log(command, make_log):
    """A log that is folded."""
    log = make_log(events=100)
    command("run", "--once", log)
    return log


def test_all_is_well(command, log):
    """Where a run worked, each check is fine; before the first run too."""
    well, _ = examined(command, log, exit_code=0)
    assert list(well) == [
        "settings", "log", "checkpoints", "room on disk",
        "database", "version", "clock", "schema", "rights", "rules",
    ]  # fmt: skip
    assert f"{log.stat().st_size} bytes in 1 files" in well["log"]
    with psycopg.connect(command.environment["PROCESSOR_DATABASE_URL"]) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    well, _ = examined(command, log, "new.log", "--checkpoints", "none/yet", exit_code=0)
    assert well["schema"] == "not there yet; a run makes it"
    assert "a run waits for it" in well["log"]
    assert "none/yet: not there yet; a run makes it" in well["checkpoints"]
    assert not (command.folder / "none").exists()
    assert "FAILED" not in command("doctor", log).stdout


def test_the_embedded_database_is_examined_and_not_made(embedded_command, make_log):
    """Nothing is left behind that was not there."""
    log = make_log(events=100)
    well, _ = examined(embedded_command, log, exit_code=0)
    assert "embedded, not there yet" in well["database"]
    assert not (embedded_command.folder / "checkpoints").exists()
    embedded_command("run", "--once", log)
    well, _ = examined(embedded_command, log, exit_code=0)
    assert "PostgreSQL 18" in well["database"]
    assert well["rules"] == "those of the report"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--timezone", "Nowhere"], "--timezone: no such time zone"),
        (["--batch-lines", "0"], "--batch-lines:"),
        (["--listen", "9464"], "--listen: '9464' is no address"),
        (["--ready-lag", "soon"], "--ready-lag: 'soon' is no duration"),
    ],
)
def test_settings_that_are_wrong(command, log, arguments, words):
    """Each is named as its option, and the other checks are made all the same."""
    found = failing(command, log, *arguments)
    assert list(found) == ["settings"]
    assert words in found["settings"]


def test_a_log_that_cannot_be_read(command, log):
    """It is no file, or this user may not."""
    (command.folder / "folder.log").mkdir()
    assert "is not a plain file" in failing(command, "folder.log")["log"]
    if os.geteuid() != 0:
        log.chmod(0)
        assert "denied" in failing(command, log)["log"]


def test_a_folder_that_cannot_be_written_to(command, log):
    """There is no room in it, or no way to make it."""
    words = failing(command, log, "--checkpoints", log / "checkpoints")["checkpoints"]
    assert "cannot be made" in words
    assert "--checkpoints" in words
    found = failing(command, log, **patched("doctor.NEEDED_BYTES = 1 << 60"))
    assert list(found) == ["room on disk"]
    assert "Make room" in found["room on disk"]


def test_a_database_that_does_not_answer(command, log):
    """Its password is not shown, whatever the URL is."""
    command.environment["PROCESSOR_DATABASE_URL"] = "postgresql://u:secret@127.0.0.1:9/x"
    found = failing(command, log)
    assert list(found) == ["database"]
    assert "the database is away" in found["database"]
    assert "secret" not in found["database"]
    command.environment["PROCESSOR_DATABASE_URL"] = "postgresql://u:sec@ret@127.0.0.1:9/x"
    assert "the database URL is not valid" in failing(command, log)["database"]


def test_a_server_that_is_too_old_or_goes_wrong(command, log):
    """Its version and its clock."""
    found = failing(command, log, **patched("doctor.OLDEST_VERSION = 990000"))
    assert list(found) == ["version"]
    assert "is too old. Use 99" in found["version"]
    found = failing(command, log, **patched("doctor.now = lambda: now() + timedelta(hours=1)"))
    assert list(found) == ["clock"]
    seconds = timedelta(hours=1).total_seconds()
    assert f"differ by {seconds:.0f} s" in found["clock"]
    assert "NTP" in found["clock"]


def test_a_schema_of_another_version(command, log):
    """Older: to be migrated; newer: the processor is to be replaced."""
    with psycopg.connect(
        command.environment["PROCESSOR_DATABASE_URL"], autocommit=True
    ) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (9999, 'later')")
        assert "Run the newer processor" in failing(command, log)["schema"]
        connection.execute("DELETE FROM schema_migrations WHERE version > 4")
        assert "Run `processor migrate`" in failing(command, log)["schema"]


def test_rights_that_are_missing(command, log):
    """Each is named, with the role that has it; who may not make tables is told who may."""
    url = command.environment["PROCESSOR_DATABASE_URL"]
    name = f"doctor_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((PROJECT / "schema/roles.sql").read_text())
        connection.execute(f"CREATE ROLE {name} LOGIN IN ROLE processor_reader")
        try:
            command.environment["PROCESSOR_DATABASE_URL"] = make_conninfo(
                **{**conninfo_to_dict(url), "user": name}
            )
            found = failing(command, log)
            assert list(found) == ["rights"]
            assert "INSERT, UPDATE on generations" in found["rights"]
            assert "processor_writer" in found["rights"]
            connection.execute(f"GRANT processor_writer TO {name}")
            examined(command, log, exit_code=0)
            connection.execute(f"ALTER ROLE {name} SET default_transaction_read_only = on")
            assert "Use the primary" in failing(command, log)["writes"]
            connection.execute(f"ALTER ROLE {name} RESET ALL")
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            connection.execute(f"GRANT USAGE ON SCHEMA public TO {name}")
            assert "may not make them" in failing(command, log)["schema"]
        finally:
            connection.execute(f"DROP OWNED BY {name}, processor_reader, processor_writer")
            connection.execute(f"DROP ROLE {name}")


def test_a_report_by_other_rules(command, log):
    """What differs is named, and both ways out."""
    found = failing(command, log, "--allowed-lateness", "1h")
    assert list(found) == ["rules"]
    assert "allowed_lateness was 0:10:00, is 1:00:00" in found["rules"]
    assert "`processor replay`" in found["rules"]


def test_a_healthcheck_needs_a_run_that_listens(command):
    """Without one, or without an address, it fails, and says why."""
    assert "is missing" in command("healthcheck", exit_code=2).stderr
    asked = command("healthcheck", "--listen", "127.0.0.1:9", exit_code=1)
    assert "does not answer" in asked.stderr
