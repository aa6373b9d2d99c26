"""The files in `monitoring/`, held against Debian's Prometheus and a daemon that it scrapes."""

import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from contextlib import closing

import psycopg
import pytest
from conftest import PROJECT, wait_until
from listening import Listening, Writer

MONITORING = PROJECT / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana/dashboard.json").read_text())
TARGETS = [
    (panel["title"], target) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
]
QUERIES = [
    (title, target["expr"].replace("$__rate_interval", "1m"))
    for title, target in TARGETS
    if "expr" in target
]
STATEMENTS = [(title, target["rawSql"]) for title, target in TARGETS if "rawSql" in target]

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not installed",
)


def promtool(*arguments, **options):
    """Have promtool check something."""
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_alerts_are_valid_and_fire_when_they_should():
    """The rules, their tests, and the configuration that names them."""
    rules = promtool("check", "rules", MONITORING / "alerts.yml")
    tests = (MONITORING / "alerts_test.yml").read_text()
    names = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    assert f"{len(names)} rules found" in rules
    assert {name for name in names if f"alertname: {name}" not in tests} == set()
    promtool("test", "rules", "alerts_test.yml", cwd=MONITORING)
    promtool("check", "config", MONITORING / "prometheus.yml")


@pytest.fixture
def daemon(command, tmp_path):
    """A daemon that has folded a log, and still does."""
    writer = Writer(tmp_path / "app.log", events=2_000, hours=3, malformed=0.004, late=0.004)
    writer.write(0.5)
    daemon = Listening(command, writer.path, "--batch-seconds", 0.05)
    daemon.wait_for("/readyz", 200)
    daemon.writer = writer
    return daemon


@needs_prometheus
def test_metrics_are_as_prometheus_wants_them(daemon):
    """Names, types, units and help, by promtool's judgement."""
    _, text = daemon.get("/metrics")
    assert promtool("check", "metrics", input=text) == ""


@pytest.fixture
def prometheus(daemon, tmp_path):
    """A Prometheus that scrapes the daemon, four times a second; what asks it a query."""
    configuration = (MONITORING / "prometheus.yml").read_text()
    configuration = configuration.replace("processor:9464", daemon.url.removeprefix("http://"))
    configuration = configuration.replace("15s", "250ms")
    (tmp_path / "prometheus.yml").write_text(configuration)
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        ["prometheus", f"--web.listen-address={address}", "--config.file=prometheus.yml",
         "--storage.tsdb.path=tsdb", "--log.level=warn"],
        cwd=tmp_path,
    )  # fmt: skip

    def query(expression):
        """Return the samples of an expression, as of now."""
        asked = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{asked}") as response:
            return json.load(response)["data"]["result"]

    def is_scraped():
        try:
            return query('up{job="processor"} == 1')
        except OSError:
            return False

    wait_until(is_scraped, what="a scrape")
    yield query
    process.terminate()
    process.wait(30)


@needs_prometheus
def test_each_panel_shows_something(prometheus, daemon):
    """Every query of the dashboard has samples of a daemon that folds, and asks for what there is.

    And the alerts see a daemon in good health.
    """
    daemon.writer.write(1)
    lines = "increase(processor_lines_total[1m])"
    wait_until(lambda: any(float(s["value"][1]) for s in prometheus(lines)), what="more lines")
    _, text = daemon.get("/metrics")
    for title, expression in QUERIES:
        samples = prometheus(expression)
        assert samples, title
        assert all(sample["value"][1] != "NaN" for sample in samples), title
        for name in re.findall(r"\bprocess(?:or)?_\w+", expression):
            assert f"{name}{{" in text or f"{name} " in text, title
    assert len(QUERIES) > 15
    assert prometheus("ALERTS") == []


@pytest.mark.usefixtures("daemon")
def test_the_report_panels_are_for_a_reader(connect):
    """Every statement of the dashboard runs by the rights of the reading role, and has rows."""
    with connect() as connection, connection.transaction(force_rollback=True):
        connection.execute((PROJECT / "schema/roles.sql").read_text())
        connection.execute("SET LOCAL ROLE processor_reader")
        for title, statement in STATEMENTS:
            shown = statement.replace("$__timeFilter(hour)", "hour BETWEEN '2022-01-01' AND now()")
            assert connection.execute(shown).fetchall(), title
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM hourly_counts")
    assert len(STATEMENTS) == 3
