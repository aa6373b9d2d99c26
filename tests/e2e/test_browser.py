"""The page of the report as people see it, in a real browser."""

import csv
import io
import re
from datetime import UTC, datetime

import psycopg
import pytest
from browsing import NEEDS_CHROMIUM, Visit, chromium
from conftest import HOSTILE_NAME, wait_until
from listening import Listening, Writer

from processor.edges.overview import Choice
from processor.shell.report.commands import page_of
from processor.shell.report.hours import Zone

pytestmark = NEEDS_CHROMIUM

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser():
    """One browser for all; each visit has a profile of its own."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser):
    """Look at a page; at the end, see that it complained of nothing."""
    visits = []

    def look(url, **options):
        visits.append(Visit(browser, url, **options))
        return visits[-1]

    yield look
    for seen in visits:
        seen.context.close()
        assert seen.complaints == []


def connecting(url):
    return lambda: psycopg.connect(url, autocommit=True)


@pytest.fixture(scope="module")
def file_url(folded_url, tmp_path_factory):
    """The page of a report in a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page_of(connecting(folded_url), Choice(), Zone("UTC")))
    return f"file://{path}"


@pytest.fixture(scope="module")
def few_hours_url(folded_url, tmp_path_factory):
    """A page of its last hours, of which some are open."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    choice = Choice(start=datetime(2022, 1, 2, 3, tzinfo=UTC))
    path.write_text(page_of(connecting(folded_url), choice, Zone("UTC")))
    return f"file://{path}"


@pytest.fixture
def rows(folded_url):
    """The rows of that report: customer, hour, page loads, clicked page loads."""
    with psycopg.connect(folded_url) as connection:
        return connection.execute(
            "SELECT customer_id, to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), "
            "page_loads, clicked_page_loads FROM hourly_report ORDER BY hour DESC, customer_id"
        ).fetchall()


def column(page, number):
    """Return what a column of the table shows, of rows that are not hidden."""
    return page.locator(f"#table tbody tr:not([hidden]) > :nth-child({number})").all_inner_texts()


def button(page, name):
    """Return what sorts by a column."""
    return page.locator("#table thead button").get_by_text(name, exact=True)


def axe(page):
    """Return what axe-core finds to be in people's way."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - with the browser

    found = Axe().run(page).response["violations"]
    return [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]


def scrolls_sideways(page):
    return page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


def test_a_page_in_a_file_asks_for_nothing_else(visit, file_url, rows):
    """It draws its charts, shows its rows, and opens without a network."""
    seen = visit(file_url, offline=True)
    assert column(seen.page, 1) == [str(customer) for customer, *_ in rows[:500]]
    assert column(seen.page, 2) == [hour for _, hour, *_ in rows[:500]]
    charts = seen.page.locator("#charts-0 svg")
    assert charts.count() == 3
    assert all(chart.bounding_box()["height"] > 100 for chart in charts.all())
    assert seen.page.locator("#charts-0 .loads .mark").count() == 30
    assert seen.requests == [file_url]


def test_the_table_is_sorted_by_any_column_and_back(visit, file_url, rows):
    """By number where there are numbers; a reader of the screen hears which way."""
    page = visit(file_url).page
    head = button(page, "Rate").locator("..")
    button(page, "Rate").click()
    rates = [float(text.rstrip("%")) for text in column(page, 8)]
    assert rates == sorted(rates)
    assert rates == sorted(round(100 * clicked / loads, 1) for *_, loads, clicked in rows)
    assert head.get_attribute("aria-sort") == "ascending"
    button(page, "Rate").press("Enter")
    assert [float(text.rstrip("%")) for text in column(page, 8)] == rates[::-1]
    assert head.get_attribute("aria-sort") == "descending"
    button(page, "Customer").click()
    assert head.get_attribute("aria-sort") is None
    assert column(page, 1) == [str(customer) for customer in sorted(row[0] for row in rows)]


def test_the_table_is_filtered_by_customer_and_by_hour(visit, file_url, rows):
    """A number is a whole customer, a part of a time is all hours that have it."""
    page = visit(file_url).page
    customer = rows[0][0]
    page.get_by_label("Filter").fill(str(customer))
    wanted = [row[1] for row in rows if row[0] == customer]
    assert column(page, 2) == wanted
    assert page.locator("#shown").inner_text() == f"{len(wanted)} rows fit"
    page.get_by_label("Filter").fill("01-02 03:")
    assert set(column(page, 2)) == {"2022-01-02 03:00"}
    page.get_by_label("Filter").fill("")
    assert len(column(page, 2)) == len(rows)


def test_charts_of_one_customer_are_chosen(visit, file_url, rows):
    """Those of the others are out of sight."""
    page = visit(file_url).page
    choice = page.locator("#pick select")
    customer = choice.locator("option").nth(1).inner_text()
    choice.select_option(label=customer)
    assert page.locator(".charts:visible h3").all_inner_texts() == [f"Customer {customer}"]
    page.get_by_text("The numbers of these charts").locator("visible=true").click()
    loads = page.locator(".charts:visible tbody td:nth-child(2)").all_inner_texts()
    assert sum(map(int, loads)) == sum(row[2] for row in rows if str(row[0]) == customer)


def test_the_csv_of_a_file_is_downloaded_from_it(visit, file_url, rows):
    """With all rows, and no network."""
    page = visit(file_url, offline=True).page
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "report.csv"
    found = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert len(found) == len(rows)
    assert sum(int(row["page_loads"]) for row in found) == sum(row[2] for row in rows)


def test_without_scripts_all_is_there(visit, file_url, rows):
    """Table and charts of all customers; what would do nothing is not shown."""
    page = visit(file_url, java_script_enabled=False).page
    assert page.locator("#table tbody tr").count() == len(rows)
    assert page.locator(".charts:visible").count() == 1 + len({row[0] for row in rows})
    assert page.locator("select:visible, input:visible, button:visible").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [{}, PHONE], ids=["desk", "phone"])
def test_nobody_is_kept_out(visit, few_hours_url, scheme, device):
    """Nothing that axe-core finds, in light and dark, on a desk and at 360 px, all opened."""
    page = visit(few_hours_url, color_scheme=scheme, **device).page
    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
    )
    assert (red + green + blue > 600) == (scheme == "light")
    assert not scrolls_sideways(page)
    for details in page.locator("details:visible").all():
        details.locator("summary").click()
    button(page, "Rate").click()
    assert not scrolls_sideways(page)
    assert axe(page) == []


def test_the_keyboard_suffices(visit, file_url):
    """The first key leads past all to the table, and what has the focus shows it."""
    page = visit(file_url).page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#rows') !== null")
    button(page, "Clicks").focus()
    page.keyboard.press("Space")
    clicks = list(map(int, column(page, 4)))
    assert clicks == sorted(clicks)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_hostile_value_is_shown_and_does_nothing(visit, file_url):
    """The name of a log that is markup; and were it none the less, its script would not run."""
    seen = visit(file_url)
    seen.page.get_by_text("How far the logs have come").click()
    assert seen.page.get_by_text(HOSTILE_NAME).is_visible()
    assert seen.page.evaluate("window.hit") is None
    seen.page.evaluate(
        "document.querySelector('#logs').insertAdjacentHTML('beforeend', "
        "'<img src=x onerror=window.hit=1><a id=bad href=\"javascript:window.hit=1\">x</a>')"
    )
    seen.page.locator("#bad").click()
    assert seen.page.evaluate("window.hit") is None
    assert len(seen.complaints) >= 2
    assert all("Content Security Policy" in words for words in seen.complaints)
    seen.complaints.clear()


@pytest.fixture
def writer(tmp_path):
    """What writes a log of six hours, bit by bit."""
    return Writer(tmp_path / "app.log", events=1_500, hours=6, customers=12, seed=1)


@pytest.fixture
def daemon(command, writer):
    """A daemon that follows the first half of it."""
    writer.write(0.5)
    daemon = Listening(command, writer.path, "--batch-seconds", 0.05)
    daemon.wait_for("/readyz", 200)
    return daemon


def total(page):
    """Return the page loads in all, as the page shows them."""
    return int(page.locator("dd").first.inner_text().replace(",", ""))


def test_the_page_follows_the_report_without_being_loaded_again(visit, daemon, writer, command):
    """Numbers, charts and rows change; what was sorted, filtered and opened stays so."""
    seen = visit(f"{daemon.url}/")
    page = seen.page
    page.get_by_text("Follows the report as it changes.").wait_for()
    page.evaluate("window.same = true")
    button(page, "Page loads").click()
    page.get_by_label("Filter").fill(column(page, 1)[0])
    rows = len(column(page, 1))
    page.locator("#figures-0 summary").click()
    page.locator("#figures-0 summary").focus()
    before = total(page)
    writer.write(1)
    loads = lambda: sum(counts[0] for counts in command.report().values())  # noqa: E731
    wait_until(lambda: command.status()[0]["lag_bytes"] == 0)
    after = loads()
    wait_until(lambda: total(page) == after, what="the new numbers")
    assert after > before
    assert page.evaluate("window.same")
    assert len(column(page, 1)) > rows
    assert len(set(column(page, 1))) == 1
    shown = list(map(int, column(page, 3)))
    assert shown == sorted(shown)
    assert page.locator("#figures-0").get_attribute("open") is not None
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert {url.removeprefix(daemon.url) for url in seen.requests} == {"/"}
    daemon.process.terminate()
    page.get_by_text("The processor does not answer").wait_for()
    assert total(page) == after
    assert all("ERR_CONNECTION_REFUSED" in words for words in seen.complaints)
    seen.complaints.clear()


def test_a_page_of_an_empty_report_shows_the_first_rows_when_they_come(visit, command, writer):
    """Before that, it says that there are none."""
    writer.path.touch()
    daemon = Listening(command, writer.path, "--batch-seconds", 0.05)
    daemon.wait_for("/", 200)
    page = visit(f"{daemon.url}/").page
    assert "There are no hours in the report yet." in page.locator(".answer").inner_text()
    assert axe(page) == []
    writer.write(1)
    page.locator("#charts-0 svg").first.wait_for()


def test_a_reader_chooses_customer_hours_and_zone(visit, daemon, command):
    """By the form, or by a link; the links to the rows say the same."""
    page = visit(f"{daemon.url}/").page
    page.locator("#ranking tbody a").first.click()
    page.wait_for_url("**/?customer=*")
    customer = re.search(r"customer=(\d+)", page.url)[1]
    assert f"of customer {customer}" in page.locator(".answer").inner_text()
    page.get_by_role("textbox", name="From").fill("2022-01-01T10:00")
    page.get_by_role("textbox", name="To").fill("2022-01-01T11:00")
    page.get_by_label("Time zone").fill("Asia/Tokyo")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**timezone=Asia*")
    assert column(page, 2) == ["2022-01-01 10:00"]
    assert page.get_by_role("textbox", name="From").input_value() == "2022-01-01T10:00"
    expected = [
        (hour, str(counts[0]))
        for (number, hour), counts in command.report().items()
        if str(number) == customer and hour == "2022-01-01T01:00:00Z"
    ]
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    (row,) = csv.DictReader(io.StringIO(download.value.path().read_text()))
    assert (row["hour"], row["page_loads"]) == ("2022-01-01T10:00:00+09:00", expected[0][1])
    assert not scrolls_sideways(page)
    assert axe(page) == []
