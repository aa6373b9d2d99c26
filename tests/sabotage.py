"""`make sabotage`: takes out one safeguard at a time, and must see tests fail.

Each is taken out of a copy of the project, never of the project itself. The tests are run on an
untouched copy first: those that fail there prove nothing. Ends with 1 if a safeguard is not missed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from servers import Server, servers_folder

PROJECT = Path(__file__).parents[1]
STORE = "processor/edges/store.py"
STORE_TESTS = "tests/integration/test_store.py"
SESSION = "processor/edges/session.py"
SESSION_TESTS = "tests/integration/test_session.py"
UNKNOWN_COMMITS = (
    "tests/fault/test_server_faults.py::test_a_commit_of_which_nobody_knows_counts_once"
)
SECONDS = 300


class Sabotage(NamedTuple):
    """A safeguard, the text that it is, what is put in its place, and the tests to miss it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


SABOTAGES = (
    Sabotage(
        "comparison of the offset",
        STORE,
        "WHERE log_id = %(log_id)s AND byte_offset = %(from_offset)s",
        "WHERE log_id = %(log_id)s",
        (STORE_TESTS,),
    ),
    Sabotage(
        "comparison of the last commit",
        STORE,
        "WHERE generation = %s AND state = %s AND commit_id = %s",
        "WHERE generation = %s AND state = %s AND %s::uuid IS NOT NULL",
        (STORE_TESTS,),
    ),
    Sabotage(
        "comparison of the state of the generation",
        STORE,
        "WHERE generation = %s AND state = %s AND commit_id = %s",
        "WHERE generation = %s AND %s::text IS NOT NULL AND commit_id = %s",
        (STORE_TESTS,),
    ),
    Sabotage(
        "FOR UPDATE of the question what is committed",
        STORE,
        "ORDER BY log_id FOR UPDATE",
        "ORDER BY log_id",
        (STORE_TESTS,),
    ),
    Sabotage(
        "question what is committed, after a lost connection",
        "processor/shell/run/committer.py",
        "if not (sent and self._store.reconcile(commit)):",
        "if True:",
        (UNKNOWN_COMMITS,),
    ),
    Sabotage(
        "ledger in the transaction of its batch",
        STORE,
        "cursor.execute(_ADD_TO_LEDGER, _ledger_columns(commit.logs))",
        "with closing(self._connect()) as other:\n"
        "                other.execute(_ADD_TO_LEDGER, _ledger_columns(commit.logs))",
        (UNKNOWN_COMMITS,),
    ),
    Sabotage(
        "sight of a database that went back",
        STORE,
        "if is_back or moved is None or moved[2] == self.identity:",
        "if False:",
        (STORE_TESTS,),
    ),
    Sabotage(
        "end of a wait for an answer",
        SESSION,
        "if time.monotonic() > until:",
        "if False:",
        (SESSION_TESTS,),
    ),
    Sabotage(
        "commits that are on the disk when they are answered",
        SESSION,
        "    ('synchronous_commit', 'off', 'on'),\n",
        "",
        (SESSION_TESTS,),
    ),
    Sabotage(
        "bound of the working state",
        "processor/core/visits.py",
        "self._evict_visits(open_from - self._window)",
        "pass",
        ("tests/unit/test_fold.py",),
    ),
    Sabotage(
        "visits kept for as long as they may be clicked",
        "processor/core/visits.py",
        "self._evict_visits(open_from - self._window)",
        "self._evict_visits(open_from)",
        ("tests/unit/test_fold.py", "tests/property/test_fold_properties.py"),
    ),
)

PYTEST = (sys.executable, "-m", "pytest", "-n0", "-q", "-rf", "--tb=no", "-p", "no:cacheprovider")


def copy_to(folder):
    """Copy the project, without what it does not need to be tested."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "demo", "data", "checkpoints")
    shutil.copytree(PROJECT, folder, ignore=left_out)
    return folder


def take_out(sabotage, folder):
    """Take a safeguard out of a copy."""
    file = folder / sabotage.file
    text = file.read_text()
    if text.count(sabotage.old) != 1:
        raise SystemExit(f"{sabotage.file}: not there exactly once any more: {sabotage.old}")
    file.write_text(text.replace(sabotage.old, sabotage.new))


def failing(folder, tests, server):
    """Run tests of a copy; return the names of those that fail."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PROCESSOR_TEST_DATABASE_URL": server.url(),
    }
    done = subprocess.run(
        [*PYTEST, *tests],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    if done.returncode != bool(failed):
        raise SystemExit(f"the tests cannot be run:\n{done.stdout}{done.stderr}")
    return failed


def attempt(sabotage, folder, server):
    """Take a safeguard out; return which tests miss it."""
    take_out(sabotage, copy_to(folder))
    return failing(folder, sabotage.tests, server)


def main():
    """Print which test misses what; end with 1 if nothing misses it."""
    tests = sorted({test for sabotage in SABOTAGES for test in sabotage.tests})
    with servers_folder() as servers, tempfile.TemporaryDirectory() as name:
        server = Server(servers).start()
        try:
            if broken := failing(copy_to(Path(name) / "untouched"), tests, server):
                raise SystemExit(f"these fail without any sabotage: {', '.join(broken)}")
            folders = [Path(name) / str(number) for number in range(len(SABOTAGES))]
            with ThreadPoolExecutor(2) as pool:
                caught = list(pool.map(attempt, SABOTAGES, folders, [server] * len(SABOTAGES)))
        finally:
            server.close()
    for sabotage, missed_by in zip(SABOTAGES, caught, strict=True):
        print(f"{'caught' if missed_by else 'NOT CAUGHT'}: {sabotage.name}")
        for test in missed_by:
            print(f"    {test}")
    return not all(caught)


if __name__ == "__main__":
    sys.exit(main())
