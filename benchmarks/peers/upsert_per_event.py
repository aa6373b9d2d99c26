"""A plain script: one statement per event into a PostgreSQL, which holds all state.

The database is named by PEER_DATABASE_URL; tables `peer_*` are made anew. Its statements are
pipelined and prepared, and committed every 1,000 lines, which is kinder to it than the usual commit
per event. Leaves out: the offset (after a crash it begins anew), a click that stands before its
page load in the log, lateness, dead letters (a broken line ends the run), the ledger, forgetting
(`peer_events` grows for ever).
"""

import os
import sys
from pathlib import Path

import orjson
import psycopg
from common import CLICK, LOAD, WINDOW_SECONDS, second_of, write_report

COMMIT_LINES = 1000
SCHEMA = """
DROP TABLE IF EXISTS peer_events, peer_users, peer_report;
CREATE TABLE peer_events (
    event_id text, event_type text, customer_id bigint, user_id bigint, at bigint,
    clicked boolean NOT NULL DEFAULT false,
    PRIMARY KEY (event_id, event_type, customer_id, user_id, at)
);
CREATE TABLE peer_users (
    customer_id bigint, hour bigint, user_id bigint, PRIMARY KEY (customer_id, hour, user_id)
);
CREATE TABLE peer_report (
    customer_id bigint, hour bigint, page_loads bigint NOT NULL, clicks bigint NOT NULL,
    unique_user_clicks bigint NOT NULL, related_clicks bigint NOT NULL,
    clicked_page_loads bigint NOT NULL, PRIMARY KEY (customer_id, hour)
);
"""
NEW = """
WITH new AS (
    INSERT INTO peer_events (event_id, event_type, customer_id, user_id, at)
    VALUES (%(event_id)s, %(event_type)s, %(customer_id)s, %(user_id)s, %(at)s)
    ON CONFLICT DO NOTHING RETURNING event_id, customer_id, user_id, at
)"""
UPSERT = """
ON CONFLICT (customer_id, hour) DO UPDATE SET
    page_loads = r.page_loads + excluded.page_loads, clicks = r.clicks + excluded.clicks,
    unique_user_clicks = r.unique_user_clicks + excluded.unique_user_clicks,
    related_clicks = r.related_clicks + excluded.related_clicks,
    clicked_page_loads = r.clicked_page_loads + excluded.clicked_page_loads
"""
ON_LOAD = f"""{NEW}
INSERT INTO peer_report AS r SELECT customer_id, at / 3600 * 3600, 1, 0, 0, 0, 0 FROM new
{UPSERT}"""  # noqa: S608 - made of constants
OF_VISIT = f"""
    e.event_type = '{LOAD}' AND (e.event_id, e.customer_id, e.user_id)
    = (new.event_id, new.customer_id, new.user_id)
    AND e.at BETWEEN new.at - {WINDOW_SECONDS} AND new.at"""
ON_CLICK = f"""{NEW},
first AS (
    INSERT INTO peer_users SELECT customer_id, at / 3600 * 3600, user_id FROM new
    ON CONFLICT DO NOTHING RETURNING customer_id
),
clicked AS (
    UPDATE peer_events AS e SET clicked = true FROM new WHERE NOT e.clicked AND {OF_VISIT}
    RETURNING e.customer_id, e.at
),
parts AS (
    SELECT customer_id, at / 3600 * 3600 AS hour, 1 AS clicks,
        (SELECT count(*) FROM first) AS users,
        EXISTS (SELECT FROM peer_events AS e WHERE {OF_VISIT})::int AS related, 0 AS clicked
    FROM new UNION ALL SELECT customer_id, at / 3600 * 3600, 0, 0, 0, 1 FROM clicked
)
INSERT INTO peer_report AS r
SELECT customer_id, hour, 0, sum(clicks), sum(users), sum(related), sum(clicked)
FROM parts GROUP BY customer_id, hour
{UPSERT}"""  # noqa: S608 - made of constants


def main(log: str, out: str) -> None:
    """Upsert each event of a log, then write the report."""
    with psycopg.connect(os.environ["PEER_DATABASE_URL"], prepare_threshold=0) as connection:
        connection.execute(SCHEMA, prepare=False)
        connection.commit()
        statements = {LOAD: ON_LOAD, CLICK: ON_CLICK}
        with connection.pipeline(), Path(log).open("rb") as lines:
            for number, line in enumerate(lines, 1):
                fields = orjson.loads(line)
                if statement := statements.get(fields["event_type"]):
                    fields["at"] = second_of(fields["fired_at"])
                    connection.execute(statement, fields)
                if number % COMMIT_LINES == 0:
                    connection.commit()
        connection.commit()
        write_report(out, connection.execute("SELECT * FROM peer_report").fetchall())


if __name__ == "__main__":
    main(*sys.argv[1:])
