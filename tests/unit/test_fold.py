"""Lines in, commits out: the numbers, the ledger, what is refused, and what is kept."""

import pytest
from core_helpers import (
    DAY,
    HOUR,
    MINUTE,
    YEAR,
    Run,
    beats,
    chunk_of,
    click,
    event,
    items_held,
    log_of,
    page_load,
    us,
)
from oracle import report

from processor.core.contract import OTHER_NAMES
from processor.core.decode import Decoder
from processor.core.fold import MAX_AHEAD_LINES, first_instant, next_instant
from processor.core.log import MAX_IGNORED_NAMES, LogState
from processor.core.model import HOUR_US, Checkpoint, Chunk, Increment, Rules
from processor.core.watermark import RUN_LINES
from processor.errors import LedgerError

FAQ = event("FaqClick", 0)
STARTED = beats(0, RUN_LINES)[:1] * RUN_LINES
"""Lines after which the watermark stands at 0."""


def hour_of(at):
    return us(at) // HOUR_US


def rows(*logs, customer=7):
    """Return the rows of a customer, [(hour, five counts)], having asked the oracle too."""
    table = Run(*logs).to_end().table()
    assert table == report(*logs)
    return [
        (int(hour[11:13]), row) for (who, hour), row in sorted(table.items()) if who == customer
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([page_load(0)], [(0, (1, 0, 0, 0, 0))]),
        ([click(0)], [(0, (0, 1, 1, 0, 0))]),
        ([page_load(0), click(0)], [(0, (1, 1, 1, 1, 1))]),
        ([page_load(0), click(30 * MINUTE)], [(0, (1, 1, 1, 1, 1))]),
        ([page_load(0), click(30 * MINUTE + 1)], [(0, (1, 1, 1, 0, 0))]),
        ([page_load(0), click(30 * MINUTE + 0.000001)], [(0, (1, 1, 1, 0, 0))]),
        ([page_load(1), click(0)], [(0, (1, 1, 1, 0, 0))]),
        ([page_load(0), click(1), click(2)], [(0, (1, 2, 1, 2, 1))]),
        ([page_load(0), page_load(1), click(2)], [(0, (2, 1, 1, 1, 2))]),
        ([page_load(0, "a"), click(1, "b")], [(0, (1, 1, 1, 0, 0))]),
        ([page_load(0, user=1), click(1, user=2)], [(0, (1, 1, 1, 0, 0))]),
        ([page_load(0, customer=8), click(1)], [(0, (0, 1, 1, 0, 0))]),
        ([page_load(0), click(0, user=2), click(1)], [(0, (1, 2, 2, 1, 1))]),
        ([page_load(0, "1 1", 7, 1), click(0, "1", 7, 11)], [(0, (1, 1, 1, 0, 0))]),
    ],
)
def test_the_numbers_of_an_hour_are_those_of_their_definitions(lines, expected):
    """Each column, at each of its borders."""
    assert rows(lines) == expected


@pytest.mark.parametrize(
    ("loaded", "clicked", "expected"),
    [
        (HOUR - 1, HOUR, [(0, (1, 0, 0, 0, 1)), (1, (0, 1, 1, 1, 0))]),
        (DAY - 1, DAY + 60, [(0, (0, 1, 1, 1, 0)), (23, (1, 0, 0, 0, 1))]),
    ],
)
@pytest.mark.parametrize("logs", [1, 2])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_click_counts_in_its_own_hour_and_its_page_load_in_its_own(
    loaded, clicked, expected, logs, swapped
):
    """Across the hour and midnight, click first or page load first, in one log or in two."""
    lines = [click(clicked), page_load(loaded)] if swapped else [page_load(loaded), click(clicked)]
    split = [lines] if logs == 1 else [[line] for line in lines]
    assert sorted(rows(*split)) == expected


@pytest.mark.parametrize(
    "again",
    [
        page_load(0),
        page_load(0, email="somebody else"),
        page_load(0, fired_at="2022-01-01T00:00:00Z"),
        page_load(0, fired_at="2022-01-01T05:30:00+05:30"),
        b"\xef\xbb\xbf" + page_load(0) + b"\r",
    ],
)
@pytest.mark.parametrize("apart", [0, 1, 50])
@pytest.mark.parametrize("restart", [False, True])
def test_an_event_counts_once_however_often_it_is_delivered(again, apart, restart):
    """Next to each other, batches apart, across a restart, in whatever words."""
    run = Run([page_load(0), *[FAQ] * apart, again])
    run.read(1)
    run.cut()
    if restart:
        run.restart(1)
    run.to_end(batch_lines=1)
    assert run.table() == {(7, "2022-01-01T00:00:00Z"): (1, 0, 0, 0, 0)}
    assert (run.ledger()["applied", ""], run.ledger()["duplicate", ""]) == (1, 1)


def test_an_event_of_two_logs_counts_once():
    """The second log's line is a duplicate in its own ledger."""
    run = Run([page_load(0), click(1)], [page_load(0), click(1)]).to_end()
    assert run.table() == {(7, "2022-01-01T00:00:00Z"): (1, 1, 1, 1, 1)}
    assert (run.ledger(1), run.ledger(2)) == ({("applied", ""): 2}, {("duplicate", ""): 2})


def test_a_repeated_click_of_a_visit_that_was_never_loaded_counts_once():
    """A click whose page load was before the start of the log is a click all the same."""
    assert rows([click(5), click(5), click(6)]) == [(0, (0, 2, 1, 0, 0))]


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        (page_load(0), ("applied", "")),
        (FAQ, ("ignored", "FaqClick")),
        (event("", 0), ("dead_letter", "event_type")),
        (event("EMPTY_VALUE", 0), ("dead_letter", "event_type")),
        (b"", ("dead_letter", "malformed")),
        (b"null", ("dead_letter", "malformed")),
        (page_load(0, user="1"), ("dead_letter", "invalid")),
        (page_load(-10 * MINUTE), ("applied", "")),
        (page_load(-10 * MINUTE - 1), ("dead_letter", "late")),
        (page_load(-YEAR), ("dead_letter", "late")),
        (page_load(YEAR), ("applied", "")),
        (b"x" * 2_000, ("dead_letter", "too_long")),
    ],
)
def test_every_line_has_one_outcome(line, outcome):
    """A line that does not count is accounted for where it lies, and its neighbours count."""
    lines = [*STARTED, line, page_load(1, "next")]
    run = Run(lines, block_bytes=1_024).to_end()
    assert run.ledger() == run_ledger_with(outcome)
    letters = [(len(log_of(STARTED)), len(line), outcome[1])] if outcome[0] == "dead_letter" else []
    assert [letter[:3] for letter in run.dead_letters()] == letters
    assert run.checkpoint().byte_offset == len(log_of(lines))


def run_ledger_with(outcome):
    ledger = {("applied", ""): 2, ("duplicate", ""): RUN_LINES - 1}
    return ledger | {outcome: ledger.get(outcome, 0) + 1}


def test_a_line_of_which_one_digit_is_wrong_does_not_make_the_others_late():
    """A clock a year ahead, also in the very first line, is counted and moves nothing."""
    wild = page_load(YEAR, "wild")
    lines = [wild, *beats(0, HOUR), *[wild] * 31, click(HOUR), *[wild] * 31, page_load(HOUR)]
    run = Run(lines).to_end(batch_lines=7)
    assert run.table() == report(lines)
    assert ("dead_letter", "late") not in run.ledger()
    assert run.checkpoint().watermark == us(HOUR)


def test_a_log_that_was_silent_for_days_goes_on():
    """Its first lines afterwards count, and soon what lies before them is late."""
    lines = [*beats(0, HOUR), *beats(3 * DAY, 3 * DAY + HOUR), page_load(HOUR, "late")]
    run = Run(lines).to_end(batch_lines=7)
    assert run.table() == report(lines)
    assert run.ledger() == {("applied", ""): 120, ("dead_letter", "late"): 1}


def test_events_of_the_first_and_last_year_are_counted():
    """No instant of the calendar breaks the arithmetic."""
    lines = [
        page_load(0, fired_at="01/01/0001, 00:00:00"),
        click(0, fired_at="0001-01-01T05:30:00+05:30"),
        click(0, fired_at="12/31/9999, 23:59:59"),
    ]
    assert Run(lines).to_end().commits[0].increments == (
        Increment(7, -719_162 * 24, 1, 1, 1, 1, 1),
        Increment(7, 2_932_897 * 24 - 1, 0, 1, 1, 0, 0),
    )


def test_the_lines_ahead_of_the_watermark_are_limited_in_number():
    """Beyond the limit a line ahead is a dead letter; one that is in order is not."""
    runs = -(-MAX_AHEAD_LINES // (RUN_LINES - 1)) + 1
    ahead = [page_load(YEAR)] * (RUN_LINES - 1)
    lines = [*STARTED, *[line for _ in range(runs) for line in (*ahead, page_load(0))]]
    run = Run(lines).to_end(batch_lines=1_000)
    refused = runs * (RUN_LINES - 1) - MAX_AHEAD_LINES
    assert run.ledger()["dead_letter", "ahead"] == refused
    assert len(run.checkpoint().ahead_offsets) <= MAX_AHEAD_LINES
    assert run.states[1].ahead_lines == MAX_AHEAD_LINES
    run.restart(len(run.commits))
    assert run.states[1].ahead_lines == MAX_AHEAD_LINES


def test_event_types_are_counted_by_name_up_to_a_limit():
    """A thousand names become a hundred, and what is left over counts together."""
    run = Run([event(f"Type{n % 1_000}", 0) for n in range(2_000)]).to_end(batch_lines=90)
    ledger = run.ledger()
    assert ledger == {("ignored", f"Type{n}"): 2 for n in range(MAX_IGNORED_NAMES)} | {
        ("ignored", OTHER_NAMES): 2 * (1_000 - MAX_IGNORED_NAMES)
    }


@pytest.mark.parametrize(
    ("event_type", "name"),
    [
        ("FaqClick", "FaqClick"),
        ("a" * 64, "a" * 64),
        ("a" * 65, OTHER_NAMES),
        ("1st", OTHER_NAMES),
        ("FaqClick\n", OTHER_NAMES),
        ("<script>", OTHER_NAMES),
        ("\x1b[31m", OTHER_NAMES),
        ("=cmd()", OTHER_NAMES),
        ("somebody@example", OTHER_NAMES),
        ("\u202eFaq", OTHER_NAMES),
        ("Straße", OTHER_NAMES),
    ],
)
def test_only_what_looks_like_a_name_is_counted_by_name(event_type, name):
    """Names come from the log, and go where markup and terminals are."""
    assert Run([event(event_type, 0)]).to_end().ledger() == {("ignored", name): 1}


def test_names_survive_a_restart():
    """The names known before are those that stay; no new one takes their place."""
    lines = [event(f"Type{n}", 0) for n in range(MAX_IGNORED_NAMES + 1)]
    run = Run([*lines, *lines])
    run.read(MAX_IGNORED_NAMES)
    run.cut()
    run.restart(1)
    assert run.to_end().ledger()["ignored", OTHER_NAMES] == 2


def test_a_batch_that_read_nothing_commits_nothing():
    """There is no empty transaction."""
    run = Run([page_load(0)], [])
    assert run.fold.cut() is None
    run.read()
    assert [log.log_id for log in run.fold.cut().logs] == [1]
    assert run.fold.cut() is None


def test_a_commit_orders_its_keys_and_says_what_it_starts_from():
    """Two writers cannot deadlock, and the offset that is compared is that of the batch before."""
    run = Run([page_load(HOUR, customer=9), page_load(0, customer=9), page_load(0, customer=-1)])
    run.read(2)
    run.cut()
    run.to_end()
    first, second = run.commits
    assert [row[:2] for row in first.increments] == [
        (9, us(0) // 3_600_000_000 + h) for h in (0, 1)
    ]
    assert second.logs[0].from_offset == first.logs[0].checkpoint.byte_offset
    assert (first.lines, second.lines) == (2, 1)


def test_a_line_that_comes_out_of_nowhere_stops_the_commit():
    """A ledger that does not add up is a defect, and is not written down."""
    state = LogState(3, Checkpoint())
    state.lines, state.offset = 2, 99
    state.outcomes["applied", ""] = 1
    with pytest.raises(LedgerError, match="log 3, bytes 0 to 99: 2 lines went in, 1 came out"):
        state.commit()


def test_the_working_state_does_not_grow_with_the_log():
    """A day of visits holds no more than its first hours did."""
    run = Run(
        [
            line
            for at in range(0, DAY, 30)
            for line in (page_load(at, f"{at}", user=at), click(at, f"{at}", user=at))
        ]
    )
    held, visits = [], []
    while run.read(20):
        run.cut()
        held.append(items_held(run.fold) + items_held(run.states[1]))
        visits.append(run.fold.open_visits)
    hour = len(held) // 24
    assert max(held[3 * hour :]) <= 1.01 * max(held[: 3 * hour])
    assert max(visits) <= (40 + 2 + 5) * 2


def test_little_is_folded_again_after_a_restart():
    """No more than the horizon and the hour that is open: less than two hours of the log."""
    run = Run(beats(0, DAY, 10)).to_end(batch_lines=10)
    checkpoint = run.checkpoint()
    assert checkpoint.watermark == us(DAY - 10)
    assert checkpoint.watermark - checkpoint.rebuild_watermark < 2 * HOUR_US
    assert checkpoint.ahead_offsets == ()


def test_lines_ahead_are_remembered_until_event_time_has_come_to_them():
    """They are found again after a restart, and are let go once they are the past."""
    lines = [*STARTED, page_load(6 * HOUR, "early"), *beats(60, 6 * HOUR)]
    log = [*lines, click(6 * HOUR, "early"), *beats(6 * HOUR, 9 * HOUR)]
    run = Run(log)
    run.readers[1].visible = len(log_of(lines))
    run.to_end(batch_lines=5)
    assert run.checkpoint().ahead_offsets == (len(log_of(STARTED)),)
    run.restart(len(run.commits))
    assert run.states[1].ahead_lines == 1
    run.read(1)
    run.cut()
    assert run.checkpoint().ahead_offsets == (len(log_of(STARTED)),)
    run.restart(len(run.commits))
    run.to_end(batch_lines=5)
    assert run.table() == report(log)
    assert run.checkpoint().ahead_offsets == ()


def test_a_line_that_is_no_event_is_recalled_as_nothing():
    """A log that was changed does not break the rebuild; its end is compared afterwards."""
    run = Run([FAQ])
    run.fold.recall(run.states[1], 0, run.decode(chunk_of([FAQ])))
    assert (run.fold.open_visits, run.states[1].ahead_lines) == (0, 0)


def test_a_rebuilt_state_knows_the_users_of_the_hours_that_are_open():
    """A user who clicked before the restart is not counted as another one."""
    first, second = beats(0, HOUR, 10), beats(HOUR, 2 * HOUR, 10)
    log = [*first, click(HOUR + 1, "a"), *second, click(2 * HOUR - 1, "b")]
    run = Run(log)
    run.readers[1].visible = len(log_of(log[:-1]))
    run.to_end(batch_lines=5)
    run.restart(len(run.commits))
    assert run.to_end().table()[7, "2022-01-01T01:00:00Z"] == (0, 2, 1, 0, 0)


def test_a_log_in_its_first_run_keeps_the_state_that_it_shares():
    """Nothing of a log without a watermark is late, so nothing that it may need is evicted."""
    ahead = [page_load(0), *beats(0, 6 * HOUR)]
    behind = [page_load(1, "other"), click(5 * MINUTE)]
    run = Run(ahead, behind).to_end(batch_lines=len(ahead) + 1)
    assert run.table() == report(ahead, behind)


def test_a_chunk_that_ends_in_a_wild_line_is_kept_like_any_other():
    """What it held is not evicted, so its duplicate is known as one."""
    run = Run([*STARTED, page_load(MINUTE), page_load(YEAR, "wild"), page_load(MINUTE)])
    run.read(RUN_LINES + 2)
    run.cut()
    assert run.to_end().table()[7, "2022-01-01T00:00:00Z"] == (1, 0, 0, 0, 0)


def test_an_empty_chunk_of_an_over_long_line_is_one_line():
    """It counts as one, from its offset to its end without the newline."""
    run = Run([])
    run.take_in(run.states[1], Chunk(0, b"", 1, 101))
    run.cut()
    assert run.dead_letters()[0][:3] == (0, 100, "too_long")
    assert run.ledger() == {("dead_letter", "too_long"): 1}


def test_a_log_is_known_to_start_at_the_earliest_line_of_its_first_run():
    """Of the lines that count; not known before there are as many as make a run."""
    lines = [FAQ, b"", *beats(HOUR, 3 * HOUR), page_load(0)]
    assert starts_at(lines) == us(HOUR)
    assert starts_at([*beats(MINUTE, HOUR), page_load(0)]) == us(MINUTE)
    assert starts_at([page_load(MINUTE)] * (RUN_LINES - 1)) is None
    assert starts_at([FAQ, b""]) is None


def starts_at(lines):
    return first_instant(Decoder().decode(chunk_of(lines)).instants)


@pytest.mark.parametrize(
    ("instants", "goes_on"),
    [
        ([], 100),
        ([90, 105], 100),
        ([105, 900], 105),
        ([900] * (RUN_LINES - 1), 100),
        ([900] * RUN_LINES, 900),
    ],
    ids=["nothing", "behind", "near", "few that may be wild", "a run"],
)
def test_a_log_goes_on_where_its_next_lines_are_unless_they_may_all_be_wild(instants, goes_on):
    """From the watermark 100, with a lateness of 10."""
    assert next_instant(instants, 100, 10) == goes_on


def two_logs(starts_at):
    """Return a fold whose first log has come to six hours, and the state of a log beside it."""
    run = Run(beats(0, 6 * HOUR))
    beside = run.fold.open(2, Checkpoint(), starts_at=starts_at)
    run.to_end()
    return run, beside


def test_a_log_that_starts_late_holds_the_state_from_its_start_on():
    """Until it has a watermark; without a known start, everything is held."""
    assert two_logs(None)[0].fold.open_visits == 6 * 60
    assert two_logs(us(3 * HOUR))[0].fold.open_visits == pytest.approx(3 * 60 + 40, abs=2)


def test_a_line_before_what_is_remembered_is_late_and_never_miscounted():
    """A log that turns out to start earlier than it was known to."""
    run, beside = two_logs(us(3 * HOUR))
    lines = [page_load(2 * HOUR), page_load(3 * HOUR), click(2 * HOUR)]
    run.take_in(beside, chunk_of(lines))
    commit = run.fold.cut()
    assert commit.increments == (Increment(7, hour_of(3 * HOUR), 1, 0, 0, 0, 0),)
    assert [(letter.byte_offset, letter.reason) for letter in commit.logs[0].dead_letters] == [
        (0, "late"),
        (len(log_of(lines[:2])), "late"),
    ]


def test_a_log_that_is_let_go_leaves_its_visits_and_holds_nothing_back():
    """What it shared is still known to the others, as long as they may need it."""
    first, second = [page_load(0), *beats(0, HOUR)], [click(MINUTE), *beats(0, 3 * HOUR)]
    run = Run(first, second)
    run.take_in(run.states[1], run.readers[1].read())
    run.cut()
    run.fold.release(run.states[1])
    while chunk := run.readers[2].read(10):
        run.take_in(run.states[2], chunk)
        run.cut()
    assert run.table() == report(first, second)
    assert run.fold.open_visits < 2 * HOUR // MINUTE


def test_a_log_that_is_finished_holds_nothing_back_and_is_committed_still():
    """So a hundred logs of a hundred days take the memory of one."""
    first, second = [page_load(0), *beats(0, HOUR)], [*beats(0, 3 * HOUR)]
    run = Run(first, second)
    run.take_in(run.states[1], run.readers[1].read())
    run.fold.finish(run.states[1])
    while chunk := run.readers[2].read(10):
        run.take_in(run.states[2], chunk)
        run.cut()
    assert run.table() == report(first, second)
    assert run.checkpoint(1).byte_offset == len(log_of(first))
    assert run.fold.open_visits < 2 * HOUR // MINUTE


def test_a_byte_order_mark_before_a_line_changes_nothing():
    """Of a click as of a page load."""
    lines = [page_load(0), click(1)]
    marked = [b"\xef\xbb\xbf" + line for line in lines]
    assert Run(marked).to_end().table() == report(lines)


def test_a_log_that_goes_on_after_a_silence_has_come_to_where_it_goes_on():
    """Until its watermark has moved on."""
    silent = Checkpoint(10, us(0), 10, us(0))
    assert LogState(1, silent).event_time == us(0)
    assert LogState(1, silent, starts_at=us(HOUR)).event_time == us(HOUR)
    assert LogState(1, silent, starts_at=us(-HOUR)).event_time == us(0)


@pytest.mark.parametrize("mark", [99 * MINUTE + 59, 100 * MINUTE])
def test_what_ends_before_the_settled_instant_is_not_changed_any_more(mark):
    """A click as late as it may be, of a page load as old as it may be, is the last that can."""
    lines = [*STARTED, page_load(HOUR - 1, "visit"), *beats(0, mark), page_load(mark, "last")]
    before = dict(rows(lines))
    after = dict(rows([*lines, click(HOUR - 1 + 30 * MINUTE, "visit")]))
    is_settled = us(HOUR) <= Rules().settled_before(us(mark))
    assert is_settled == (mark == 100 * MINUTE)
    assert (after[0] == before[0]) == is_settled
