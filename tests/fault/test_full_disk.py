"""A disk without room for a second generation."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest
from oracle import lines_of, report

TABLES = ("dead_letters", "hourly_counts")


@pytest.fixture
def small_disk(command, tmp_path):
    """Put tables onto a disk of 4 MiB, and return its folder."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    for folder in disk.parents:
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)  # those of the tests: the server runs as nobody
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs", disk],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    url = command.environment["PROCESSOR_DATABASE_URL"]
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    command("migrate")
    try:
        with psycopg.connect(url, autocommit=True) as db:
            (pid,) = db.execute("SELECT pg_backend_pid()").fetchone()
            owner = Path(f"/proc/{pid}").stat().st_uid
            os.chown(disk, owner, owner)
            db.execute(f"CREATE TABLESPACE {name} LOCATION '{disk}'")
            for table in TABLES:
                db.execute(f"ALTER TABLE {table} SET TABLESPACE {name}")
        yield disk
    finally:
        with psycopg.connect(url, autocommit=True) as db:
            for table in TABLES:
                db.execute(f"ALTER TABLE {table} SET TABLESPACE pg_default")
            db.execute(f"DROP TABLESPACE IF EXISTS {name}")
        subprocess.run(["umount", disk], check=True)


def fill(path):
    """Write to a file until there is no more room."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def test_a_replay_without_room_says_so_and_goes_on_once_there_is(command, make_log, small_disk):
    """What is live is as it was."""
    log = make_log(events=60_000, hours=20, malformed=0.1)
    command("run", "--once", log)
    before = command.report()
    fill(small_disk / "others")
    full = command("replay", log, "--batch-lines", 1_000, exit_code=1)
    assert "Postgres has no room" in full.stderr
    assert "what is live is as it was. Make room" in full.stderr
    assert command.report() == before == report(lines_of(log))
    (small_disk / "others").unlink()
    again = command("replay", log, "--batch-lines", 1_000)
    assert "going on with generation 2" in again.stderr
    assert "no rows differ" in again.stdout
    assert command.report() == before
