"""How sure one can be of a rate, and who is told to have the highest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core.rates import LEAST_RANKED, CustomerRate, rank, wilson


@pytest.mark.parametrize(
    ("clicked", "page_loads", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # by hand: with z² = 3.8415, the ends are 1 / (1 + z²), and z² / (1 + z²)
        (1, 1, 0.2065, 1.0000),
        (0, 1, 0.0000, 0.7935),
    ],
)
def test_the_interval_is_wilsons(clicked, page_loads, low, high):
    """As published, and as it comes out by hand where there is but one page load."""
    interval = wilson(clicked, page_loads)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 10**18).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_lies_between_0_and_1_and_holds_the_rate(counts):
    """However many page loads there are."""
    clicked, page_loads = counts
    low, high = wilson(clicked, page_loads)
    assert 0 <= low <= high <= 1
    assert low <= clicked / page_loads + 1e-12
    assert high >= clicked / page_loads - 1e-12


def test_few_page_loads_make_nobody_first_or_last():
    """1 of 1 and 0 of 1 are not ranked; 31 of 100 goes before 10 of 30, whose rate is higher."""
    customers = [
        CustomerRate(1, 1, 1),
        CustomerRate(2, 1, 0),
        CustomerRate(3, 100, 31),
        CustomerRate(4, LEAST_RANKED, 10),
        CustomerRate(5, 1_000, 20),
        CustomerRate(6, 40, 0),
    ]
    ranking = rank(customers, at_each_end=2)
    assert [customer.customer_id for customer in ranking.highest] == [3, 4]
    assert [customer.customer_id for customer in ranking.lowest] == [6, 5]
    assert (ranking.between, ranking.too_few) == (0, 2)
    assert customers[3].rate > customers[2].rate


def test_nobody_is_both_among_the_highest_and_the_lowest():
    """Three customers: two are highest, one is lowest; of nine, some are between."""
    customers = [CustomerRate(number, 100, 10 + number) for number in range(9)]
    few = rank(customers[:3], at_each_end=2)
    assert [c.customer_id for c in (*few.highest, *few.lowest)] == [2, 1, 0]
    many = rank(customers, at_each_end=2)
    assert [c.customer_id for c in (*many.highest, *many.lowest)] == [8, 7, 1, 0]
    assert many.between == 5
