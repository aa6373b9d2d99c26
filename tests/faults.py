"""Faults of processor and server, each a function of a lane.

It does its harm, sees to it that the processor goes on, and returns what kind of fault it was.
"""

import signal
import threading
import time

from conftest import wait_until
from lane import AT_WORK, RECOVERY_SECONDS
from proxy import Harm

GHOST = "ALTER SYSTEM SET synchronous_standby_names TO 'ghost'"
NO_GHOST = "ALTER SYSTEM RESET synchronous_standby_names"
MESSAGES = 150
"""So many are exchanged for a connection, a question what was committed, and a batch."""
RELOAD = "SELECT pg_reload_conf()"


def kill_processor(lane):
    """Kill -9 at any moment: while it starts, rebuilds, folds, commits or writes a snapshot."""
    lane.tend()
    pid, started, at_work = lane.daemon.pid, time.monotonic(), None
    lives_until = started + lane.dice.uniform(0.3, 1.7) * lane.start_seconds
    while (now := time.monotonic()) < lives_until:
        if at_work is None and (lane.committed() or (0, 0))[1] == pid:
            at_work = now - started
        time.sleep(min(0.03, lives_until - now))
    lane.end()
    # How long a start takes depends on what else the machine does: follow it.
    lane.start_seconds *= 1.1 if at_work is None else 0.95
    if at_work is None:
        return "kill -9 of the processor before its first commit"
    lane.score.recovered(at_work)
    return "kill -9 of the processor at work"


def kill_postmaster(lane):
    """Kill -9 of the postmaster, and a while without a server."""
    lane.pause(0.3)
    lane.server.kill()
    lane.pause(0.5)
    lane.server.start()
    lane.recover()
    return "kill -9 of the postmaster"


def rewind(lane):
    """A database that lost its last commits, by a copy put back or by a failover."""
    if lane.dice.random() < 0.5:
        return fail_over(lane)
    return put_copy_back(lane, is_down=lane.dice.random() < 0.3)


def put_copy_back(lane, *, is_down):
    """An old copy put back, while the processor runs or is down."""
    copy = lane.server.folder / "copy"
    lane.server.back_up(copy)
    lane.recover(measure=False)
    lane.pause(0.3)
    if is_down:
        lane.end(lane.dice.choice([signal.SIGKILL, signal.SIGTERM]))
    lane.server.put_back(copy)
    lane.recover()
    return "copy put back" + (", processor down" if is_down else "")


def fail_over(lane):
    """A replica that is promoted without the last commits of its primary."""
    primary = lane.server
    replica = primary.replica(5432 + 5433 - primary.port)
    replica.cut_off()
    lane.recover(measure=False)
    lane.pause(0.3)
    primary.kill()
    replica.promote()
    lane.server = lane.proxy.server = replica
    lane.recover()
    return "failover that lost commits"


def leave_commit_unknown(lane):
    """A COMMIT of which the processor does not learn what became of it."""
    lane.tend()
    if lane.dice.random() < 0.9:
        return cut_commit(lane, lane.dice.choice(list(CUTS)))
    return hold_commit(lane, lane.dice.choice(HOLDS))


CUTS = {
    "COMMIT lost on its way": ("is_commit", Harm.CUT_BEFORE),
    "COMMIT sent, connection cut": ("is_commit", Harm.CUT_AFTER),
    "COMMIT done, answer lost": ("is_committed", Harm.CUT_BEFORE),
}


def cut_commit(lane, how):
    """Cut the connection at a COMMIT that changes something."""
    at, harm = CUTS[how]
    is_done, writes = threading.Event(), threading.Event()

    def judge(message):
        if b"UPDATE checkpoints" in message.body:
            writes.set()
        if getattr(message, at) and writes.is_set() and not is_done.is_set():
            is_done.set()
            return harm
        return None

    lane.proxy.judge = judge
    wait_until(lambda: lane.tend() or is_done.is_set(), RECOVERY_SECONDS, "a COMMIT to cut")
    lane.recover()
    return how


def cut_at_message(lane, number, harm):
    """Cut the connection, and the next one at its n-th message, as it connects or works."""
    is_done, seen = threading.Event(), []

    def judge(message):
        if not is_done.is_set() and (seen or message.is_first):
            seen.append(message)
            if len(seen) == number:
                is_done.set()
                return harm
        return None

    lane.proxy.judge = judge
    lane.proxy.cut()
    wait_until(lambda: lane.tend() or is_done.is_set(), RECOVERY_SECONDS, "a message to cut at")
    lane.recover()
    return f"connection {harm.value}"


def cut_anywhere(lane):
    """Cut the connection at any message."""
    harm = lane.dice.choice([Harm.CUT_BEFORE, Harm.CUT_AFTER])
    return cut_at_message(lane, lane.dice.randint(1, MESSAGES), harm)


HOLDS = ("processor killed", "connection cut", "backend ended")


def hold_commit(lane, how):
    """A COMMIT that is held open by the wait for a standby, while its client is killed or cut."""
    waiting = f"SELECT count(pid) {AT_WORK} AND wait_event = 'SyncRep'"
    lane.server.sql(GHOST, RELOAD)
    try:
        wait_until(lambda: lane.tend() or lane.server.sql(waiting)[0][0], what="a COMMIT held")
        if how == "processor killed":
            lane.end()
            lane.tend()
        elif how == "connection cut":
            lane.proxy.cut()
        else:
            lane.server.sql(
                f"SELECT pg_terminate_backend(pid) {AT_WORK} AND wait_event = 'SyncRep'"
            )
        lane.pause(0.5)
    finally:
        lane.server.sql(NO_GHOST, RELOAD)
    lane.recover()
    return f"COMMIT held, {how}"


def duel(lane):
    """Two or three processors on one log: all but one end with code 3."""
    if lane.dice.random() < 0.3:
        return wake_up_later(lane)
    return duel_of(lane, lane.dice.choice([2, 2, 3]))


def duel_of(lane, count):
    """So many processors at once; the one that is left goes on."""
    lane.tend()
    all_ = [lane.daemon, *(lane.another() for _ in range(count - 1))]
    wait_until(
        lambda: sum(one.poll() is None for one in all_) <= 1, RECOVERY_SECONDS, "the end of a duel"
    )
    lane.daemon = next(one for one in all_ if one.poll() is None)
    assert all(one.returncode == 3 for one in all_ if one is not lane.daemon)
    lane.recover()
    return f"duel of {count}"


def wake_up_later(lane):
    """SIGSTOP, another one takes over, SIGCONT: the stale one ends with code 3."""
    lane.tend()
    wait_until(lambda: (lane.committed() or (0, 0))[1] == lane.daemon.pid, what="a commit")
    stale = lane.daemon
    stale.send_signal(signal.SIGSTOP)
    try:
        end_transactions(lane)
        lane.daemon = lane.another()
        lane.recover()
    finally:
        stale.send_signal(signal.SIGCONT)
    assert stale.wait(30) == 3
    return "SIGSTOP, another took over, SIGCONT"


def end_transactions(lane):
    """Cut off whoever holds a transaction open, as a server's idle time-out would."""

    def are_ended():
        lane.server.sql(f"SELECT pg_terminate_backend(pid) {AT_WORK}")
        return not lane.server.sql(f"SELECT pid {AT_WORK}")

    wait_until(are_ended, what="the end of all transactions")


def stop_cleanly(lane):
    """SIGTERM or SIGINT; it ends with 0 within five seconds."""
    lane.tend()
    lane.pause(0.5)
    lane.daemon.send_signal(lane.dice.choice([signal.SIGTERM, signal.SIGINT]))
    code = lane.daemon.wait(5)
    assert code in (0, -signal.SIGTERM, -signal.SIGINT), code  # before Python listens to them
    lane.daemon = None
    lane.recover()
    return "SIGTERM or SIGINT"


def cut_connections(lane):
    """Reset all connections, or have the server end them."""
    if lane.dice.random() < 0.5:
        lane.proxy.cut()
        how = "RST"
    else:
        lane.server.sql(f"SELECT pg_terminate_backend(pid) {AT_WORK}")
        how = "pg_terminate_backend"
    lane.recover()
    return how


def damage_snapshot(lane):
    """Kill -9, and a snapshot that is torn, has a flipped bit, or is gone."""
    lane.tend()
    lane.end()
    for path in (lane.folder / "checkpoints/snapshots").rglob("*"):
        if path.is_file():
            whole = path.read_bytes()
            at = lane.dice.randrange(len(whole)) if whole else 0
            flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] if whole else b""
            path.write_bytes(lane.dice.choice([whole[:at], flipped, b""]))
    lane.recover()
    return "snapshot damaged"


STORM = (
    kill_processor,
    kill_postmaster,
    rewind,
    leave_commit_unknown,
    duel,
    stop_cleanly,
    cut_connections,
    cut_anywhere,
    damage_snapshot,
)
