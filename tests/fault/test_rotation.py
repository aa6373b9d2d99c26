"""Logs as they are in life: rotated, compressed, truncated, deleted, while read and while not.

The report and the ledger are those of one file that was never rotated.
"""

import gzip
import shutil
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from conftest import logged, wait_until
from oracle import lines_of, report

from processor.shell.generate import LogShape, generate

LOGROTATE = shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin:/bin")


class Writer:
    """Appends lines to a log, opened anew when told to, and keeps all that it wrote."""

    def __init__(self, path, seed=1, **shape):
        self.path = path
        self.all = path.with_name("all.jsonl")
        shape = {"events": 3_000, "hours": 6, "duplicates": 0.02, "malformed": 0.01, **shape}
        self._lines = list(generate(LogShape(seed=seed, late=0.01, **shape)))
        self._at = 0
        self.copy = self.all.open("a")
        self.handles = [self.copy]
        self.reopen()

    def reopen(self):
        """Write to what is at the path from now on."""
        self.log = self.path.open("a")
        self.handles.append(self.log)

    def write(self, lines):
        """Append so many lines."""
        text = "".join(f"{line}\n" for line in self._lines[self._at : self._at + lines])
        self._at += lines
        for file in (self.log, self.copy):
            file.write(text)
            file.flush()

    @property
    def has_more(self):
        """Whether all was written."""
        return self._at < len(self._lines)


@pytest.fixture
def writer(tmp_path):
    """Who writes `app.log`."""
    (tmp_path / "logs").mkdir()
    writer = Writer(tmp_path / "logs/app.log")
    yield writer
    for handle in writer.handles:
        handle.close()


def rename(writer):
    """Rename the files of a log, as logrotate does, older ones first."""
    folder = writer.path.parent
    for number in range(9, 0, -1):
        for end in ("", ".gz"):
            old = folder / f"app.log.{number}{end}"
            if old.exists():
                old.rename(folder / f"app.log.{number + 1}{end}")
    writer.path.rename(folder / "app.log.1")


def create(writer):
    """Rename and create."""
    rename(writer)
    writer.reopen()


def compress(path):
    """Compress a file as gzip does: another file, and then the first is gone."""
    packed = path.with_name(path.name + ".gz")
    with path.open("rb") as plain, gzip.open(packed, "wb") as out:
        shutil.copyfileobj(plain, out)
    path.unlink()


def copytruncate(writer):
    """Copy and truncate; nothing is written meanwhile."""
    folder = writer.path.parent
    for number in range(9, 0, -1):
        if (old := folder / f"app.log.{number}").exists():
            old.rename(folder / f"app.log.{number + 1}")
    shutil.copyfile(writer.path, folder / "app.log.1")
    with writer.path.open("r+b") as log:
        log.truncate(0)


def settle(command, writer, *, lag=0):
    """Let a last run read on, and compare with the oracle and the lines written."""
    command("run", "--once", writer.path)
    equal(command, writer, lag)


def equal(command, writer, lag=0):
    """Compare with the oracle, and with the lines that were written."""
    assert command.report() == report(lines_of(writer.all))
    ledger = command.ledger()
    assert ledger["lines"] == len(lines_of(writer.all))
    assert ledger["byte_offset"] == writer.all.stat().st_size
    assert ledger["lag_bytes"] == lag


def caught_up(command, writer, daemon):
    """Wait until all is accounted for."""
    with psycopg.connect(command.environment["PROCESSOR_DATABASE_URL"], autocommit=True) as db:

        def is_all_read():
            assert daemon.poll() is None, daemon.communicate()
            if db.execute("SELECT to_regclass('checkpoints')").fetchone() == (None,):
                return False
            row = db.execute("SELECT byte_offset FROM checkpoints").fetchone()
            return row == (writer.all.stat().st_size,)

        wait_until(is_all_read, what="the end of the log")


def stop(daemon):
    """End it, and return what it said."""
    daemon.terminate()
    _, err = daemon.communicate(timeout=10)
    assert daemon.returncode == 0, err
    return err


def following(command, writer, lines):
    """Start a daemon on the log, and wait until it has read so many lines."""
    daemon = command.start("run", writer.path, "--batch-seconds", 0.05)
    writer.write(lines)
    caught_up(command, writer, daemon)
    return daemon


def stop_or_kill(daemon, clean):
    """End it, either way."""
    if clean:
        assert logged(stop(daemon), "warning") == []
    else:
        daemon.kill()
        daemon.wait()


@pytest.mark.parametrize("clean", [True, False])
def test_a_file_that_was_renamed_is_read_to_its_end_first(command, writer, clean):
    """Fault 1: live, what comes to the old file late included; and while it is down."""
    daemon = following(command, writer, 500)
    for _ in range(3):
        rename(writer)
        writer.path.touch()
        writer.write(100)  # whoever writes has not noticed yet
        writer.reopen()
        writer.write(200)
        caught_up(command, writer, daemon)
        compress(writer.path.with_name("app.log.1"))
    stop_or_kill(daemon, clean)
    writer.write(100)
    create(writer)
    writer.write(300)
    settle(command, writer)


def test_several_rotations_while_it_is_down_are_read_in_order(command, writer):
    """Faults 1 and 4: compressed at once or not, none is read twice, none left out."""
    writer.write(300)
    command("run", "--once", writer.path)
    for turn in range(4):
        writer.write(200)
        create(writer)
        writer.write(200)
        if turn % 2:
            compress(writer.path.with_name("app.log.1"))
        settle(command, writer)
    for _ in range(3):
        writer.write(150)
        create(writer)
        compress(writer.path.with_name("app.log.1"))
    writer.write(50)
    settle(command, writer)
    assert logged(command("run", "--once", writer.path).stderr, "warning") == []


@pytest.mark.parametrize("clean", [True, False])
def test_a_copied_and_truncated_file_is_read_once(command, writer, clean):
    """Fault 2: live and while it is down, with lines that were not read yet when it was copied."""
    daemon = following(command, writer, 400)
    for _ in range(3):
        writer.write(150)
        copytruncate(writer)
        writer.write(250)
        caught_up(command, writer, daemon)
    stop_or_kill(daemon, clean)
    writer.write(100)
    copytruncate(writer)
    writer.write(300)
    settle(command, writer)


def test_a_truncation_without_a_copy_is_told_and_nothing_is_read_twice(command, writer):
    """Fault 2: what is lost cannot be known, and is said."""
    daemon = following(command, writer, 400)
    read = writer.path.stat().st_size
    writer.path.write_bytes(b"")
    writer.write(100)
    caught_up(command, writer, daemon)
    assert f"truncated or rewritten after its first {read} bytes" in stop(daemon)
    settle(command, writer)


def test_a_file_deleted_and_born_again_while_down_is_read_from_its_start(command, writer):
    """Fault 5: its inode may be the old one; the state comes from the snapshot of a clean end."""
    writer.write(400)
    command("run", "--once", writer.path)
    writer.path.unlink()
    writer.reopen()
    writer.write(600)
    assert "is gone" in command("run", "--once", writer.path).stderr
    equal(command, writer)


def test_a_file_truncated_while_down_and_grown_past_the_old_offset_is_noticed(command, writer):
    """Fault 6: by its content."""
    writer.write(200)
    command("run", "--once", writer.path)
    writer.path.write_bytes(b"")
    writer.write(700)
    assert "is gone" in command("run", "--once", writer.path).stderr
    equal(command, writer)


def test_two_logs_with_the_same_first_line_are_two(command, tmp_path):
    """Fault 7: and a file of one short line is read."""
    line = next(iter(generate(LogShape(events=1, seed=3)))) + "\n"
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    for log in logs:
        log.write_text(line)
    command("run", "--once", *logs)
    assert [log["lines"] for log in command.status()] == [1, 1]


def test_without_the_file_that_is_needed_it_halts_unless_told_to_go_on(command, writer):
    """Fault 8: nothing is written before somebody has decided."""
    writer.write(400)
    command("run", "--once", writer.path)
    shutil.rmtree(command.folder / "checkpoints/snapshots")
    writer.path.unlink()
    writer.reopen()
    before = command.report()
    writer.write(300)
    halted = command("run", "--once", writer.path, exit_code=1)
    assert "--accept-loss" in halted.stderr
    assert command.report() == before
    assert "going on without" in command("run", "--once", writer.path, "--accept-loss").stderr
    assert command.ledger()["lines"] == 700
    command("run", "--once", writer.path)


def test_a_line_without_its_newline_waits_or_counts_once_rotated(command, writer):
    """Fault 10: it waits for more in the newest file, and is a line in one rotated away."""
    writer.write(99)
    *_, last = (line for line in generate(LogShape(events=50, seed=8)))
    writer.log.write(last)
    writer.log.flush()
    command("run", "--once", writer.path)
    assert command.ledger()["lines"] == 99
    create(writer)
    writer.copy.write(last + "\n")
    writer.write(100)
    settle(command, writer)
    compress(writer.path.with_name("app.log.1"))
    writer.write(100)
    settle(command, writer)


def test_a_file_deleted_while_it_is_read_is_read_to_its_end(command, writer):
    """Fault 14: and its handle is let go."""
    daemon = following(command, writer, 300)
    daemon.send_signal(19)
    writer.write(300)
    writer.path.unlink()
    writer.reopen()
    writer.write(300)
    daemon.send_signal(18)
    caught_up(command, writer, daemon)
    held = [str(fd.readlink()) for fd in Path(f"/proc/{daemon.pid}/fd").iterdir()]
    assert [link for link in held if "app.log" in link] == [str(writer.path)]
    stop(daemon)
    equal(command, writer)


def test_a_log_that_was_compressed_is_replayed_with_all_its_files(command, writer):
    """From the oldest file kept, and the table is the same."""
    for _ in range(4):
        writer.write(300)
        create(writer)
        compress(writer.path.with_name("app.log.1"))
    writer.write(200)
    settle(command, writer)
    command("replay", writer.path)
    equal(command, writer)
    shown = command("dead-letters", "--show", "--format", "csv").stdout
    assert '{""event_id""' in shown


CONFIGURATIONS = {
    "create": "create",
    "create, compressed with delay": "create\ncompress\ndelaycompress",
    "create, compressed at once": "create\ncompress",
    "dateext": "create\ndateext\ndateformat -%Y%m%d-%s",
    "copytruncate": "copytruncate",
    "by size, many times a second": "create\nsize 4k",
}


@pytest.mark.skipif(LOGROTATE is None, reason="needs logrotate")
@pytest.mark.parametrize("how", CONFIGURATIONS)
def test_logrotate_itself_changes_nothing(command, writer, tmp_path, how):
    """Faults 1 to 4: again and again under load, and the old files stay in the folder."""
    configuration = tmp_path / "logrotate.conf"
    configuration.write_text(
        f'"{writer.path}" {{\nsize 1\nrotate 1000\nmissingok\n{CONFIGURATIONS[how]}\n}}\n'
    )
    configuration.chmod(0o600)
    writer.path.parent.chmod(0o755)
    daemon = command.start("run", writer.path, "--batch-seconds", 0.05)
    rotations, started = 0, time.monotonic()
    while writer.has_more:
        writer.write(60)
        if "by size" not in how:
            time.sleep(0.02)
        if "dateext" in how and time.monotonic() < started + 1.1 * rotations:
            continue
        rotate = [LOGROTATE, "--state", tmp_path / "state", configuration]
        if "by size" not in how:
            rotate.insert(1, "--force")
        done = subprocess.run(rotate, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        writer.reopen()
        rotations += 1
    caught_up(command, writer, daemon)
    assert logged(stop(daemon), "warning") == []
    equal(command, writer)
    command("replay", writer.path)
    equal(command, writer)
