"""What a restart must know again: each case was found by simulation. The database is simulated."""

from datetime import timedelta

import pytest
from core_helpers import HOUR, MINUTE, YEAR, beats, click, log_of, page_load
from oracle import lines_of, report
from simulated_store import Database, SimulatedStore

from processor.edges.source import LogReader
from processor.shell.run import daemon
from processor.shell.settings import RunSettings
from processor.shell.stop import Stop


@pytest.fixture
def run(monkeypatch):
    """Run over logs to their end; compare with the oracle's report over what was read."""
    monkeypatch.setattr(daemon, "collect_seldom", lambda: None)
    database = Database()

    def run(*logs, lateness=10, is_whole=True, **settings):
        minutes = {"attribution_window": timedelta(minutes=30)}
        minutes["allowed_lateness"] = timedelta(minutes=lateness)
        chosen = RunSettings(logs=logs, once=True, **minutes, **settings)
        daemon.run(SimulatedStore(database), chosen, Stop())
        tables, read = database.tables, []
        for log in logs:
            (row,) = (row for row in tables.logs.values() if row.path == str(log))
            whole = log.read_bytes()
            assert not is_whole or row.checkpoint.byte_offset == len(whole)
            read.append(whole[: row.checkpoint.byte_offset].splitlines())
        found = tables.report(tables.live().number)
        assert found == report(*read, lateness=minutes["allowed_lateness"])

    return run


def append(log, lines):
    """Write lines to a log."""
    with log.open("ab") as file:
        file.write(log_of(lines))


def test_the_first_lines_of_a_log_are_not_forgotten_before_it_has_a_watermark(run, tmp_path):
    """What comes next fired later, and relates to them, or is the same user again."""
    log = tmp_path / "app.log"
    append(log, [page_load(n, f"visit {n}", 7, n) for n in range(9)])
    append(log, [click(9, "before", 7, 1)])
    run(log, lateness=0)
    append(log, [click(20 * MINUTE, f"visit {n}", 7, n) for n in range(9)])
    append(log, beats(20 * MINUTE, 2 * HOUR))
    run(log, lateness=0)


@pytest.mark.parametrize("first", range(1, 31, 5))
def test_a_restart_in_the_first_run_forgets_nothing_that_the_median_lets_in(run, tmp_path, first):
    """The watermark that the run makes may be far behind the lines that follow the restart."""
    log = tmp_path / "app.log"
    slow = [page_load(n, f"visit {n}", 7, n) for n in range(first)]
    fast = [page_load(HOUR + n, f"fast {n}", 7, 100 + n) for n in range(32 - first)]
    append(log, slow)
    run(log)
    append(log, [*fast, *(click(15 * MINUTE, f"visit {n}", 7, n) for n in range(first))])
    append(log, beats(2 * HOUR, 4 * HOUR))
    run(log)


@pytest.fixture
def later(monkeypatch):
    """Append lines to a log once most of another one is folded."""

    def set_up(log, lines, other):
        real, more = LogReader.read, list(lines)

        def read_and_append(reader, most=1 << 62, end=None):
            chunk = real(reader, most, end)
            is_folded = chunk and most < 100 and chunk.end > 2 * other.stat().st_size // 3
            if more and reader.path == other and is_folded:
                append(log, more)
                more.clear()
            return chunk

        monkeypatch.setattr(LogReader, "read", read_and_append)
        return more

    return set_up


def test_a_log_that_was_silent_and_goes_on_where_it_was_is_counted(run, later, tmp_path):
    """A few lines of a wild clock come first: they say nothing about what follows them."""
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    append(old, [*beats(0, HOUR), page_load(HOUR, "visit", 7, 1)])
    append(new, beats(0, 12 * HOUR))
    run(old, new)
    append(old, [page_load(YEAR, "wild", 7, 2)])
    append(new, beats(12 * HOUR, 24 * HOUR))
    left = later(old, [click(HOUR + MINUTE, "visit", 7, 1)], new)
    run(old, new, batch_lines=10, is_whole=False)
    assert not left
    run(old, new)


def test_what_is_written_to_a_log_after_its_end_was_met_is_left_to_the_next_run(
    run, later, tmp_path
):
    """The state that it needs may be forgotten by then: the other log has gone far ahead."""
    short, long = tmp_path / "short.log", tmp_path / "long.log"
    append(short, [*beats(0, HOUR), page_load(HOUR, "visit", 7, 1)])
    append(long, beats(0, 12 * HOUR))
    left = later(short, [click(HOUR + MINUTE, "visit", 7, 1)], long)
    run(short, long, batch_lines=10, is_whole=False)
    assert not left
    run(short, long)
    assert len(lines_of(short)) == 62
