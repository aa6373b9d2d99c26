"""The report straight from its set definitions, sharing no code with the package."""

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

ISO_HOUR = "%Y-%m-%dT%H:00:00Z"
RUN_LINES = 32


def event_of(line):
    """Return (event_id, type, customer, user, instant) of a line that counts, else None."""
    try:
        fields = json.loads(line)
        event = fields["event_id"], fields["event_type"], fields["customer_id"], fields["user_id"]
        event_id, event_type, customer, user = event
        if event_type not in ("ReferralPageLoad", "ReferralRecommendClick"):
            return None
        if not isinstance(event_id, str) or not 0 < len(event_id) <= 256:
            return None
        for number in (customer, user):
            if type(number) is not int or not -(2**63) <= number < 2**63:
                return None
        return *event, instant_of(fields["fired_at"])
    except (ValueError, LookupError, TypeError):
        return None


@lru_cache(maxsize=100_000)
def instant_of(text):
    """Return the instant that a log's time names."""
    if "/" in text:
        if len(text) != len("MM/DD/YYYY, HH:MM:SS"):  # strptime is not so strict
            raise ValueError(text)
        return datetime.strptime(text, "%m/%d/%Y, %H:%M:%S").replace(tzinfo=UTC)
    instant = datetime.fromisoformat(text)
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)


def on_time(events, lateness):
    """Keep the events of one log that are not late, in the order of its lines."""
    watermark, far_ahead = None, []
    for event in events:
        instant = event[-1]
        if watermark is not None and instant < watermark - lateness:
            continue
        yield event
        if watermark is not None and instant <= watermark + lateness:
            watermark, far_ahead = max(watermark, instant), []
            continue
        far_ahead.append(instant)
        if len(far_ahead) == RUN_LINES:
            first = sorted(far_ahead)[RUN_LINES // 2 - 1]
            watermark, far_ahead = first if watermark is None else min(far_ahead), []


def report(*logs, window=timedelta(minutes=30), lateness=timedelta(minutes=10)):
    """Return {(customer, hour): the five counts} over logs that are sequences of lines."""
    events = {
        event
        for log in logs
        for event in on_time([e for e in map(event_of, log) if e is not None], lateness)
    }
    loads, clicks = defaultdict(set), defaultdict(set)
    for event_id, event_type, customer, user, instant in events:
        visits = loads if event_type == "ReferralPageLoad" else clicks
        visits[customer, user, event_id].add(instant)
    table, users = defaultdict(Counter), defaultdict(set)
    for visit, instants in loads.items():
        for loaded in instants:
            row = table[visit[0], loaded.strftime(ISO_HOUR)]
            row["page_loads"] += 1
            after = [c for c in clicks[visit] if timedelta(0) <= c - loaded <= window]
            row["clicked_page_loads"] += bool(after)
    for visit, instants in clicks.items():
        for clicked in instants:
            row = table[visit[0], clicked.strftime(ISO_HOUR)]
            row["clicks"] += 1
            before = [p for p in loads[visit] if timedelta(0) <= clicked - p <= window]
            row["related_clicks"] += bool(before)
            users[visit[0], clicked.strftime(ISO_HOUR)].add(visit[1])
    return {
        key: (
            row["page_loads"],
            row["clicks"],
            len(users[key]),
            row["related_clicks"],
            row["clicked_page_loads"],
        )
        for key, row in table.items()
    }


def lines_of(path):
    """Return the complete lines of a log file."""
    return Path(path).read_bytes().split(b"\n")[:-1]
