"""DuckDB: the whole report in one query over the whole log, on all cores.

Leaves out: going on where it stopped (each answer reads the log from its start), lateness, dead
letters with a reason (a broken line is skipped), the ledger, Postgres.
"""

import sys

import duckdb

QUERY = """
COPY (
    WITH events AS MATERIALIZED (
        SELECT DISTINCT
            event_id, event_type, customer_id, user_id,
            epoch(try_strptime(fired_at, '%m/%d/%Y, %H:%M:%S'))::BIGINT AS fired
        FROM read_json(
            $log, format = 'newline_delimited', ignore_errors = true, columns = {
                event_id: 'VARCHAR', event_type: 'VARCHAR', customer_id: 'BIGINT',
                user_id: 'BIGINT', fired_at: 'VARCHAR'
            }
        )
        WHERE event_type IN ('ReferralPageLoad', 'ReferralRecommendClick')
            AND event_id <> '' AND customer_id IS NOT NULL AND user_id IS NOT NULL
    ),
    loads AS (
        SELECT * FROM events WHERE event_type = 'ReferralPageLoad' AND fired IS NOT NULL
    ),
    clicks AS (
        SELECT * FROM events WHERE event_type = 'ReferralRecommendClick' AND fired IS NOT NULL
    ),
    pairs AS MATERIALIZED (
        SELECT event_id, customer_id, user_id, loads.fired AS loaded, clicks.fired AS clicked
        FROM loads JOIN clicks USING (event_id, customer_id, user_id)
        WHERE clicked BETWEEN loaded AND loaded + 1800
    ),
    parts AS (
        SELECT customer_id, fired - fired % 3600 AS hour, 1 AS page_loads, 0 AS clicks,
            NULL AS user_id, 0 AS related, 0 AS clicked FROM loads
        UNION ALL SELECT customer_id, fired - fired % 3600, 0, 1, user_id, 0, 0 FROM clicks
        UNION ALL SELECT customer_id, clicked - clicked % 3600, 0, 0, NULL, 1, 0
            FROM (SELECT DISTINCT event_id, customer_id, user_id, clicked FROM pairs)
        UNION ALL SELECT customer_id, loaded - loaded % 3600, 0, 0, NULL, 0, 1
            FROM (SELECT DISTINCT event_id, customer_id, user_id, loaded FROM pairs)
    )
    SELECT
        customer_id, strftime(make_timestamp(hour * 1000000), '%Y-%m-%dT%H:%M:%SZ') AS hour,
        sum(page_loads) AS page_loads, sum(clicks) AS clicks,
        count(DISTINCT user_id) AS unique_user_clicks, sum(related) AS related_clicks,
        sum(clicked) AS clicked_page_loads
    FROM parts GROUP BY ALL ORDER BY hour, customer_id
) TO '{out}' (HEADER)
"""


def main(log: str, out: str) -> None:
    """Make the report of a log."""
    duckdb.execute(QUERY.replace("$log", f"'{log}'").replace("{out}", out))


if __name__ == "__main__":
    main(*sys.argv[1:])
