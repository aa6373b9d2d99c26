"""Whatever is done to the files of a log, report and ledger are those of its lines."""

import json
from contextlib import closing

import pytest
from conftest import forget_all
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from oracle import report
from rotated_files import RotatedFiles

from processor.core.model import Rules
from processor.edges.generations import Generations
from processor.edges.reader import Reader
from processor.edges.snapshot import SnapshotFiles
from processor.edges.store import Store
from processor.edges.view import ALL_HOURS
from processor.errors import LogError
from processor.shell.replay.recount import recounted
from processor.shell.replay.replay import replayed
from processor.shell.report.report import ledger
from processor.shell.run.daemon import run
from processor.shell.settings import run_settings
from processor.shell.stop import Stop

TYPES = ["ReferralPageLoad", "ReferralRecommendClick", "FaqClick"]


class RotatedReport(RotatedFiles):
    """Between one thing and another, the processor runs to the end, on a real database."""

    connect = None

    def __init__(self):
        super().__init__()
        self.store = Store(self.connect)
        self.store.migrate()
        forget_all(self.connect)
        self.store.adopt(Rules())

    def teardown(self):
        """Close what is open."""
        self.store.close()
        super().teardown()

    def line(self, number, size):
        """Return a page load or a click, a minute after the last one."""
        return json.dumps(
            {
                "event_id": f"visit {number // 3}",
                "event_type": TYPES[number % 3],
                "customer_id": number % 2,
                "user_id": number // 3 % 4,
                "fired_at": f"2022-01-01T{number // 60:02}:{number % 60:02}:00Z",
                "note": "x" * size,
            }
        ).encode()

    def start(self):
        """Nothing is kept from one run to the next but what is on the disk."""

    @precondition(lambda self: not self.is_being_copied)
    @rule(batch_lines=st.sampled_from([1, 3, 1_000]))
    def finish(self, batch_lines=1_000):
        """Run to the end; then report and ledger are those of the lines that there are."""
        settings = run_settings(logs=[self.path], once=True, batch_lines=batch_lines)
        if self.path.exists():
            snapshots = SnapshotFiles(self.folder / "snapshots/one")
            run(self.store, settings, Stop(), snapshots=snapshots)
        lines = self.expected().split(b"\n")[:-1]
        found = Reader(self.connect)
        rows = {(row.customer_id, row.hour): tuple(row[2:7]) for row in found.report()}
        assert rows == report(lines)
        for log in found.status():
            told = ledger(log)
            assert told.lines == len(lines)
            assert told.byte_offset == len(self.expected())
            assert told.lines == sum(log.outcomes.values())

    def found(self):
        """Return report and ledger as they are."""
        reader = Reader(self.connect)
        return list(reader.report()), [log.outcomes for log in reader.status()]

    @precondition(lambda self: self.path.exists())
    @rule(batch_lines=st.sampled_from([1, 3, 1_000]), is_dry=st.booleans())
    def replay(self, batch_lines, is_dry):
        """Count again, for good or not: the same comes of it, or it cannot be."""
        before = self.found()
        if not before[1]:
            return  # nothing was counted yet
        settings = run_settings(logs=[self.path], batch_lines=batch_lines)
        snapshots = SnapshotFiles(self.folder / "snapshots/one")
        common = Stop(), lambda _done, _all: None
        with closing(Store(self.connect)) as store, closing(Generations(self.connect)) as all_:
            if is_dry:
                counting = recounted(all_, settings, ALL_HOURS, *common)
            else:
                counting = replayed(store, all_, settings, ALL_HOURS, *common, snapshots)
            try:
                with counting as found:
                    changes = found.changes_to_recounted(ALL_HOURS) if is_dry else found
                    assert list(changes) == []
                all_.keep(0)
            except LogError:
                assert self.has_lost_files
        assert self.found() == before

    @precondition(lambda self: self.is_being_copied)
    @rule()
    def run_while_it_is_copied(self):
        """The copy is no part of the log yet."""
        self.is_being_copied = False
        self.finish()
        self.is_being_copied = True


@pytest.fixture
def machine(connect):
    """The machine, with a database."""
    RotatedReport.connect = staticmethod(connect)
    return RotatedReport


def test_report_and_ledger_are_those_of_the_lines(machine):
    """For a few examples."""
    some = settings(max_examples=25, stateful_step_count=15, deadline=None, derandomize=True)
    run_state_machine_as_test(machine, settings=some)


@pytest.mark.torture
def test_report_and_ledger_are_those_of_the_lines_at_length(machine):
    """For two thousand."""
    many = settings(max_examples=2_000, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(machine, settings=many)
