"""Renders the page of the report: one HTML document that needs nothing beside it.

Its script and its styles are named in a content security policy by their hashes, so nothing else
runs, whatever a value may hold; and the template escapes each value. Nothing here reads a clock:
the same overview gives the same page.
"""

from base64 import b64encode
from datetime import datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from io import StringIO
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlencode

from markupsafe import Markup

from processor.core.model import MINUTE_US
from processor.core.rates import LEAST_RANKED, rank
from processor.edges.overview import MOST_CUSTOMERS, Choice, Overview, Series
from processor.shell.report.charts import bars, percent, rates
from processor.shell.report.figures import Figure, Figures
from processor.shell.report.hours import Zone
from processor.shell.report.report import ReportFormat, write_report

if TYPE_CHECKING:
    from jinja2 import Template

POLL_SECONDS: Final = 2
TABLE_ROWS: Final = 500
FILE_ROWS: Final = 20_000
FILE_CUSTOMERS: Final = 10
_AT_EACH_END: Final = 5
_LOGS_TOLD: Final = 5

_PARTS: Final = files("processor.shell.report") / "page_parts"


class Download(NamedTuple):
    """Links to the rows: as CSV, and where it is to be had as JSON."""

    csv: str
    json: str | None = None


class Charts(NamedTuple):
    """The charts of a customer, or of all, and the numbers behind them."""

    customer_id: int | None
    rates: Markup
    page_loads: Markup
    clicks: Markup
    figures: list[Figure]


def render(
    overview: Overview, zone: Zone, choice: Choice, download: Download | None, *, live: bool
) -> str:
    """Return the page; a `live` one follows the report, and lets its reader choose.

    Raises:
        SettingsError: the zone cannot show an hour of the report.

    """
    figures = Figures(overview, zone)
    rules = overview.rules
    return _template().render(
        live=live,
        policy=policy(),
        zone=zone,
        choice=choice,
        download=download,
        overview=overview,
        figures=figures,
        rows=figures.table(TABLE_ROWS),
        charts=[_charts(overview, series, figures) for series in _drawn(overview)],
        ranking=rank(overview.customers, _AT_EACH_END),
        window=_minutes(rules.attribution_window_us),
        lateness=_minutes(rules.allowed_lateness_us),
        settles_after=_minutes(-rules.settled_before(0)),
        shown=lambda moment: _shown(moment, zone),
        link=lambda customer: _link(customer, choice, zone),
    )


def policy() -> str:
    """Return the content security policy of the page."""
    return (
        "default-src 'none'; base-uri 'none'; form-action 'self'; connect-src 'self'; "
        f"script-src '{_hash('page.js')}'; style-src '{_hash('page.css')}'"
    )


def csv_link(overview: Overview, zone: Zone) -> Download | None:
    """Return a link that holds all rows; None if they are too many for that."""
    if overview.extent.rows > len(overview.latest):
        return None
    out = StringIO()
    write_report(Figures(overview, zone).report(), ReportFormat.CSV, out)
    return Download(f"data:text/csv;base64,{b64encode(out.getvalue().encode()).decode()}")


def _drawn(overview: Overview) -> list[Series]:
    """Return what to draw: of one customer, once."""
    return overview.series[:1] if overview.extent.customers == 1 else overview.series


def _charts(overview: Overview, series: Series, figures: Figures) -> Charts:
    shown = list(figures.of(series))
    periods = [figure.period for figure in shown]
    page_loads = [figure.counts.page_loads for figure in shown]
    clicks = {"clicks": [figure.counts.clicks for figure in shown]}
    if figures.unit == "hour":
        clicks["distinct users"] = [figure.counts.unique_user_clicks for figure in shown]
    shares = [figure.rate for figure in shown]
    by = f"by {figures.unit}"
    drawn_rates, drawn_loads, drawn_clicks = (
        rates(
            f"Click-through rate {by}, {_range(shares)}",
            periods,
            shares,
            [figure.interval and figure.interval.low for figure in shown],
            [figure.interval and figure.interval.high for figure in shown],
        ),
        bars(f"Page loads {by}, {sum(page_loads):,} in all", periods, {"page loads": page_loads}),
        bars(f"Clicks {by}, {sum(clicks['clicks']):,} in all", periods, clicks),
    )
    customer = overview.customers[0].customer_id if overview.extent.customers == 1 else None
    return Charts(
        series.customer_id if customer is None else customer,
        Markup(drawn_rates),  # noqa: S704 - drawn of numbers and times, which are escaped
        Markup(drawn_loads),  # noqa: S704 - as above
        Markup(drawn_clicks),  # noqa: S704 - as above
        shown,
    )


def _range(shares: list[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"from {percent(min(known))} to {percent(max(known))}" if known else "of no page loads"


def _shown(moment: datetime | None, zone: Zone) -> str:
    """Return a time as it is asked for, on the clock of the zone."""
    return moment.astimezone(zone.tz).isoformat()[: len("2022-01-01T00:00")] if moment else ""


def _link(customer_id: int, choice: Choice, zone: Zone) -> str:
    fields = {
        "customer": str(customer_id),
        "from": _shown(choice.start, zone),
        "to": _shown(choice.end, zone),
        "timezone": zone.name,
    }
    return f"?{urlencode({name: value for name, value in fields.items() if value})}"


def _minutes(microseconds: int) -> str:
    return f"{microseconds / MINUTE_US:g} minutes"


@cache
def _part(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")


def _hash(name: str) -> str:
    return f"sha256-{b64encode(sha256(_part(name).encode()).digest()).decode()}"


@cache
def _template() -> "Template":
    import jinja2  # noqa: PLC0415 - only who makes a page waits for it

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "grouped": "{:,}".format}
    environment.globals |= {
        "script": Markup(_part("page.js")),  # noqa: S704 - our own
        "styles": Markup(_part("page.css")),  # noqa: S704 - our own
        "every_seconds": POLL_SECONDS,
        "everything": Choice(),
        "logs_told": _LOGS_TOLD,
        "least_ranked": LEAST_RANKED,
        "most_customers": MOST_CUSTOMERS,
    }
    return environment.from_string(_part("page.html"))
