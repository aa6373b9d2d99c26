"""What the peers share: the form of the report.

A report row is (customer_id, unix second of the hour, the five counts).
"""

import csv
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

COLUMNS = (
    "customer_id", "hour", "page_loads", "clicks", "unique_user_clicks", "related_clicks",
    "clicked_page_loads",
)  # fmt: skip
LOAD, CLICK = "ReferralPageLoad", "ReferralRecommendClick"
WINDOW_SECONDS = 1800
FIRED_AT = "%m/%d/%Y, %H:%M:%S"


@lru_cache(maxsize=1 << 17)
def second_of(fired_at: str) -> int:
    """Return the unix second that a log's time names; each distinct one is read once."""
    hour, minute, second = fired_at[12:].split(":")
    return _day(fired_at[:12]) + int(hour) * 3600 + int(minute) * 60 + int(second)


@lru_cache
def _day(date: str) -> int:
    return int(datetime.strptime(date, FIRED_AT[:10]).replace(tzinfo=UTC).timestamp())


def write_report(path: str, rows: Iterable[tuple[int, ...]]) -> None:
    """Write rows as CSV, by hour and customer."""
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(COLUMNS)
        for customer, hour, *counts in sorted(rows, key=lambda row: (row[1], row[0])):
            stamp = datetime.fromtimestamp(hour, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            out.writerow((customer, stamp, *counts))
