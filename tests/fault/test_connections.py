"""The way to the database cut, silent or led through a pooler: the report stays the oracle's."""

import random
import signal
import threading
from pathlib import Path

import pytest
from conftest import wait_until
from faults import CUTS, MESSAGES, cut_at_message, cut_commit, duel_of, kill_postmaster
from lane import Score, lane
from proxy import Harm
from servers import PGBOUNCER, Bouncer
from test_server_faults import one_lane

CANARY = "canary-of-a-password"


def test_a_connection_may_break_before_and_after_any_message(tmp_path):
    """Fault 41: an RST while it connects, asks what is committed, and commits a batch."""
    with one_lane(tmp_path) as made:
        for harm in (Harm.CUT_BEFORE, Harm.CUT_AFTER):
            for number in made.dice.sample(range(1, MESSAGES), 10):
                cut_at_message(made, number, harm)
        assert not made.score.ended_by_itself


def test_a_server_that_falls_silent_does_not_keep_the_processor_from_ending(tmp_path):
    """Faults 25, 37 and 41: a COMMIT that hangs, and SIGTERM: exit 0 within five seconds."""
    is_silent = threading.Event()

    def judge(message):
        if is_silent.is_set() or message.is_commit:
            is_silent.set()
            return Harm.STALL
        return None

    with one_lane(tmp_path) as made:
        made.proxy.judge = judge
        wait_until(is_silent.is_set, what="a COMMIT that hangs")
        made.daemon.send_signal(signal.SIGTERM)
        assert made.daemon.wait(5) == 0
        made.proxy.judge = lambda _message: None
        made.proxy.cut()


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")
def test_a_pooler_in_transaction_mode_may_sit_in_between(tmp_path):
    """Fault 38: with commits of which nobody knows, a server killed, and a duel."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    with lane(tmp_path, seed, Score("test"), through=Bouncer) as made:
        for how in CUTS:
            cut_commit(made, how)
        kill_postmaster(made)
        duel_of(made, 2)


def test_the_password_is_told_nowhere(tmp_path):
    """Faults 42 and 43: not in what it says of lost connections, where no e-mail is either."""
    with lane(tmp_path, 42, Score("test"), password=CANARY) as made:
        for harm in (Harm.CUT_BEFORE, Harm.CUT_AFTER):
            for number in (1, 5, 20, 60):
                cut_at_message(made, number, harm)
        kill_postmaster(made)
        process = Path(f"/proc/{made.daemon.pid}")
        assert CANARY in (process / "environ").read_text()
        titles = [(process / title).read_text() for title in ("cmdline", "comm", "status")]
    said = (tmp_path / "processor.log").read_text()
    assert "trying again" in said
    assert not any(CANARY in text for text in (said, *titles))
    assert "@example.org" in (tmp_path / "all.jsonl").read_text()
    assert "@example.org" not in said
