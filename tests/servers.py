"""Real PostgreSQL servers for a test to kill, stop, copy and fail over; and PgBouncer before one.

They listen on unix sockets in a folder of their own. Root runs them as the embedded server is run:
as `nobody`.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from conftest import wait_until
from psycopg.conninfo import make_conninfo

from processor.edges.embedded import _nobody, _unprivileged, binaries

USER = "processor"
SETTINGS = {
    "fsync": "off",  # processes are killed here; no machine loses what its kernel holds
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "wal_level": "replica",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "timezone": "UTC",
}
PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/sbin:/bin")
START_SECONDS = 60


@contextmanager
def servers_folder():
    """Yield a folder for servers: its path is short, as the address of a socket must be."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    give_away(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def give_away(folder):
    """Make the user own a folder that the servers run as."""
    if os.geteuid() == 0:
        os.chown(folder, _nobody().pw_uid, _nobody().pw_gid)


def run(program, *arguments, cwd):
    """Run one of PostgreSQL's programs to its end."""
    subprocess.run(
        [*_unprivileged(), binaries() / program, *map(str, arguments)],
        cwd=cwd,
        check=True,
        capture_output=True,
        text=True,
    )


class Server:
    """A server of its own data folder. Several in one folder differ by their port."""

    def __init__(self, folder, port=5432, **settings):
        self.folder = folder
        self.port = port
        self.data = folder / f"data{port}"
        self.socket = folder / f".s.PGSQL.{port}"
        self._settings = {**SETTINGS, **settings}
        self._process = None
        if not self.data.exists():
            made = "--auth=trust", "--no-locale", "--encoding=UTF8", "--wal-segsize=1", "--no-sync"
            run("initdb", "-D", self.data, f"--username={USER}", *made, cwd=folder)

    def url(self, dbname="postgres", **more):
        """Return a connection string."""
        host = {"host": str(self.folder), "port": self.port, "user": USER, "dbname": dbname}
        return make_conninfo(**{**host, **more})

    def sql(self, *statements, dbname="postgres"):
        """Run statements, and return the rows of the last one."""
        with psycopg.connect(self.url(dbname), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else None

    @property
    def pid(self):
        """The process id of the postmaster."""
        return self._process.pid

    def start(self):
        """Start it, and wait until it answers; again if a killed one still holds its memory."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        command = [*_unprivileged(), binaries() / "postgres", "-D", self.data, f"-p{self.port}"]
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()[-2_000:]
            if self._process is None or self._process.poll() is not None:
                with (self.folder / "server.log").open("a") as log:
                    self._process = subprocess.Popen(
                        [*command, f"-k{self.folder}", *options],
                        cwd=self.folder,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
            time.sleep(0.02)
        return self

    def answers(self):
        """Whether it takes connections."""
        if not self.is_running():
            return False
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url(), connect_timeout=2).close()
            return True
        return False

    def is_running(self):
        """Whether its postmaster runs."""
        return self._process is not None and self._process.poll() is None

    def processes(self):
        """Return the process ids of the postmaster and its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def signal(self, number):
        """Send a signal to the postmaster and to its children."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self):
        """Kill -9 of the postmaster; its children notice, and go."""
        children = self.processes()[1:]
        self._process.kill()
        self._process.wait()
        wait_until(lambda: not any(map(is_alive, children)), what="the end of the children")

    def close(self):
        """Stop it; transactions under way are rolled back."""
        if self.is_running():
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def back_up(self, to):
        """Copy its data folder as it is now; whoever stands in the way is removed."""
        shutil.rmtree(to, ignore_errors=True)
        run("pg_basebackup", "-d", self.url(), "-D", to, "--checkpoint=fast", "--no-sync",
            cwd=self.folder)  # fmt: skip

    def put_back(self, copy):
        """Kill it, and start it again as it was when the copy was made."""
        self.kill()
        shutil.rmtree(self.data)
        shutil.copytree(copy, self.data)
        for path in (self.data, *self.data.rglob("*")):
            give_away(path)
        self.start()

    def replica(self, port):
        """Start a server that follows this one."""
        shutil.rmtree(self.folder / f"data{port}", ignore_errors=True)
        run("pg_basebackup", "-d", self.url(), "-D", self.folder / f"data{port}",
            "--checkpoint=fast", "--no-sync", "--write-recovery-conf",
            cwd=self.folder)  # fmt: skip
        replica = Server(self.folder, port, **self._settings).start()
        wait_until(lambda: replica.sql("TABLE pg_stat_wal_receiver"), what="a replica that follows")
        return replica

    def cut_off(self):
        """Have a replica receive no more of what the primary commits."""
        self.sql("ALTER SYSTEM SET primary_conninfo TO ''", "SELECT pg_reload_conf()")
        wait_until(lambda: not self.sql("TABLE pg_stat_wal_receiver"), what="a replica cut off")

    def promote(self):
        """Have a replica take the place of its primary."""
        assert self.sql("SELECT pg_promote()") == [(True,)]


def is_alive(pid):
    """Whether a process runs: one that waits for its parent to ask does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


class Bouncer:
    """PgBouncer in transaction mode before a server, on a unix socket as the server is."""

    def __init__(self, server):
        self._folder = server.folder
        self.socket = server.folder / ".s.PGSQL.6432"
        (self._folder / "pgbouncer.ini").write_text(f"""\
[databases]
* = host={server.folder} port={server.port} user={USER}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {server.folder}
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_login_retry = 0.1
""")

    def __enter__(self):
        """Start it, and wait until it listens."""
        with (self._folder / "pgbouncer.log").open("a") as log:
            self._process = subprocess.Popen(
                [*_unprivileged(), PGBOUNCER, self._folder / "pgbouncer.ini"],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        wait_until(self._listens, what="PgBouncer")
        return self

    def _listens(self):
        assert self._process.poll() is None, (self._folder / "pgbouncer.log").read_text()
        return self.socket.exists()

    def __exit__(self, *_error):
        """End it."""
        self._process.kill()
        self._process.wait()
