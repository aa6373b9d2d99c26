"""Snapshot files: whole or not used, of this report or not used, and readable by their owner."""

import errno
import logging
import os
import stat
from collections import deque
from contextlib import closing
from pathlib import Path

import pytest
from core_helpers import HOUR, MINUTE, RULES, Run, beats, click, page_load

from processor.core.model import MINUTE_US, Checkpoint, LogImage, Rules
from processor.edges import snapshot
from processor.edges.database import snapshots_at
from processor.edges.snapshot import Head, LogTrace, SnapshotError, SnapshotFiles, read, write
from processor.edges.source import LogReader
from processor.edges.store import Store, StoredLog
from processor.errors import StoreError
from processor.shell.run import snapshots
from processor.shell.run.daemon import run
from processor.shell.run.open_log import OpenLog
from processor.shell.run.snapshots import Snapshots
from processor.shell.settings import run_settings
from processor.shell.stop import Stop

LINES = [*beats(0, 3 * HOUR), click(3 * HOUR, "a")]

HEAD = Head(
    1,
    Rules(timezone="Europe/Berlin"),
    -5,
    (LogTrace("/a.log", LogImage(1, 9, 7, (8,), ((0, None), (3, 7)), ((9, 2),), None)),),
    {"/b.log": (2, 30)},
)
PIECES = [
    [["7 1 x"], [1600000000000000], [1], ["7 1 y"], [[[5], [6, 7]]]],
    [9, [7], [1]],
]
VERSION_2 = b"""\
processor snapshot 2
{"contract_version":1,"rules":{"attribution_window_us":1800000000,"allowed_lateness_us":600000000,\
"timezone":"Europe/Berlin","max_line_bytes":1048576},"open_from":-5,\
"logs":[["/a.log",{"log_id":1,"offset":9,\
"watermark":7,"run":[8],"markers":[[0,null],[3,7]],"ahead":[[9,2]],"starts_at":null}]],\
"let_go":{"/b.log":[2,30]}}
[["7 1 x"],[1600000000000000],[1],["7 1 y"],[[[5],[6,7]]]]
[9,[7],[1]]
fe460609721c22aac5d12c2168214780b25b3729e3cecb90593f84aed29a4fe4
"""


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch):
    """Snapshots of small logs are worth it, too."""
    monkeypatch.setattr(snapshots, "WORTH_BYTES", 1)
    monkeypatch.setattr(snapshots, "FEW_VISITS", -1)


class Report:
    """A report over logs in files, as far as it is committed, and its snapshot."""

    def __init__(self, folder, *logs):
        self.run = Run(*logs)
        self.paths = {log_id: folder / f"{log_id}.log" for log_id in self.run.logs}
        for log_id, path in self.paths.items():
            path.write_bytes(self.run.logs[log_id])
        self.path = folder / "checkpoints/snapshots/name"

    def stored(self, *ids):
        """Return logs as the database has them."""
        return {
            self.paths[i]: StoredLog(i, self.run.checkpoint(i), self.run.names(i), [])
            for i in ids or self.paths
        }

    def save(self, let_go=()):
        """Save what is folded."""
        saving = Snapshots(self.path, self.run.rules)
        saving.starts_from({p: s for i in let_go for p, s in self.stored(i).items()}, anew=True)
        readers = {i: LogReader(path, 0) for i, path in self.paths.items() if i not in let_go}
        logs = {
            self.paths[i]: OpenLog(reader, self.run.states[i], deque())
            for i, reader in readers.items()
        }
        assert saving.is_due(self.run.fold, logs, at_end=True)
        saving.save(self.run.fold, logs)
        for reader in readers.values():
            reader.close()
        return saving

    def load(self, read_on=None, others=None, rules=RULES):
        """Return the fold that a run would start from."""
        read_on = self.stored() if read_on is None else read_on
        return Snapshots(self.path, rules).load(read_on, others or {})


@pytest.fixture
def saved(tmp_path):
    """A report whose snapshot is as new as its database."""
    report = Report(tmp_path, LINES)
    report.run.to_end(batch_lines=20)
    report.save()
    return report


def test_the_bytes_of_version_2_stay_what_they_are(tmp_path):
    """A change of them needs another version in the first line."""
    path = tmp_path / "snapshots/name"
    assert write(path, HEAD, iter(PIECES)) == path.stat().st_size
    assert path.read_bytes() == VERSION_2
    head, pieces = read(path)
    assert list(pieces) == PIECES
    assert (head.rules, head.let_go) == (HEAD.rules, HEAD.let_go)
    assert head.logs[0].image.markers == [[0, None], [3, 7]]


def files_beside(path):
    return sorted(file.name for file in path.parent.iterdir())


def test_only_the_owner_may_read_it(saved):
    """It holds ids of users and visits; and nothing is left beside it."""
    assert stat.S_IMODE(saved.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(saved.path.parent.stat().st_mode) == 0o700
    assert files_beside(saved.path) == ["name"]


def test_what_a_killed_process_left_is_removed(saved):
    """Of this snapshot; another one may be at work on its own."""
    (saved.path.parent / "name.x1.tmp").touch()
    (saved.path.parent / "other.x1.tmp").touch()
    saved.save()
    assert files_beside(saved.path) == ["name", "other.x1.tmp"]


def test_a_snapshot_torn_at_any_byte_is_not_used(tmp_path):
    """Nothing of it is believed."""
    path = tmp_path / "name"
    write(path, HEAD, PIECES)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SnapshotError):
            read(path)
    path.write_bytes(whole + b"\n")
    with pytest.raises(SnapshotError):
        read(path)


def test_a_snapshot_with_any_bit_flipped_is_not_used(tmp_path):
    """In the version, the head, a piece, or the checksum."""
    path = tmp_path / "name"
    write(path, HEAD, PIECES)
    whole = path.read_bytes()
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises(SnapshotError):
            read(path)


def test_a_snapshot_that_fits_is_used(saved, caplog):
    """And says so."""
    caplog.set_level(logging.INFO)
    fold = saved.load()
    assert fold.open_visits == saved.run.fold.open_visits
    assert "open visits from a snapshot" in caplog.text


def test_an_older_snapshot_is_used_to_fold_on_from(tmp_path):
    """As long as that is less than what there is to fold without."""
    report = Report(tmp_path, LINES)
    report.run.read(170)
    report.run.cut()
    report.save()
    report.run.read(5)
    report.run.cut()
    assert report.load().log(1).offset < report.run.checkpoint().byte_offset


def warning(caplog):
    (record,) = caplog.records
    return record.levelname == "WARNING" and record.getMessage()


def test_a_damaged_snapshot_is_not_used_with_a_warning(saved, caplog):
    """One line, and the run goes on without."""
    with saved.path.open("r+b") as file:
        file.truncate(100)
    assert saved.load() is None
    assert "is not used: it is damaged" in warning(caplog)


def test_a_snapshot_of_another_version_is_not_used_with_a_warning(saved, caplog):
    """Neither an older one nor a newer one."""
    saved.path.write_bytes(saved.path.read_bytes().replace(b"snapshot 2", b"snapshot 3"))
    assert saved.load() is None
    assert "no snapshot of this version" in warning(caplog)


def test_a_snapshot_newer_than_the_database_is_not_used_with_a_warning(saved, caplog):
    """The database was put back."""
    del saved.run.commits[-1]
    assert saved.load() is None
    assert "it is newer than the database" in warning(caplog)


def test_a_snapshot_with_a_sound_checksum_and_a_senseless_content_is_not_used(saved, caplog):
    """A cache never keeps a run from starting, whatever wrote it."""
    head, _ = read(saved.path)
    write(saved.path, head, [[1, 2]])
    assert saved.load() is None
    assert "not what this version writes" in warning(caplog)
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "_encoded", lambda *_: [snapshot.FORMAT])
        write(saved.path, head, [])
    assert saved.load() is None
    assert "not what this version writes" in warning(caplog)


def test_a_snapshot_that_cannot_be_read_is_not_used_with_a_warning(saved, caplog):
    """A folder in its place, say."""
    saved.path.unlink()
    saved.path.mkdir()
    assert saved.load() is None
    assert "cannot be read: Is a directory" in warning(caplog)


def test_without_a_snapshot_nothing_is_said(saved, caplog):
    """Nor when there is nothing to fold again."""
    caplog.set_level(logging.INFO)
    path = saved.paths[1]
    assert saved.load({path: StoredLog(9, Checkpoint(), [], [])}) is None
    saved.path.unlink()
    assert saved.load() is None
    assert not caplog.records


def told(caplog):
    (record,) = caplog.records
    return record.levelname == "INFO" and record.getMessage()


def test_a_snapshot_made_by_other_rules_is_not_used(saved, caplog):
    """Window, lateness, zone, or contract."""
    caplog.set_level(logging.INFO)
    assert saved.load(rules=Rules(5 * MINUTE_US)) is None
    assert "made by other rules" in told(caplog)


def test_a_snapshot_of_other_logs_is_not_used(tmp_path, caplog):
    """One that joins, one that the report no longer has, one that has another id."""
    report = Report(tmp_path, LINES, LINES[:-1])
    report.run.to_end(batch_lines=20)
    both = report.stored()
    first, second = report.stored(1), report.stored(2)
    report.save()
    caplog.set_level(logging.INFO)
    (path, log), *_ = first.items()
    new = {tmp_path / "new.log": StoredLog(3, Checkpoint(), [], [])}
    for read_on in (both | new, first, {path: log._replace(log_id=9)} | second):
        assert report.load(read_on) is None
        assert "is of other logs" in told(caplog)
        caplog.clear()
    assert report.load(both) is not None


def test_a_log_that_is_not_read_on_must_be_held_entirely(tmp_path, caplog):
    """It is let go; and is not taken up again from a snapshot that had let it go."""
    caplog.set_level(logging.INFO)
    report = Report(tmp_path, LINES, LINES[:-1])
    report.run.to_end(batch_lines=20)
    first, second = report.stored(1), report.stored(2)
    report.save()
    fold = report.load(first, second)
    assert fold.open_visits == report.run.fold.open_visits
    with pytest.raises(KeyError):
        fold.log(2)
    report.save(let_go=[2])
    assert report.load(first, second) is not None
    caplog.clear()
    assert report.load(first | second) is None
    assert "is of other logs" in told(caplog)
    (path, log) = next(iter(second.items()))
    grown = log.checkpoint._replace(byte_offset=log.checkpoint.byte_offset + 1)
    caplog.clear()
    assert report.load(first, {path: log._replace(checkpoint=grown)}) is None
    assert "older than what was folded" in told(caplog)


def test_a_snapshot_that_saves_nothing_is_not_used(tmp_path, caplog):
    """Before `rebuild_from`, it is the longer way."""
    report = Report(tmp_path, beats(0, 5 * HOUR))
    report.run.read(40)
    report.run.cut()
    report.save()
    report.run.to_end(batch_lines=20)
    assert report.run.states[1].rebuild_from > report.run.states[1].offset // 2
    caplog.set_level(logging.INFO)
    assert report.load() is None
    assert "more to fold again" in told(caplog)


def test_a_snapshot_is_due_when_it_is_time_and_worth_it(tmp_path, monkeypatch):
    """At the end of a run whatever the time; again once there is as much new to save."""
    report = Report(tmp_path, LINES)
    report.run.read(150)
    report.run.cut()
    saving = report.save()
    logs = {report.paths[1]: OpenLog(None, report.run.states[1], deque())}
    assert not saving.is_due(report.run.fold, logs, at_end=True)
    report.run.to_end()
    assert saving.is_due(report.run.fold, logs, at_end=True)
    assert not saving.is_due(report.run.fold, logs, at_end=False)
    monkeypatch.setattr(saving, "_due_at", 0)
    assert saving.is_due(report.run.fold, logs, at_end=False)
    monkeypatch.setattr(snapshots, "WORTH_BYTES", 1 << 20)
    assert not saving.is_due(report.run.fold, logs, at_end=True)
    monkeypatch.setattr(snapshots, "FEW_VISITS", report.run.fold.open_visits)
    assert saving.is_due(report.run.fold, logs, at_end=True)
    assert not saving.is_due(report.run.fold, logs, at_end=False)


def test_a_state_that_is_not_whole_is_not_saved(saved):
    """As when a stop was asked for while it was folded again."""
    saving = Snapshots(saved.path, RULES)
    logs = {saved.paths[1]: OpenLog(None, saved.run.states[1], deque())}
    assert not saving.is_due(saved.run.fold, logs, at_end=True)
    saving.starts_from({}, anew=True)
    assert saving.is_due(saved.run.fold, logs, at_end=True)
    saving.load({}, {})
    assert not saving.is_due(saved.run.fold, logs, at_end=True)


def test_a_full_disk_keeps_the_old_snapshot_and_is_told_once(saved, monkeypatch, caplog):
    """And when there is room again, the next one is written."""
    old = saved.path.read_bytes()
    reader = LogReader(saved.paths[1], 0)
    logs = {saved.paths[1]: OpenLog(reader, saved.run.states[1], deque())}
    saving = Snapshots(saved.path, RULES)
    saving.starts_from({}, anew=True)

    def full(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        saving.save(saved.run.fold, logs)
        saving.save(saved.run.fold, logs)
    assert "cannot be written: No space left on device" in warning(caplog)
    assert saved.path.read_bytes() == old
    assert files_beside(saved.path) == ["name"]
    assert saving.is_due(saved.run.fold, logs, at_end=True)
    saving.save(saved.run.fold, logs)
    assert not saving.is_due(saved.run.fold, logs, at_end=True)
    reader.close()


def test_each_database_has_a_snapshot_of_its_own():
    """Whatever the password; no part of the URL is told by the name."""
    names = {
        str(snapshots_at(url, Path("c")).of(7))
        for url in (
            None,
            "postgresql://me@host/a",
            "postgresql://me@host/b",
            "postgresql://me:secret@host/b",
            "host=host dbname=b user=me password=other",
        )
    }
    assert len(names) == 3
    assert all(Path(name).parent == Path("c/snapshots") for name in names)
    assert "c/snapshots/embedded.7" in names


def test_the_state_of_a_wild_log_survives_the_file(tmp_path):
    """Strings with line breaks and integers at their limits, through the file."""
    lines = [*LINES, page_load(3 * HOUR, "\n\u2028\r\n", (1 << 63) - 1, -(1 << 63))]
    report = Report(tmp_path, [*lines, page_load(3 * HOUR + 9 * MINUTE, "b")])
    report.run.to_end(batch_lines=20)
    report.save()
    assert list(report.load().pieces()) == list(report.run.fold.pieces())


def test_what_cannot_be_removed_keeps_neither_others_nor_a_run(tmp_path, make_log, connect):
    """A snapshot of a generation that is no more is removed if that is possible."""
    files = SnapshotFiles(tmp_path / "snapshots" / "name")
    for generation in (5, 6, 7):
        files.of(generation).parent.mkdir(exist_ok=True)
        files.of(generation).touch()
    files.of(6).unlink()
    files.of(6).mkdir()  # as if somebody had put a folder there
    log = make_log(events=50)
    with closing(Store(connect)) as store:
        run(store, run_settings(logs=[log], once=True), Stop(), snapshots=files)
        assert [path.name for path in files.base.parent.iterdir() if path.is_dir()] == ["name.6"]
        assert not files.of(5).exists()
        assert not files.of(7).exists()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "generations", refuse)
            run(store, run_settings(logs=[log], once=True), Stop(), snapshots=files)


def refuse(_store):
    """Answer as a database without rights does."""
    raise StoreError("permission denied")
