"""What the command says of itself on standard error."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import IMPATIENT, logged

DEFECT = """
from processor.shell import cli
from processor.shell.run import daemon
def run(*_):
    raise KeyError('canary@example.com')
daemon.run = run
cli.main()
"""
"""A processor with a defect that has a line's data at hand."""


def on_terminal(command, *arguments):
    """Run the command with a terminal for standard error; return what it showed."""
    ours, theirs = pty.openpty()
    process = command.start(*arguments, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    process.wait(60)
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.decode())


def test_programs_read_json_lines(command, make_log):
    """Each line is an object with time in UTC, level and message, and the figures beside it."""
    log = make_log(events=500, malformed=0.1)
    said = [json.loads(line) for line in command("run", "--once", log).stderr.splitlines()]
    assert all(re.fullmatch(r"[\d-]{10}T[\d:.]+Z", entry["timestamp"]) for entry in said)
    assert {entry["level"] for entry in said} == {"info"}
    (summary,) = [entry for entry in said if entry["event"].startswith("committed")]
    ledger = command.ledger()
    assert (summary["lines"], summary["dead_letters"]) == (500, ledger["dead_letters"])


def test_people_read_a_line(command, make_log):
    """On a terminal there is no JSON, and what a file is called cannot steer it."""
    log = make_log("a\x1bb.log", events=10)
    shown = on_terminal(command, "run", "--once", log, log.with_name("a\x1bc.log"))
    assert re.search(r"T[\d:.]+Z \[error +\] .*a\\x1bc.log: there is no such file", shown)
    assert '{"' not in shown


@pytest.mark.parametrize(
    ("level", "expected"), [("error", []), ("warning", []), ("info", ["info"])]
)
def test_the_level_says_what_is_said(command, make_log, level, expected):
    """Less is said than at info; the environment may say so too."""
    log = make_log(events=10)
    assert_levels(command("--log-level", level, "run", "--once", log), expected)
    command.environment["PROCESSOR_LOG_LEVEL"] = level
    assert_levels(command("run", "--once", log), expected)


def assert_levels(done, expected):
    assert sorted({json.loads(line)["level"] for line in done.stderr.splitlines()}) == expected


def test_nothing_is_said_for_each_line(command, make_log):
    """A thousand dead letters in a thousand batches are a summary, at debug too."""
    log = make_log(events=1_000, malformed=1)
    said = command("--log-level", "debug", "run", "--once", log, "--batch-lines", 1).stderr
    assert len(said.splitlines()) < 10


def test_an_error_is_one_line_and_debug_tells_the_rest(command):
    """Where it comes from is told to those who ask."""
    (said,) = logged(command("run", "--once", "none.log", exit_code=1).stderr, "error")
    assert said.endswith("none.log: there is no such file. Check the path")
    full = command("--log-level", "debug", "run", "--once", "none.log", exit_code=1).stderr
    assert logged(full, "error") == [said]
    assert any("Traceback" in json.loads(line).get("exception", "") for line in full.splitlines())


def test_a_defect_is_one_line_without_data(command, make_log):
    """It says where it is, and not what of."""
    process = command.start("run", make_log(events=10), program=("-c", DEFECT))
    _, said = process.communicate(timeout=60)
    (entry,) = [json.loads(line) for line in said.splitlines()]
    assert (process.returncode, entry["level"], entry["exit_code"]) == (1, "error", 1)
    assert "KeyError in run, <string>:5; report it" in entry["event"]
    assert "canary" not in said


def test_the_version_is_told(command):
    """That of the package."""
    assert re.fullmatch(r"processor \d+\.\d+\.\d+\n", command("--version").stdout)


def test_a_shell_completes_commands(command):
    """What is installed for bash asks the command, and shows what it answers."""
    script = """
        eval "$(processor --show-completion)"
        COMP_WORDS=(processor dead) COMP_CWORD=1
        _processor_completion processor
        echo "${COMPREPLY[@]}"
        true  # else bash would make place for its last command, and none would be found"""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**command.environment, "PATH": path}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "dead-letters\n"


def test_no_level_tells_a_password(command, make_log):
    """Of a database that is away, or of a URL that is none."""
    log = make_log(events=10)
    for url in ("postgresql://u:secret@127.0.0.1:9/x", "postgresql://u:sec@ret@127.0.0.1/x"):
        command.environment["PROCESSOR_DATABASE_URL"] = url
        options = {"program": IMPATIENT, "exit_code": None}
        failed = command("--log-level", "debug", "run", "--once", log, **options)
        assert failed.returncode in (1, 2)
        assert "secret" not in failed.stderr
        assert "sec@ret" not in failed.stderr
