"""Rates and the time left, from what is shown one after the other."""

from processor.shell.operate.watching import Rate, Rates, time_left
from processor.shell.report.report import LogLedger


def ledger(lines, offset, size=1_000):
    """Return the ledger of a log."""
    lag = None if size is None else size - offset
    return LogLedger("a.log", offset, size, lag, None, lines, lines, 0, 0, 0, {}, {})


def test_a_rate_is_that_of_the_last_seconds():
    """What was fast long ago does not show."""
    rates = Rates()
    assert rates.see(ledger(0, 0), 0) == Rate(0, 0)
    assert rates.see(ledger(100, 1_000), 5) == Rate(20, 200)
    assert rates.see(ledger(100, 1_000), 15) == Rate(0, 0)


def test_a_generation_that_is_not_as_far_begins_anew():
    """No rate is negative."""
    rates = Rates()
    rates.see(ledger(100, 1_000), 0)
    assert rates.see(ledger(10, 100), 1) == Rate(0, 0)
    assert rates.see(ledger(30, 300), 2) == Rate(20, 200)


def test_the_time_left_is_lag_by_rate():
    """Or why there is none."""
    assert time_left(ledger(0, 400), Rate(1, 10)) == "0:01:00"
    assert time_left(ledger(0, 1_000), Rate(1, 10)) == "caught up"
    assert time_left(ledger(0, 400), Rate(0, 0)) == "waits"
    assert time_left(ledger(0, 400, None), Rate(1, 10)) == "its file is gone"
