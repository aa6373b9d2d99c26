"""What is run with a failpoint: a log in up to four files, a few lines a batch, and the oracle."""

from contextlib import closing, contextmanager
from unittest.mock import patch

from failpoints import Connection, Crash, Failpoints, installed
from oracle import report
from psycopg.conninfo import conninfo_to_dict

from processor.edges.migrations import migrate
from processor.edges.snapshot import SnapshotFiles
from processor.edges.store import Store
from processor.errors import ProcessorError
from processor.shell.generate import LogShape, generate
from processor.shell.run import daemon, snapshots
from processor.shell.settings import RunSettings
from processor.shell.stop import Stop

BATCH_LINES = 3
FILE_LINES = 180
SHAPE = LogShape(
    events=700, hours=6, users=6, customers=2, seed=5, duplicates=0.03, malformed=0.3, late=0.04
)
EMPTIED = "generations, hourly_counts, dead_letters, ledger, log_files, hour_offsets, checkpoints"


class Workload:
    """Runs the first lines of one log into one database, again and again from nothing."""

    def __init__(self, url, folder):
        self.parameters = conninfo_to_dict(url)
        self.folder = folder
        self.lines = [line.encode() + b"\n" for line in generate(SHAPE)]
        self.path = folder / "app.log"
        self.written = 0
        self._expected = {}
        self.checks = self.connect()
        migrate(self.checks)

    def connect(self):
        """Connect to the database."""
        return Connection.open(**self.parameters)

    def close(self):
        """Let go of the database."""
        self.checks.close()

    def empty(self):
        """Begin from nothing."""
        for table in EMPTIED.split(", "):
            self.checks.execute(f"DELETE FROM {table}")
        self.empty_folder()

    def empty_folder(self):
        """Remove log and snapshots."""
        for file in [*self.folder.glob("app.log*"), *self.folder.glob("snapshots/*")]:
            file.unlink()
        self.path.touch()
        self.written = 0

    def write(self, lines):
        """Write the log up to so many lines; what comes after a full file goes to the next."""
        while self.written < min(lines, len(self.lines)):
            if self.written and self.written % FILE_LINES == 0 and self.path.stat().st_size:
                for number in (2, 1, 0):
                    old = self.folder / (f"app.log.{number}" if number else "app.log")
                    if old.exists():
                        old.rename(self.folder / f"app.log.{number + 1}")
                self.path.touch()
            end = min(lines, (self.written // FILE_LINES + 1) * FILE_LINES, len(self.lines))
            with self.path.open("ab") as log:
                log.writelines(self.lines[self.written : end])
            self.written = end

    def live(self, points):
        """Have a processor run to the end of what is written; return whether it got there."""
        store = Store(points.connection(self.connect))
        files = SnapshotFiles(self.folder / "snapshots/r")
        settings = RunSettings(
            logs=(self.path,), once=True, batch_lines=BATCH_LINES, batch_seconds=3600
        )
        try:
            with closing(store):
                daemon.run(store, settings, Stop(), snapshots=files)
        except (Crash, ProcessorError):
            return False
        finally:
            points.close()
        return True

    def run(self, lines, points, *, saves=False):
        """Run so many lines with failpoints, and then to the end; return whether it is as it was.

        With `saves`, a snapshot is written after each batch.
        """
        self.empty()
        with saving(saves):
            self.write(lines)
            with installed(points):
                while not self.live(points) and not points.is_dead:
                    pass  # it halted at one hit, and others are to come
            return self.recover()

    def recover(self):
        """Have a new processor go on from there; return whether the report is the oracle's."""
        fresh = Failpoints()
        with installed(fresh):
            return self.live(fresh) and self.is_equal()

    def restart(self, points):
        """Run a batch more in a new processor, and recover; return whether the report is right."""
        if self.written + BATCH_LINES > len(self.lines):
            self.empty()
        self.write(self.written + BATCH_LINES)
        with installed(points):
            self.live(points)
        return self.recover()

    def migrate_anew(self, points):
        """Bring an empty database to the schema, recover, and look whether it can be used."""
        self.checks.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        self.empty_folder()
        self.write(BATCH_LINES)
        with installed(points):
            self.live(points)
        return self.recover()

    def is_equal(self):
        """Whether report and ledger are those of the oracle, over all that is written."""
        counts = self.checks.execute(
            "SELECT customer_id,"
            " to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:00:00\"Z\"'), page_loads,"
            " clicks, unique_user_clicks, related_clicks, clicked_page_loads FROM hourly_counts"
        ).fetchall()
        ledger = self.checks.execute(
            "SELECT byte_offset, lines, (SELECT sum(lines)::bigint FROM ledger),"
            " (SELECT sum(lines)::bigint FROM ledger WHERE outcome = 'dead_letter'),"
            " (SELECT count(*) FROM dead_letters) FROM checkpoints"
        ).fetchall()
        size_bytes = sum(map(len, self.lines[: self.written]))
        if len(ledger) != 1 or ledger[0][:3] != (size_bytes, self.written, self.written):
            return False
        if (ledger[0][3] or 0) != ledger[0][4]:
            return False
        return {(row[0], row[1]): row[2:] for row in counts} == self.expected()

    def expected(self):
        """Return the oracle's report."""
        if self.written not in self._expected:
            lines = [line[:-1] for line in self.lines[: self.written]]
            self._expected[self.written] = report(lines)
        return self._expected[self.written]

    def survey(self, lines, *, loses=False, saves=False):
        """Return for each step after how many folded lines it was met, hit by hit."""
        met, folded = {}, 0

        def note(step):
            nonlocal folded
            folded += BATCH_LINES * (step == "after fold")
            met.setdefault(step, []).append(folded)

        points = Failpoints()
        points.met, points.loses = note, loses
        assert self.run(lines, points, saves=saves)
        return met


@contextmanager
def saving(saves):
    """Write a snapshot after each batch, or none."""
    every_seconds, worth_bytes = (0, 1) if saves else (3600, 1 << 30)
    with (
        patch.object(snapshots, "EVERY_SECONDS", every_seconds),
        patch.object(snapshots, "WORTH_BYTES", worth_bytes),
        patch.object(snapshots, "FEW_VISITS", -1),
    ):
        yield
