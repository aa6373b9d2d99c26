"""`processor status --watch` on a terminal."""

import os
import pty
import re
import select
import signal
import time
from contextlib import contextmanager

import psycopg
from conftest import wait_until
from listening import Writer
from psycopg.conninfo import conninfo_to_dict


class Screen:
    """What a command shows on a terminal, without what moves the cursor."""

    def __init__(self, ours):
        self._ours = ours
        self._bytes = b""

    def text(self):
        """Return all that was shown so far."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                self._bytes += os.read(self._ours, 65536)
            except OSError:
                break
        return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", self._bytes.decode(errors="replace"))

    def wait_for(self, pattern):
        """Wait until something is shown after all that was shown before."""
        seen = len(self.text())
        found = re.compile(pattern, re.DOTALL)
        wait_until(lambda: found.search(self.text(), seen), what=pattern)


@contextmanager
def watching(command):
    """Watch on a terminal meanwhile; Ctrl-C ends it without an error."""
    ours, theirs = pty.openpty()
    process = command.start("status", "--watch", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    yield Screen(ours)
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        Screen(ours).text()
    assert process.returncode == 0
    os.close(ours)


def test_it_follows_what_is_committed(command, tmp_path, server):
    """Lines, rates and lag move; a database that goes away is told, and waited for."""
    writer = Writer(tmp_path / "app.log", events=1_000, malformed=0.1)
    writer.write(0.4)
    command("run", "--once", writer.path)
    name = conninfo_to_dict(command.environment["PROCESSOR_DATABASE_URL"])["dbname"]
    with watching(command) as screen, psycopg.connect(server, autocommit=True) as admin:
        screen.wait_for(r"app\.log.* 400 .*caught up")
        writer.write(1)
        screen.wait_for(r" 400 .* 0 .*waits")
        command("run", "--once", writer.path)
        screen.wait_for(r" 1,000 .* [1-9]\d* .*caught up")
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        screen.wait_for("cannot be read")
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        screen.wait_for(r" 1,000 .*caught up")


def test_without_a_terminal_it_says_what_is_for_programs(command):
    """It would fill a file."""
    command("migrate")
    assert "--listen" in command("status", "--watch", exit_code=2).stderr
