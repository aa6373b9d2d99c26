"""An exact hourly report in Postgres from the event logs of referral pages."""
