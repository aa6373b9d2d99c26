"""Replays beside a daemon at work, killed at random: no reader ever sees a wrong report."""

import random
import signal
import threading
import time
from contextlib import ExitStack, closing
from datetime import UTC, timedelta

import psycopg
import pytest
from conftest import wait_until
from core_helpers import Run
from oracle import lines_of, report
from test_process import Writer, has_committed, settle

from processor.core.model import Rules
from processor.edges.generations import HELD_MILLISECONDS, Generations
from processor.edges.session import ConnectionLostError
from processor.edges.store import Store
from processor.shell.generate import LogShape, generate

LINES_PER_SECOND = 5_000
UNLIMITED = timedelta(hours=4)
LIVE = "(SELECT generation FROM generations WHERE state = 'live')"


class Background:
    """Does something again and again beside a test. Its errors are raised when it is closed."""

    def __init__(self, act, every_seconds):
        self._act, self._every = act, every_seconds
        self._is_over = threading.Event()
        self._error = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            while not self._is_over.wait(self._every):
                self._act()
        except BaseException as error:  # noqa: BLE001 - raised by close
            self._error = error

    def close(self):
        """End it."""
        self._is_over.set()
        self._thread.join()
        if self._error:
            raise self._error


class Watcher:
    """Reads report and offset as one state, and keeps all that it has seen."""

    def __init__(self, url):
        self._db = psycopg.connect(url, autocommit=True)
        self.seen = []

    def look(self):
        """Read both."""
        with self._db.transaction():
            self._db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            query = f"SELECT generation, byte_offset FROM checkpoints WHERE generation = {LIVE}"
            row = self._db.execute(query).fetchone()
            rows = self._db.execute("SELECT * FROM hourly_report").fetchall()
        if row:
            table = {(r[0], f"{r[1].astimezone(UTC):%Y-%m-%dT%H:00:00Z}"): r[2:7] for r in rows}
            self.seen.append((*row, table))

    def close(self):
        """Let go of the connection."""
        self._db.close()


def tables_at(log, offsets):
    """Return {offset: the report of the log up to there}, by the fold."""
    run, tables = Run(lines_of(log)), {}
    for offset in sorted(offsets):
        run.readers[1].visible = offset
        run.to_end()
        assert run.states[1].offset == offset
        tables[offset] = run.table()
    return tables


@pytest.mark.parametrize("wanted", [4, pytest.param(10, marks=pytest.mark.torture)])
def test_readers_see_only_true_reports_while_replays_switch_and_processes_die(
    command, tmp_path, wanted
):
    """A daemon at 5,000 lines a second, so many replays, kill -9 of both again and again."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    log = tmp_path / "app.log"
    writer = Writer(log, seed, events=600_000, hours=30)
    shares = iter(n / 600_000 for n in range(2_000, 600_000, LINES_PER_SECOND // 20))
    command("migrate")
    url = command.environment["PROCESSOR_DATABASE_URL"]
    options = ("--batch-seconds", 0.1, "--batch-lines", 5_000)
    switches = killed_replays = killed_daemons = 0
    with (
        closing(Watcher(url)) as watcher,
        closing(Background(lambda: writer.write(next(shares)), 1 / 20)),
    ):
        daemon = command.start("run", log, *options)
        wait_until(lambda: has_committed(command, daemon.pid), what="the first commit")
        with closing(Background(watcher.look, 0.1)):
            while switches < wanted:
                assert daemon.poll() is None, daemon.communicate()
                replay = command.start("replay", log, *options, "--keep", dice.choice([0, 1, 2]))
                if dice.random() < 0.4:
                    time.sleep(dice.uniform(0.3, 2))
                    replay.send_signal(signal.SIGKILL)
                    killed_replays += 1
                elif dice.random() < 0.5:
                    time.sleep(dice.uniform(0.3, 2))
                    daemon.send_signal(signal.SIGKILL)
                    daemon.communicate()
                    daemon = command.start("run", log, *options)
                    killed_daemons += 1
                out, err = replay.communicate(timeout=120)
                if replay.returncode == 0:
                    assert "no rows differ" in out, out
                    switches += 1
                else:
                    assert replay.returncode == -signal.SIGKILL, err
            before = watcher.seen[-1][1]
            wait_until(lambda: watcher.seen[-1][1] > before, what="a commit after the last switch")
    daemon.terminate()
    out, err = daemon.communicate(timeout=10)
    assert daemon.returncode == 0, err
    assert len({generation for generation, *_ in watcher.seen}) > wanted // 2
    offsets = [offset for _, offset, _ in watcher.seen]
    assert offsets == sorted(offsets), "the report went back in time"
    true = tables_at(log, set(offsets))
    for _, offset, table in watcher.seen:
        assert table == true[offset], f"at byte {offset}"
    with log.open("ab") as file:
        file.write(b"\n")  # ends the line that was torn last
    settle(command, log)
    print(f"{len(offsets)} looks, {killed_replays} replays and {killed_daemons} daemons killed")


def test_a_daemon_goes_on_by_the_rules_of_a_replay(command, tmp_path):
    """Without a restart; lines before and after the switch are counted by the new rules."""
    log = tmp_path / "app.log"
    writer = Writer(log, 31, events=20_000, hours=6)
    writer.write(0.5)
    daemon = command.start("run", log, "--batch-seconds", 0.05)
    wait_until(lambda: has_committed(command, daemon.pid), what="the first commit")
    command("replay", log, "--allowed-lateness", "4h")
    writer.write(1)
    wait_until(lambda: command.ledger()["lag_bytes"] == 0, what="the end of the log")
    daemon.terminate()
    _, err = daemon.communicate(timeout=5)
    assert daemon.returncode == 0, err
    assert "another generation of the report is live; going on with it" in err
    assert command.report() == report(lines_of(log), lateness=UNLIMITED)
    assert "replay" in command("run", "--once", log, exit_code=2).stderr


def test_a_daemon_goes_on_when_what_it_wrote_to_is_live_again(command, make_log):
    """Replaced and switched back to while it had nothing to do, with one more log folded in."""
    log, other = make_log("app.log", events=300), make_log("other.log", events=300, seed=1)
    daemon = command.start("run", log, "--batch-seconds", 0.05)
    wait_until(lambda: has_committed(command, daemon.pid), what="the first commit")
    command("replay", log, other)
    command("generations", "switch", 1)
    with log.open("a") as file:
        file.writelines(f"{line}\n" for line in generate(LogShape(events=100, seed=2, hours=9)))

    def lag():
        return {one["path"]: one["lag_bytes"] for one in command.status()}[str(log)]

    wait_until(lambda: daemon.poll() is not None or lag() == 0, what="the end of the log")
    daemon.terminate()
    _, err = daemon.communicate(timeout=5)
    assert daemon.returncode == 0, err
    assert command.report() == report(lines_of(log), lines_of(other))


def test_the_server_ends_what_holds_the_live_generation_for_too_long(connect):
    """A replay that is stopped in the middle of its switch: commits wait no longer than that."""
    with closing(Store(connect)) as store, closing(Generations(connect)) as generations:
        store.migrate()
        store.adopt(Rules())
        new = generations.begin(Rules(), {}, "somebody:1:x")
        holding = ExitStack()
        held = holding.enter_context(generations.held())
        time.sleep(HELD_MILLISECONDS / 1000 + 0.5)
        with pytest.raises(ConnectionLostError), holding:
            held.replace(new)
        with generations.view() as view:
            assert view.live.generation == store.generation
            assert view.replay.generation == new
