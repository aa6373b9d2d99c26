"""The share of page loads that were clicked, and how sure one can be of it when they are few.

A share of few page loads says little: 1 of 1 is no better than 20 of 100. So each has an interval,
Wilson's of 95 %, in which the share would likely lie if there were many more; it stays between 0
and 1 and does not shrink to nothing at 0 of 3. Customers are ranked by the ends of these.

E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
"""

from collections.abc import Iterable
from math import sqrt
from typing import Final, NamedTuple

_Z: Final = 1.959964
"""So many standard deviations on both sides hold 95 % of a normal distribution."""

LEAST_RANKED: Final = 30
"""Customers with fewer page loads are not ranked: one click would move them past all others. Even
the lower end of 1 of 1 is 0.21, above what most customers have."""


class Interval(NamedTuple):
    """Two shares, between 0 and 1."""

    low: float
    high: float


class CustomerRate(NamedTuple):
    """How many page loads of a customer were clicked."""

    customer_id: int
    page_loads: int
    clicked_page_loads: int

    @property
    def rate(self) -> float:
        """The share of page loads that were clicked; there must be one."""
        return self.clicked_page_loads / self.page_loads

    @property
    def interval(self) -> Interval:
        """Where it likely lies; there must be a page load."""
        return wilson(self.clicked_page_loads, self.page_loads)


class Ranking(NamedTuple):
    """Customers by their rates; those of the `lowest` are not among the `highest`."""

    highest: list[CustomerRate]
    between: int
    lowest: list[CustomerRate]
    too_few: int


def wilson(clicked: int, page_loads: int) -> Interval:
    """Return the interval of 95 % of a share of `page_loads`, of which there is one at least."""
    share, spread = clicked / page_loads, _Z * _Z / page_loads
    middle = share + spread / 2
    half = sqrt(spread * (share * (1 - share) + spread / 4))
    return Interval(
        max((middle - half) / (1 + spread), 0.0), min((middle + half) / (1 + spread), 1.0)
    )


def rank(customers: Iterable[CustomerRate], at_each_end: int) -> Ranking:
    """Return so many customers with the highest and with the lowest rates, each highest first.

    Of the highest, the lower ends of the intervals count, of the lowest the upper ends: few page
    loads bring nobody to either end.
    """
    known = list(customers)
    ranked = sorted(
        (customer for customer in known if customer.page_loads >= LEAST_RANKED),
        key=lambda customer: (-customer.interval.low, customer.customer_id),
    )
    highest, others = ranked[:at_each_end], ranked[at_each_end:]
    others.sort(key=lambda customer: (-customer.interval.high, customer.customer_id))
    lowest = others[-at_each_end:]
    return Ranking(highest, len(others) - len(lowest), lowest, len(known) - len(ranked))
