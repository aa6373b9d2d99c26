"""The command as its users run it."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from conftest import PROJECT, wait_until
from oracle import lines_of, report
from psycopg.conninfo import make_conninfo

from processor.shell.generate import LogShape, generate


def messy(**shape):
    return {
        "events": 4_000,
        "hours": 5,
        "duplicates": 0.03,
        "malformed": 0.02,
        "late": 0.02,
    } | shape


def test_a_log_is_folded_into_the_oracles_report(command, make_log):
    """Run --once on a messy log: the report is right, the ledger adds up, a rerun adds nothing."""
    log = make_log(**messy())
    command("run", "--once", log)
    assert command.report() == report(lines_of(log))
    ledger = command.ledger()
    assert ledger["lines"] == 4_000
    assert ledger["byte_offset"] == ledger["size_bytes"] == log.stat().st_size
    assert ledger["lag_bytes"] == 0
    assert min(ledger["duplicates"], ledger["ignored"], ledger["dead_letters"]) > 0
    command("run", "--once", log)
    assert command.ledger() == ledger


def test_the_same_with_the_embedded_database(embedded_command, make_log):
    """Without a URL, the whole job runs on the embedded PostgreSQL, and leaves none behind."""
    log = make_log(**messy())
    embedded_command("run", "--once", log)
    assert embedded_command.report() == report(lines_of(log))
    assert not (embedded_command.folder / "checkpoints/postgres/postmaster.pid").exists()


@pytest.mark.parametrize("batch_lines", [1, 7, 1_000, 100_000])
def test_the_batch_size_changes_nothing(command, make_log, batch_lines):
    """Each batch is a transaction; how many there are does not show."""
    log = make_log(**messy(events=2_500))
    command("run", "--once", log, "--batch-lines", batch_lines)
    assert command.report() == report(lines_of(log))
    assert command.ledger()["lines"] == 2_500


def test_a_log_that_grows_is_resumed_where_it_ended(command, make_log):
    """Between two runs a log grows, also by half a line: nothing is read twice, nothing is lost."""
    log = make_log(**messy())
    whole = log.read_bytes()
    for cut in (len(whole) // 3, len(whole) // 2 + 11, len(whole)):
        log.write_bytes(whole[:cut])
        command("run", "--once", log)
        assert command.report() == report(lines_of(log))
    assert command.ledger()["lines"] == 4_000


def test_visits_that_span_two_logs_are_related(command, make_log, tmp_path):
    """A page load in one log and its click in another count as related; each log has its ledger."""
    lines = lines_of(make_log(**messy(late=0)))
    halves = [tmp_path / "a.log", tmp_path / "b.log"]
    for number, half in enumerate(halves):
        half.write_bytes(b"".join(line + b"\n" for line in lines[number::2]))
    command("run", "--once", *halves, "--batch-lines", 500)
    assert command.report() == report(lines_of(halves[0]), lines_of(halves[1]))
    assert command.report() == report(lines)
    assert [log["lines"] for log in command.status()] == [2_000, 2_000]


def following(command, *logs):
    """Start a daemon on logs, and wait until it has come to the end of the first."""
    daemon = command.start("run", *logs)
    wait_until(lambda: command("status", exit_code=None).stdout.count("byte_offset"))
    wait_until(lambda: command.status()[0]["lag_bytes"] == 0, what="the end of the first log")
    return daemon


@pytest.fixture
def halves(make_log, tmp_path):
    """One log split into two, line by line, so that they share visits, users and duplicates."""
    log = make_log(**messy(hours=3, late=0, users=20, customers=2))
    paths = [tmp_path / "a.log", tmp_path / "b.log"]
    for number, path in enumerate(paths):
        path.write_bytes(b"".join(line + b"\n" for line in lines_of(log)[number::2]))
    return paths


def test_logs_that_join_the_report_later_are_counted_exactly(command, halves, tmp_path):
    """Read by one run after the other, or once more under another name: the same report."""
    one, two = halves
    expected = report(lines_of(one), lines_of(two))
    command("run", "--once", one)
    assert command.report() == report(lines_of(one))
    command("run", "--once", two)
    assert command.report() == expected
    copy = tmp_path / "copy.log"
    copy.write_bytes(one.read_bytes())
    command("run", "--once", copy)
    assert command.report() == expected
    assert all(log["applied"] == 0 for log in command.status() if log["path"].endswith("copy.log"))
    with one.open("ab") as log, two.open("rb") as more:
        log.write(more.read())
    command("run", "--once", one, two)
    assert command.report() == expected


def test_a_log_that_appears_while_another_is_followed_is_counted_exactly(command, halves):
    """What the working state had forgotten by then is folded again."""
    one, two = halves
    late_comer = two.read_bytes()
    two.unlink()
    daemon = following(command, one, two)
    two.write_bytes(late_comer[:30])  # not a line yet, so nothing tells where it starts
    wait_until(lambda: len(command.status()) == 2, what="the second log")
    two.write_bytes(late_comer)
    wait_until(
        lambda: [log["lag_bytes"] for log in command.status()] == [0, 0],
        what="the end of the second log",
    )
    assert command.report() == report(lines_of(one), lines_of(two))
    daemon.terminate()
    assert daemon.wait(5) == 0


@pytest.mark.parametrize("first", ["01/01/2023, 12:00:00", "01/01/2022, 09:30:00"])
def test_a_first_line_that_is_later_than_the_next_ones_does_not_make_them_late(
    command, make_log, tmp_path, first
):
    """Followed line by line, a log is folded as it is in one go."""
    lines = lines_of(make_log("all.log", events=600, hours=9))
    wild = lines[0].replace(b"01\\/01\\/2022, 00:00:00", first.encode())
    log = tmp_path / "app.log"
    log.write_bytes(wild + b"\n")
    daemon = following(command, log)
    with log.open("ab") as more:
        more.write(b"".join(line + b"\n" for line in lines))
    wait_until(lambda: command.status()[0]["lag_bytes"] == 0, what="the others")
    assert command.report() == report([wild, *lines])
    assert "late" not in command.ledger()["dead_letters_by_reason"]
    daemon.terminate()
    assert daemon.wait(5) == 0


def test_lines_ahead_of_a_log_that_is_left_out_are_still_known(command, make_log, tmp_path):
    """A log whose last lines were a day ahead of its watermark, and come again in another log."""
    one, two = tmp_path / "a.log", tmp_path / "b.log"
    today = lines_of(make_log("all.log", events=400, hours=2))
    tomorrow = [line.replace(b"01\\/01\\/2022", b"01\\/02\\/2022") for line in today]
    one.write_bytes(b"\n".join([*today[200:], *tomorrow[:200], b""]))
    two.write_bytes(b"\n".join([*today[:200], *tomorrow[200:205], b""]))
    command("run", "--once", one, two)
    with one.open("ab") as log:
        log.write(b"\n".join([*tomorrow[200:300], b""]))
    command("run", "--once", one)
    assert command.report() == report(lines_of(one), lines_of(two))


def test_the_report_is_written_as_csv_json_and_table(command, make_log, tmp_path):
    """CSV has exactly the columns promised; JSON and the table say the same."""
    log = make_log(events=3_000, hours=3)
    command("run", "--once", log)
    text = command("report", "--format", "csv").stdout
    assert text.splitlines()[0] == (
        "customer_id,hour,page_loads,clicks,unique_user_clicks,related_clicks,"
        "clicked_page_loads,click_through_rate"
    )
    rows = list(csv.DictReader(text.splitlines()))
    assert rows == sorted(rows, key=lambda row: (row["hour"], int(row["customer_id"])))
    for row in rows:
        rate = int(row["clicked_page_loads"]) / int(row["page_loads"])
        assert row["click_through_rate"] == f"{rate:.6f}"
        assert re.fullmatch(r"2022-01-01T0[0-2]:00:00Z", row["hour"])
    as_json = json.loads(command("report", "--format", "json").stdout)
    assert [
        {k: str(v) for k, v in row.items() if k != "click_through_rate"} for row in as_json
    ] == [{k: v for k, v in row.items() if k != "click_through_rate"} for row in rows]
    assert [f"{row['click_through_rate']:.6f}" for row in as_json] == [
        row["click_through_rate"] for row in rows
    ]
    table = command("report").stdout
    assert all(row["click_through_rate"] in table for row in rows)
    command("report", "--format", "csv", "--output", tmp_path / "report.csv")
    assert (tmp_path / "report.csv").read_text() == text


def test_the_report_is_filtered_by_customer_and_hour(command, make_log):
    """Customers are chosen by number, hours from the first to before the last."""
    command("run", "--once", make_log(events=3_000, hours=4))
    everything = command.report()
    customers = sorted({customer for customer, _ in everything})[:2]
    text = command(
        "report", "--format", "csv", "--customer", customers[0], "--customer", customers[1],
        "--from", "2022-01-01T01:00:00Z", "--to", "2022-01-01T04:00:00+01:00",
    ).stdout  # fmt: skip
    found = [tuple(line.split(",")[:2]) for line in text.splitlines()[1:]]
    assert found == [
        (str(customer), f"2022-01-01T0{hour}:00:00Z") for hour in (1, 2) for customer in customers
    ]


def test_a_customer_without_page_loads_has_no_rate(command, tmp_path):
    """A click alone: the rate is empty in CSV and null in JSON, not zero."""
    (tmp_path / "app.log").write_text(
        '{"event_id":"v","customer_id":5,"fired_at":"2022-01-01T00:00:00Z","user_id":1,'
        '"event_type":"ReferralRecommendClick"}\n'
    )
    command("run", "--once", "app.log")
    assert command("report", "--format", "csv").stdout.splitlines()[1] == (
        "5,2022-01-01T00:00:00Z,0,1,1,0,0,"
    )
    assert json.loads(command("report", "--format", "json").stdout)[0]["click_through_rate"] is None


def test_dead_letters_point_to_their_lines(command, make_log):
    """Offset and length lead to the line; its text is shown only on request."""
    log = make_log(**messy())
    command("run", "--once", log)
    found = json.loads(command("dead-letters", "--format", "json", "--show").stdout)
    assert len(found) == command.ledger()["dead_letters"]
    content = log.read_bytes()
    for letter in found:
        start, end = letter["byte_offset"], letter["byte_offset"] + letter["byte_length"]
        assert content[start:end] == letter["line"].encode()
        assert content[end : end + 1] == b"\n"
    reasons = {letter["reason"] for letter in found}
    assert reasons == {"malformed", "event_type", "invalid", "late"}
    for format_ in ("csv", "table"):
        shown = command("dead-letters", "--each", "--format", format_).stdout
        assert "example.org" not in shown
        assert shown.count("app.log") == len(found)


def test_shown_lines_cannot_steer_the_terminal(command, tmp_path):
    """Control characters, escapes and text that changes direction are made visible."""
    (tmp_path / "app.log").write_bytes("\x1b[31mred \u202egnp.exe \x07\n".encode())
    command("run", "--once", "app.log")
    shown = command("dead-letters", "--show").stdout
    assert r"\x1b[31mred \u202egnp.exe \x07" in shown


def test_settings_come_from_options_environment_and_file_in_this_order(command, make_log, tmp_path):
    """The command line wins over the environment, and that over the file."""
    log = make_log(events=50)
    (tmp_path / "settings.toml").write_text('batch_lines = 0\nlogs = ["app.log"]\nonce = true\n')
    command.environment["PROCESSOR_CONFIG"] = "settings.toml"
    assert "--batch-lines" in command("run", exit_code=2).stderr
    command.environment["PROCESSOR_BATCH_LINES"] = "-5"
    assert "--batch-lines" in command("run", exit_code=2).stderr
    command("run", "--batch-lines", "10")
    del command.environment["PROCESSOR_CONFIG"]
    command.environment |= {"PROCESSOR_LOGS": str(log), "PROCESSOR_ONCE": "1"}
    command.environment["PROCESSOR_BATCH_LINES"] = "20"
    command("run")
    assert command.ledger()["lines"] == 50
    (tmp_path / "settings.toml").write_text("batch_lines = 5\n[report]\nformat = 'csv'\n")
    assert command("--config", "settings.toml", "report").stdout.startswith("customer_id,hour,")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["run"], 2, "LOG"),
        (["run", "--once", "nowhere.log"], 1, "nowhere.log: there is no such file"),
        (["run", "--once", "."], 1, "is not a plain file"),
        (["run", "--once", "app.log", "--batch-seconds", "0"], 2, "--batch-seconds"),
        (["run", "--once", "app.log", "--timezone", "Mars/Base"], 2, "no such time zone"),
        (
            ["run", "--once", "app.log", "--allowed-lateness", "soon"],
            2,
            "'soon' is no duration; write",
        ),
        (
            ["run", "--once", "app.log", "--allowed-lateness", "-1m"],
            2,
            "'-1m' is no duration; write",
        ),
        (["run", "--once", "app.log", "--allowed-lateness", "9e99d"], 2, "--allowed-lateness"),
        (["run", "--once", "app.log", "--allowed-lateness", "9" * 20 + "d"], 2, "longer than"),
        (["report"], 1, "there is no report in this database yet"),
        (["report", "--from", "yesterday"], 2, "--from"),
        (["report", "--output", "no/such/folder"], 2, "No such file or directory. Choose another"),
        (["--config", "nowhere.toml", "report"], 2, "nowhere.toml: cannot be read"),
        (["--config", "app.log", "report"], 2, "is not TOML"),
        (["--config", "odd.toml", "report"], 2, "no option is called colour"),
        (["--config", "table.toml", "report"], 2, "no option is called rate"),
    ],
)
def test_errors_say_what_is_wrong_and_end_with_their_code(
    command, make_log, tmp_path, arguments, exit_code, words
):
    """One line on standard error, no traceback, the documented exit code."""
    make_log(events=1)
    (tmp_path / "odd.toml").write_text("colour = 'red'\n")
    (tmp_path / "table.toml").write_text("[report]\nrate = 5\n")
    stderr = command(*arguments, exit_code=exit_code).stderr
    assert words in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@127.0.0.1:1/x",
        "postgresql://me:hunter2@[bad",
        "host=127.0.0.1 port=1 password=hunter2 nonsense=1",
        "postgresql://me:not@hunter2@127.0.0.1:1/x",
    ],
)
def test_a_database_that_is_not_there_is_reported_without_the_password(command, url):
    """Whatever is wrong with the URL, no message repeats it."""
    command.environment["PROCESSOR_DATABASE_URL"] = url
    process = command.start("migrate")
    output = "".join(process.communicate(timeout=60))
    assert process.returncode in {1, 2}
    assert "hunter2" not in output
    assert "Traceback" not in output


def test_an_empty_url_means_the_embedded_database(embedded_command, make_log):
    """As a variable that is set to nothing does."""
    embedded_command.environment["PROCESSOR_DATABASE_URL"] = ""
    embedded_command("run", "--once", make_log(events=10))
    assert embedded_command.ledger()["lines"] == 10


def test_a_writer_needs_no_right_to_create_tables_once_they_are_made(command, make_log):
    """An administrator migrates, and grants what the processor writes."""
    command("migrate")
    url = command.environment["PROCESSOR_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as db:
        role = f"writer_{os.getpid()}"
        db.execute(f"CREATE ROLE {role} LOGIN")
        try:
            db.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
            command.environment["PROCESSOR_DATABASE_URL"] = make_conninfo(url, user=role)
            log = make_log(events=300)
            command("run", "--once", log)
            assert command.report() == report(lines_of(log))
        finally:
            db.execute(f"DROP OWNED BY {role}")
            db.execute(f"DROP ROLE {role}")


def test_a_report_that_fails_leaves_the_last_one_in_place(command, tmp_path):
    """A file appears, or changes, only once it is whole."""
    (tmp_path / "report.csv").write_text("the last one")
    command("report", "--format", "csv", "--output", "report.csv", exit_code=1)
    assert (tmp_path / "report.csv").read_text() == "the last one"


def test_output_goes_through_pipes_and_links(command, make_log, tmp_path):
    """Neither is replaced by a file: who reads the pipe gets it, what a link leads to has it."""
    command("run", "--once", make_log(events=300))
    text = command("report", "--format", "csv").stdout
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    command("report", "--format", "csv", "--output", "pipe")
    assert reader.communicate(timeout=10)[0] == text
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("report.csv")
    command("report", "--format", "csv", "--output", "link")
    assert (tmp_path / "link").readlink() == Path("report.csv")
    assert (tmp_path / "report.csv").read_text() == text


def test_what_is_no_plain_file_is_no_log(command, tmp_path):
    """A pipe would never end, and has no offsets."""
    os.mkfifo(tmp_path / "pipe")
    assert "is not a plain file" in command("run", "--once", "pipe", exit_code=1).stderr


def test_a_name_that_is_not_utf_8_is_refused_in_words(command, tmp_path):
    """The table of checkpoints could not hold it."""
    name = os.fsdecode(b"\xff.log")
    (tmp_path / name).write_text("")
    assert "not UTF-8" in command("run", "--once", name, exit_code=2).stderr


def test_a_full_disk_is_reported_in_words(command, make_log):
    """The report cannot be written: one line that says so."""
    command("run", "--once", make_log(events=300))
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        failed = command("report", "--format", "csv", stdout=full, exit_code=1)
    assert "No space left" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_half_a_line_is_left_for_later(command, make_log):
    """What follows the last newline is no line yet; `status` shows it as lag."""
    log = make_log(events=100)
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"event_id":"half')
    command("run", "--once", log)
    ledger = command.ledger()
    assert (ledger["byte_offset"], ledger["lag_bytes"]) == (len(whole), 17)


def test_an_overlong_line_is_a_dead_letter_and_the_next_is_read(command, make_log):
    """Longer than the longest line read: pointed to, in constant memory, and passed."""
    log = make_log(events=50)
    first, rest = log.read_bytes().split(b"\n", 1)
    log.write_bytes(first + b"\n" + b"x" * 5_000_000 + b"\n" + rest)
    command("run", "--once", log)
    assert command.report() == report(lines_of(log))
    assert command.ledger()["dead_letters_by_reason"]["too_long"] == 1
    letters = json.loads(command("dead-letters", "--each", "--format", "json").stdout)
    assert {
        (letter["byte_offset"], letter["byte_length"])
        for letter in letters
        if letter["reason"] == "too_long"
    } == {(len(first) + 1, 5_000_000)}


def test_a_live_log_is_followed(command, tmp_path):
    """A file that is not there yet is waited for; a line is in the report soon after."""
    log = tmp_path / "live.log"
    daemon = command.start("run", log)
    assert "waiting for it" in daemon.stderr.readline()
    command.start("generate", "--events", 200, "--rate", 400, "--output", log)
    wait_until(lambda: log.exists() and len(lines_of(log)) == 200, what="the last line")
    wait_until(lambda: command.report() == report(lines_of(log)), what="its report")
    daemon.terminate()
    out, err = daemon.communicate(timeout=5)
    assert (daemon.returncode, out) == (0, ""), err


def test_generated_logs_are_reproducible_and_in_shape():
    """The same settings make the same lines; loads, clicks and the rest have their shares."""
    shape = LogShape(events=20_000, hours=6, seed=3)
    lines = list(generate(shape))
    assert lines == list(generate(shape))
    assert lines != list(generate(LogShape(events=20_000, hours=6, seed=4)))
    events = [json.loads(line) for line in lines]
    assert [event["fired_at"] for event in events] == sorted(event["fired_at"] for event in events)
    assert all(re.search(r'"fired_at":"01\\/01\\/2022, 0\d:', line) for line in lines)
    assert list(events[0]) == [
        "event_id", "customer_id", "fired_at", "user_id", "event_type", "ip", "email",
    ]  # fmt: skip
    shares = {
        name: sum(event["event_type"] == name for event in events) / len(events)
        for name in ("ReferralPageLoad", "ReferralRecommendClick", "FaqClick", "EMPTY_VALUE")
    }
    assert shares == {
        "ReferralPageLoad": pytest.approx(0.74, abs=0.03),
        "ReferralRecommendClick": pytest.approx(0.09, abs=0.02),
        "FaqClick": pytest.approx(0.08, abs=0.02),
        "EMPTY_VALUE": pytest.approx(0.09, abs=0.02),
    }


def test_generated_shares_of_trouble_are_as_asked_for(command):
    """Each share is of all lines, and the number of lines is exact."""
    text = command(
        "generate", "--events", 10_000, "--duplicates", 0.1, "--malformed", 0.05, "--late", 0.02
    ).stdout
    lines = text.splitlines()
    assert len(lines) == 10_000
    assert len(lines) - len(set(lines)) == pytest.approx(1_000 + 500 * 3 / 7, rel=0.15)


def test_a_reader_that_has_seen_enough_is_no_error(command, make_log):
    """`processor generate | head` ends quietly."""
    command("run", "--once", make_log(events=20_000, malformed=0.5))
    for arguments in (
        ["generate", "--events", 200_000],
        ["dead-letters", "--each", "--format", "csv"],
    ):
        process = command.start(*arguments)
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_live_lines_come_at_their_rate(command):
    """--rate spaces the lines in time, and their times with them."""
    started = time.monotonic()
    command("generate", "--events", 100, "--rate", 100)
    assert time.monotonic() - started > 0.9


def test_migrate_says_what_it_did(command):
    """The first time it applies the schema, the second time there is nothing to apply."""
    applied = [f"applied {path.stem}" for path in sorted((PROJECT / "schema").glob("[0-9]*.sql"))]
    assert command("migrate").stdout.splitlines() == applied
    assert command("migrate").stdout == ""


def test_examples_are_what_their_command_makes(tmp_path):
    """examples/ is made by `make examples`, and is what it would make now."""
    subprocess.run(
        [sys.executable, PROJECT / "examples/make.py", tmp_path],
        check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PROCESSOR_")},
    )
    for name in ("report.csv", "report.json"):
        assert (tmp_path / name).read_text() == (PROJECT / "examples" / name).read_text()


def test_a_settings_file_reaches_the_commands_below_a_command(command, make_log, tmp_path):
    """`generations drop` acts on the database that the file names."""
    command("run", "--once", make_log(events=50))
    url = command.environment.pop("PROCESSOR_DATABASE_URL")
    there = f"database_url = {json.dumps(url)}\n"
    (tmp_path / "settings.toml").write_text(there)
    refused = command("--config", "settings.toml", "generations", "drop", 1, exit_code=2)
    assert "generation 1 is live" in refused.stderr
    (tmp_path / "settings.toml").write_text(f"{there}[generations]\nformat = 'csv'\n")
    listed = command("--config", "settings.toml", "generations").stdout
    assert listed.startswith("generation,state,")
    refused = command("--config", "settings.toml", "generations", "switch", 1, exit_code=2)
    assert "generation 1 is not one that is kept" in refused.stderr  # its formats are others
    (tmp_path / "settings.toml").write_text("[generations]\nolder_than = '1d'\n")
    refused = command("--config", "settings.toml", "generations", exit_code=2)
    assert "no option is called older_than" in refused.stderr


def test_spark_is_asked_for_by_its_own_commands_alone(command):
    """Others do without it, and its own say what to install."""
    without = "import sys; sys.modules['pyspark'] = None; from processor.shell.cli import main; "
    heavy = "{'numpy', 'pandas', 'py4j', 'pyarrow'} & set(sys.modules)"
    program = ("-c", f"{without} print({heavy}); sys.argv[0] = 'processor'; main()")
    assert command("--help", program=program).stdout.startswith("set()")
    for name in ("replay", "run"):
        refused = command("spark", name, "app.log", program=program, exit_code=2)
        assert "'.[spark]'" in refused.stderr
        assert "Traceback" not in refused.stderr
