"""A database of an older version: migrated with all that is in it."""

import os
import shutil

import psycopg
import pytest
from conftest import PROJECT, table
from oracle import lines_of, report
from replays import OTHER, OTHER_RULES, append, generations, messy, states


def as_version_4(db):
    """Put the database back to the schema of version 4, with all that is in it."""
    kept = {}
    for name in ("hourly_counts", "checkpoints", "ledger", "dead_letters", "log_files"):
        cursor = db.execute(f"SELECT * FROM {name}")
        columns = [column.name for column in cursor.description]
        kept[name] = [dict(zip(columns, row, strict=True)) for row in cursor]
    cursor = db.execute("SELECT * FROM generations")
    columns = [column.name for column in cursor.description]
    (rules,) = [dict(zip(columns, row, strict=True)) for row in cursor]
    db.execute("DROP SCHEMA public CASCADE")
    db.execute("CREATE SCHEMA public")
    db.execute(
        "CREATE TABLE schema_migrations (version integer PRIMARY KEY, name text NOT NULL, "
        "applied_at timestamptz NOT NULL DEFAULT now())"
    )
    for file in sorted((PROJECT / "schema").glob("000[1-4]_*.sql")):
        db.execute(file.read_text().encode())
        version, _, name = file.stem.partition("_")
        db.execute("INSERT INTO schema_migrations VALUES (%s, %s)", (int(version), name))
    names = ("contract_version", "attribution_window_us", "allowed_lateness_us", "timezone")
    insert(db, "rules", {name: rules[name] for name in (*names, "max_line_bytes", "commits")})
    for name, rows in kept.items():
        for row in rows:
            insert(db, name, {key: value for key, value in row.items() if key != "generation"})


def insert(db, name, row):
    """Insert a row."""
    places = ", ".join(f"%({column})s" for column in row)
    overriding = "OVERRIDING SYSTEM VALUE" if name == "checkpoints" else ""
    db.execute(f"INSERT INTO {name} ({', '.join(row)}) {overriding} VALUES ({places})", row)


def test_a_database_of_version_4_becomes_the_first_generation(command, db, tmp_path):
    """Runs go on with it, replays replace it, and who was allowed to read the report still is."""
    lines = messy()
    log = append(tmp_path / "app.log", lines[:1_200])
    command("run", "--once", log, "--batch-lines", 100)
    before, letters = table(db), db.execute("SELECT count(*) FROM dead_letters").fetchone()
    as_version_4(db)
    shutil.rmtree(tmp_path / "checkpoints")
    assert table(db) == before
    role = f"reader_{os.getpid()}"
    db.execute(f"CREATE ROLE {role}")
    try:
        db.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
        db.execute(f"GRANT SELECT ON hourly_report TO {role}")
        assert command("migrate").stdout.splitlines()[0] == "applied 0005_generations"
        db.execute(f"SET ROLE {role}")
        assert table(db) == before
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute("SELECT * FROM hourly_counts")
        db.execute("RESET ROLE")
        assert states(command) == {1: "live"}
        assert generations(command)[1]["lines"] == 1_200
        assert db.execute("SELECT count(*) FROM dead_letters").fetchone() == letters
        command("verify", log)
        append(log, lines[1_200:])
        command("run", "--once", log)
        assert table(db) == report(lines_of(log))
        assert command.ledger()["lines"] == len(lines)
        command("replay", log, *OTHER)
        db.execute(f"SET ROLE {role}")
        assert table(db) == report(lines_of(log), **OTHER_RULES)
        db.execute("RESET ROLE")
        assert states(command) == {1: "kept", 2: "live"}
        assert "replay" in command("run", "--once", log, exit_code=2).stderr
    finally:
        db.execute(f"DROP OWNED BY {role}")
        db.execute(f"DROP ROLE {role}")


def test_an_empty_database_of_version_4_has_no_generation(command, db, tmp_path):
    """The first run makes it."""
    log = append(tmp_path / "app.log", messy(events=100))
    command("run", "--once", log)
    as_version_4(db)
    db.execute("TRUNCATE rules, hourly_counts, checkpoints, dead_letters CASCADE")
    command("run", "--once", log)
    assert states(command) == {1: "live"}
    assert table(db) == report(lines_of(log))
