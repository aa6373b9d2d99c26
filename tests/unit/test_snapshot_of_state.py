"""The working state as values: what is restored is what was there."""

from core_helpers import HOUR, MINUTE, YEAR, Run, beats, click, page_load

from processor.core import visits as core_visits
from processor.core.model import MINUTE_US
from processor.core.visits import Visits
from processor.core.watermark import RUN_LINES

BUSY = [
    *beats(0, HOUR, 7),
    page_load(HOUR, "wild\n\u2028\U0001f600", user=-(1 << 63), customer=(1 << 63) - 1),
    page_load(HOUR, "twice"),
    page_load(HOUR + 1, "twice"),
    click(HOUR + 2, "twice"),
    click(HOUR + 3, "never loaded", user=2),
    *beats(HOUR, HOUR + 5 * MINUTE, 5),
    page_load(YEAR, "ahead"),
    page_load(2 * YEAR, "ahead"),
]


def held(visits):
    """Return the visits and users that are held, having seen that each visit is evicted in time."""
    held = vars(visits)
    buckets = [(v, m) for m, bucket in held["_visits_by_minute"].items() for v in bucket]
    assert sorted(held["_visits"]) == sorted(visit for visit, _ in buckets)
    for visit, minute in buckets:
        state = held["_visits"][visit]
        assert minute >= (state if type(state) is int else min(sum(state, ()))) // MINUTE_US
    return held["_visits"], held["_users_by_hour"]


def test_what_is_restored_is_what_was_there():
    """Visits loaded once, clicked, loaded twice; users; watermark with its run, and lines ahead."""
    run = Run(BUSY).to_end(batch_lines=50)
    before, image = held(vars(run.fold)["_visits"]), run.states[1].image()
    run.restart_from(run.snapshot(), len(run.commits))
    assert held(vars(run.fold)["_visits"]) == before
    assert run.states[1].image() == image
    assert run.states[1].rebuild_from == run.checkpoint().rebuild_from
    assert len(image.run) == 2
    assert len(image.ahead) > 2
    assert len(image.markers) > 2


def test_pieces_are_of_bounded_size(monkeypatch):
    """However many visits there are in a minute, or users in an hour."""
    monkeypatch.setattr(core_visits, "PIECE_ITEMS", 10)
    log = [f(at // 50, f"{at}", user=at) for at in range(500) for f in (page_load, click)]
    run = Run(log).to_end()
    pieces = list(run.fold.pieces())
    sizes = [len(p[1]) if len(p) == 3 else len(p[0]) + len(p[3]) for p in pieces]
    assert max(sizes) == 10
    assert sum(sizes) == 1_000
    assert len(pieces) == 100
    before = held(vars(run.fold)["_visits"])
    run.restart_from(run.snapshot(), len(run.commits))
    assert held(vars(run.fold)["_visits"]) == before


def test_visits_of_one_instant_share_its_number():
    """As when they were folded: a number each would take 32 bytes more a visit."""
    restored = Visits(0)
    restored.restore([[["a", "b", "c"], [10**15, 10**15 + 1], [2, 1], [], []]])
    visits, *_ = held(restored)
    assert visits["a"] is visits["b"]
    assert visits == {"a": 10**15, "b": 10**15, "c": 10**15 + 1}


def test_a_log_in_its_first_run_is_restored_to_it():
    """Nothing of it is late yet, and its next lines complete the run."""
    run = Run(beats(0, HOUR))
    run.read(RUN_LINES - 1)
    run.cut()
    run.restart_from(run.snapshot(), 1)
    assert (run.states[1].mark.at, len(run.states[1].mark.run)) == (None, RUN_LINES - 1)
    assert run.to_end().table() == Run(beats(0, HOUR)).to_end().table()


def test_names_of_ignored_events_are_those_that_the_database_has_by_now():
    """They are no part of a snapshot: the ledger knows them."""
    run = Run([*beats(0, HOUR)]).to_end()
    assert "names" not in run.snapshot()
