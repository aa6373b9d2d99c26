"""How far behind a log the commits are."""

from collections import deque

from processor.shell.operate.lag import MAX_MARKS, Lag


def test_what_is_committed_in_time_does_not_lag():
    """Bytes that are there and not committed are counted, and their age."""
    lag = Lag(0, 0, 0)
    lag.see(100, 10)
    assert (lag.bytes, lag.seconds(12), lag.is_catching_up) == (100, 2, False)
    lag.commit(100)
    assert (lag.bytes, lag.seconds(12)) == (0, 0)


def test_the_oldest_line_tells_the_seconds():
    """A log that grows all the time lags by the age of what is not committed, not for ever."""
    lag = Lag(0, 0, 0)
    for second in range(1, 1_000):
        lag.see(100 * second, second)
        lag.commit(100 * (second - 3))
        assert lag.seconds(second) == min(second - 1, 2)


def test_what_was_there_before_counts_from_the_first_look():
    """Until it is committed, the log is catching up."""
    lag = Lag(50, 200, 10)
    lag.see(300, 40)
    lag.commit(199)
    assert (lag.seconds(50), lag.is_catching_up) == (40, True)
    lag.commit(200)
    assert (lag.seconds(50), lag.is_catching_up) == (10, False)


def test_half_a_line_waits_without_a_lag_in_time():
    """Its bytes are there, but there is nothing to commit; what follows counts anew."""
    lag = Lag(0, 130, 0)
    lag.commit(100)
    lag.settle(100, 130, 5)
    assert (lag.bytes, lag.seconds(60), lag.is_catching_up) == (30, 0, False)
    lag.see(130, 60)
    assert lag.seconds(60) == 0
    lag.see(140, 61)
    assert lag.seconds(62) == 1
    lag.commit(140)
    assert (lag.bytes, lag.seconds(63)) == (0, 0)


def test_lines_before_half_a_line_still_count():
    """What is folded and not committed, because the database is away, grows older."""
    lag = Lag(0, 0, 0)
    lag.see(130, 10)
    lag.settle(100, 130, 12)
    assert lag.seconds(20) == 10
    lag.commit(100)
    assert lag.seconds(20) == 0


def test_a_log_that_was_cut_off_does_not_lag_for_ever():
    """Bytes that are gone are waited for no more; those left keep their age."""
    lag = Lag(0, 0, 0)
    lag.see(100, 10)
    lag.see(50, 20)
    assert (lag.bytes, lag.seconds(30)) == (50, 20)
    lag.commit(50)
    assert (lag.bytes, lag.seconds(30)) == (0, 0)


def test_memory_is_bounded_while_nothing_is_committed():
    """The oldest line keeps its age, however long the database is away."""
    lag = Lag(0, 0, 0)
    for second in range(1, 5 * MAX_MARKS):
        lag.see(second, second)
    assert lag.seconds(5 * MAX_MARKS) == 5 * MAX_MARKS - 1
    held = [value for value in vars(lag).values() if isinstance(value, deque)]
    assert sum(map(len, held)) <= MAX_MARKS
    lag.commit(5 * MAX_MARKS)
    assert lag.seconds(5 * MAX_MARKS) == 0
