"""Faults of a real server, and duels over it: the report stays the oracle's."""

import random
from contextlib import contextmanager

from faults import (
    CUTS,
    HOLDS,
    cut_commit,
    cut_connections,
    duel_of,
    fail_over,
    hold_commit,
    kill_postmaster,
    put_copy_back,
)
from lane import Score, lane


@contextmanager
def one_lane(folder):
    """Yield a lane of a random seed; at the end its report is the oracle's."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    with lane(folder, seed, Score("test")) as made:
        yield made


def test_a_server_that_is_killed_or_away_is_waited_for(tmp_path):
    """Fault 34: kill -9 of the postmaster, cut connections; the daemon goes on by itself."""
    with one_lane(tmp_path) as made:
        daemon = made.daemon
        for fault in (kill_postmaster, cut_connections, kill_postmaster, cut_connections):
            fault(made)
        assert made.daemon is daemon


def test_a_commit_of_which_nobody_knows_counts_once(tmp_path):
    """Fault 33: the COMMIT is lost, or its answer, or it is held open while all else goes on."""
    with one_lane(tmp_path) as made:
        for how in CUTS:
            cut_commit(made, how)
        for how in HOLDS:
            hold_commit(made, how)
        assert not made.score.ended_by_itself
    assert "went back" not in (tmp_path / "processor.log").read_text()


def test_a_database_that_went_back_is_gone_on_from(tmp_path):
    """Fault 36: a failover that lost commits, a copy put back; the processor up or down."""
    with one_lane(tmp_path) as made:
        fail_over(made)
        put_copy_back(made, is_down=False)
        put_copy_back(made, is_down=True)
        assert not made.score.ended_by_itself


def test_one_of_several_processors_goes_on(tmp_path):
    """Fault 27: of three, the two others end with code 3, whoever is first."""
    with one_lane(tmp_path) as made:
        duel_of(made, 3)
