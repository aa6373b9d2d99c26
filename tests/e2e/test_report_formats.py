"""The report in other formats, in a zone, by day, and as a page in a file."""

import json
import re
import sys
from base64 import b64decode
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser

import duckdb
import psycopg
import pytest
from conftest import HOSTILE_NAME
from oracle import lines_of

from processor.edges.overview import Choice
from processor.shell.report.commands import page_of
from processor.shell.report.hours import MAX_HOURS, Zone

COLUMNS = (
    "customer_id,hour,page_loads,clicks,unique_user_clicks,related_clicks,clicked_page_loads,"
    "click_through_rate"
)


@pytest.fixture
def folded(folded_url, command):
    """The command, with a report of 30 hours."""
    command.environment["PROCESSOR_DATABASE_URL"] = folded_url
    return command


def csv_of(command, *options):
    return command("report", "--format", "csv", *options).stdout


def test_markdown_says_what_csv_says(folded):
    """A table that Markdown shows, with numbers to the right; what is empty stays empty."""
    lines = folded("report", "--format", "markdown").stdout.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    expected = [line.split(",") for line in csv_of(folded).splitlines()]
    assert rows[0] == [name.replace("_", " ") for name in expected[0]]
    assert rows[1] == ["--:", ":--", *["--:"] * 6]
    assert rows[2:] == expected[1:]


def test_parquet_says_what_csv_says(folded, tmp_path):
    """Numbers as numbers, hours as instants, rates to the millionth."""
    (tmp_path / "app.log").write_text(
        '{"event_id":"v","customer_id":5,"fired_at":"2022-01-01T00:00:00Z","user_id":1,'
        '"event_type":"ReferralRecommendClick"}\n'
    )
    folded(
        "report", "--format", "parquet", "--output", "report.parquet", "--timezone", "Asia/Tokyo"
    )
    rows = duckdb.sql(
        f"SELECT * REPLACE (strftime(hour AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%SZ') AS hour) "
        f"FROM '{tmp_path / 'report.parquet'}'"
    )
    found = [",".join("" if v is None else str(v) for v in row) for row in rows.fetchall()]
    assert found == csv_of(folded).splitlines()[1:]
    types = dict(zip(rows.columns, map(str, rows.types), strict=True))
    assert {types[name] for name in COLUMNS.split(",")[2:7]} == {"BIGINT"}
    assert types["click_through_rate"] == "DECIMAL(7,6)"
    assert [path.name for path in tmp_path.glob("*report*")] == ["report.parquet"]


def test_parquet_goes_through_pipes_and_links(folded, tmp_path):
    """As other formats do; a link stays one."""
    (tmp_path / "link").symlink_to("report.parquet")
    folded("report", "--format", "parquet", "--output", "link")
    assert (tmp_path / "link").is_symlink()
    piped = folded("report", "--format", "parquet", "--output", "/dev/stdout", text=False).stdout
    (tmp_path / "piped.parquet").write_bytes(piped)
    query = "SELECT * FROM '{}' EXCEPT SELECT * FROM '{}'"
    paths = tmp_path / "report.parquet", tmp_path / "piped.parquet"
    assert duckdb.sql(query.format(*paths)).fetchall() == []
    assert duckdb.sql(query.format(*reversed(paths))).fetchall() == []
    assert duckdb.sql(f"SELECT count(*) FROM '{paths[0]}'").fetchone()[0] > 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "parquet"], "--output"),
        (["--format", "parquet", "--output", "no/such/folder"], "cannot be written"),
        (["--format", "html", "--daily"], "--daily"),
        (["--format", "html", "--timezone", "Asia/Kolkata"], "+5:30:00 from UTC"),
        (["--timezone", "Asia/Kolkata", "--daily"], "+5:30:00 from UTC"),
        (["--timezone", "Mars/Base"], "no such time zone"),
        (["--customer", str(1 << 63)], "--customer: is a whole number of 64 bits"),
        (["--timezone", "Australia/Lord_Howe", "--from", "2022-07-01"], None),
    ],
)
def test_what_cannot_be_done_is_said_in_words(folded, tmp_path, options, words):
    """Exit code 2, one line, and no file; hours that are not asked for are in nobody's way."""
    if words is None:
        assert folded("report", *options).returncode == 0
        return
    stderr = folded("report", *options, exit_code=2).stderr
    assert words in stderr
    assert "Traceback" not in stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"app.log", "checkpoints"}


def test_parquet_without_duckdb_says_what_to_install(folded):
    """It is an extra; nothing else needs it."""
    script = (
        "import sys; sys.modules['duckdb'] = None; from processor.shell.cli import main; main()"
    )
    arguments = ("report", "--format", "parquet", "--output", "report.parquet")
    stderr = folded(*arguments, program=("-c", script), exit_code=2).stderr
    assert "install duckdb" in stderr
    folded("report", program=("-c", script))
    assert sys.modules.get("duckdb") is duckdb


def test_hours_are_shown_in_a_zone_and_chosen_by_its_clock(folded):
    """The same rows, at the same instants; a time without an offset is one of the zone."""
    in_utc = [line.split(",") for line in csv_of(folded).splitlines()[1:]]
    in_tokyo = [
        line.split(",") for line in csv_of(folded, "--timezone", "Asia/Tokyo").splitlines()[1:]
    ]
    assert in_tokyo[0][1] == "2022-01-01T09:00:00+09:00"
    for one, other in zip(in_utc, in_tokyo, strict=True):
        assert datetime.fromisoformat(one[1]) == datetime.fromisoformat(other[1])
        assert one[0] == other[0]
        assert one[2:] == other[2:]
    chosen = csv_of(
        folded,
        "--timezone",
        "Asia/Tokyo",
        "--from",
        "2022-01-01T10:00",
        "--to",
        "2022-01-01T02:00Z",
    )
    assert {line.split(",")[1] for line in chosen.splitlines()[1:]} == {"2022-01-01T10:00:00+09:00"}


def test_a_zone_in_a_settings_file_is_that_of_the_log(folded, tmp_path):
    """`timezone` shapes the numbers of a run; a report shows another one only if told so."""
    (tmp_path / "settings.toml").write_text("timezone = 'Asia/Kolkata'\n")
    assert folded("--config", "settings.toml", "report", "--format", "csv").stdout == csv_of(folded)
    (tmp_path / "settings.toml").write_text("[report]\ntimezone = 'Asia/Tokyo'\n")
    shown = folded("--config", "settings.toml", "report", "--format", "csv").stdout
    assert shown == csv_of(folded, "--timezone", "Asia/Tokyo")


def test_days_leave_out_what_cannot_be_added_up(folded):
    """Sums of the hours, the rate of the sums, and no users."""
    hours = json.loads(folded("report", "--format", "json").stdout)
    days = json.loads(folded("report", "--format", "json", "--daily").stdout)
    assert [(day["day"], day["customer_id"]) for day in days] == sorted(
        {(hour["hour"][:10], hour["customer_id"]) for hour in hours}
    )
    for day in days:
        of_day = [
            hour
            for hour in hours
            if hour["customer_id"] == day["customer_id"] and hour["hour"].startswith(day["day"])
        ]
        for name in ("page_loads", "clicks", "related_clicks", "clicked_page_loads"):
            assert day[name] == sum(hour[name] for hour in of_day)
        assert day["unique_user_clicks"] is None
        rate = day["clicked_page_loads"] / day["page_loads"]
        assert day["click_through_rate"] == pytest.approx(rate, abs=5e-7)
    text = csv_of(folded, "--daily").splitlines()
    assert text[0] == COLUMNS.replace("hour", "day")
    assert {line.split(",")[4] for line in text[1:]} == {""}


class Page(HTMLParser):
    """What a page says, without what draws it."""

    def __init__(self, text):
        """Read it."""
        super().__init__()
        self.links, self.tables, self.tags, self.told = [], [], [], []
        self._words = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Take note of what is asked about."""
        values = dict(attributes)
        self.tags.append(tag)
        if tag == "a":
            self.links.append(values["href"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if "aria-label" in values:
            self.told.append(values["aria-label"])
        self._words = []

    def handle_data(self, data):
        """Take note of words."""
        self._words.append(data)

    def handle_endtag(self, tag):
        """Take note of a cell."""
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("".join(self._words).strip())


def html_of(command, **chosen):
    """The page as `report --format html` writes it."""
    url = command.environment["PROCESSOR_DATABASE_URL"]
    return page_of(lambda: psycopg.connect(url, autocommit=True), Choice(**chosen), Zone("UTC"))


def test_the_page_shows_the_rows_of_the_report(folded):
    """Latest first, and the CSV that it carries is the report."""
    folded("report", "--format", "html", "--output", "report.html")
    html = (folded.folder / "report.html").read_text()
    assert html == html_of(folded)
    page = Page(html)
    expected = csv_of(folded)
    data = next(link for link in page.links if link.startswith("data:"))
    assert b64decode(data.partition("base64,")[2]).decode() == expected
    rows = [line.split(",") for line in expected.splitlines()[1:]]
    rows.sort(key=lambda row: (row[1], -int(row[0])), reverse=True)
    assert [row[:7] for row in page.tables[-1][1:]] == [
        [row[0], row[1][:16].replace("T", " "), *row[2:7]] for row in rows
    ]
    assert all(
        cells[7] == f"{float(row[7]) * 100:.1f}\N{NO-BREAK SPACE}%"
        for cells, row in zip(page.tables[-1][1:], rows, strict=True)
    )


def test_the_page_marks_hours_that_lines_to_come_may_change(command, make_log):
    """Those that end less than lateness and attribution window before the watermark."""
    command("run", "--once", make_log(events=2_000, hours=30))
    last = datetime.fromisoformat(command.status()[0]["watermark"])
    settled_at = last.timestamp() - (10 + 30) * 60
    states = {}
    for cells in Page(html_of(command)).tables[-1][1:]:
        begin = datetime.fromisoformat(cells[1] + "Z").timestamp()
        states.setdefault(cells[8], set()).add(begin + 3600 > settled_at)
    assert states == {"open": {True}, "settled": {False}}
    more = lines_of(make_log("more.log", events=20, hours=1))
    (command.folder / "few.log").write_bytes(b"".join(line + b"\n" for line in more))
    command("run", "--once", "app.log", "few.log")
    assert {cells[8] for cells in Page(html_of(command)).tables[-1][1:]} == {"open"}


def test_the_page_never_adds_up_users_over_hours(command, make_log):
    """By hour it draws them, each once a customer; by day it does not, and says why."""
    command("run", "--once", make_log(events=2_000, hours=MAX_HOURS + 9, customers=2))
    by_day = Page(html_of(command))
    assert any(words.startswith("Click-through rate by day") for words in by_day.told)
    assert "Distinct users" not in by_day.tables[0][0]
    by_hour = Page(
        html_of(
            command,
            start=datetime(2022, 1, 2, tzinfo=UTC),
            end=datetime(2022, 1, 3, tzinfo=UTC),
        )
    )
    assert by_hour.tables[0][0][3] == "Distinct users"
    rows = [line.split(",") for line in csv_of(command, "--to", "2022-01-03").splitlines()[1:]]
    noon = [int(row[4]) for row in rows if row[1] == "2022-01-02T12:00:00Z"]
    shown = {cells[0][:16]: cells for cells in by_hour.tables[0][1:]}
    assert int(shown["2022-01-02 12:00"][3]) == sum(noon)


def test_a_page_without_rows_or_rates_says_so(command, tmp_path):
    """No hours are chosen; a click alone; a single customer."""
    (tmp_path / "app.log").write_text(
        '{"event_id":"v","customer_id":5,"fired_at":"2022-01-01T00:00:00Z","user_id":1,'
        '"event_type":"ReferralRecommendClick"}\n'
    )
    assert "no report in this database" in command("report", "--format", "html", exit_code=1).stderr
    command("run", "--once", "app.log")
    assert "no click-through rate" in html_of(command)
    assert Page(html_of(command)).tables[-1][1][7] == "\u2013"
    nothing = html_of(command, customers=(6,))
    assert "There are no such hours in the report." in nothing


def test_a_page_of_many_rows_shows_the_latest_and_says_so(command, make_log):
    """The CSV has them all."""
    command("run", "--once", make_log(events=6_000, hours=60, customers=20))
    text = html_of(command)
    rows = len(csv_of(command).splitlines()) - 1
    assert f"These are the 500 latest of {rows:,} rows. The CSV has them all." in text
    assert len(Page(text).tables[-1]) == 501


def test_a_hostile_name_of_a_log_is_text(folded):
    """It is shown as it is, and is no markup."""
    text = html_of(folded)
    assert HOSTILE_NAME not in text
    assert f"<code>{HOSTILE_NAME}</code>" in unescape(text)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags


def test_the_page_holds_no_personal_data_and_loads_nothing(command, tmp_path):
    """Canaries of all personal fields are not in it; nor is anything to be fetched."""
    canaries = ("canary-visit", "4815162342", "203.0.113.77", "canary@example.org")
    visit, user, ip, email = canaries
    line = (
        f'{{"event_id":"{visit}","customer_id":5,"fired_at":"2022-01-01T00:00:00Z",'
        f'"user_id":{user},"event_type":"ReferralPageLoad","ip":"{ip}","email":"{email}"}}\n'
    )
    (tmp_path / "app.log").write_text(line)
    command("run", "--once", "app.log")
    text = html_of(command)
    data = b64decode(re.search(r"base64,([^\"]+)", text)[1]).decode()
    assert not [canary for canary in canaries if canary in text + data]
    assert not re.search(r"(?:src|href|action)=\"(?!data:|#|/\")", text)
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in unescape(text)
