"""Sessions whose server goes silent, breaks off, or refuses them."""

import socket
from contextlib import closing, contextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from processor.edges import session as module
from processor.edges.database import database
from processor.edges.session import Connection, ConnectionLostError, Session
from processor.errors import StoreError


@pytest.fixture
def parameters(database_url):
    return conninfo_to_dict(database_url)


def test_a_commit_that_was_answered_is_on_the_disk(connect):
    """Also where the server or the role does not ask for it; what asks for more is left alone."""
    with closing(Session(connect)) as session:
        for theirs, ours in (("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")):
            with session.connection() as connection:
                connection.execute(f"SET synchronous_commit = {theirs}")
            with session.transaction() as connection:
                assert connection.execute("SHOW synchronous_commit").fetchone() == (ours,)
            with session.connection() as connection:
                assert connection.execute("SHOW synchronous_commit").fetchone() == (theirs,)


def test_the_server_ends_what_lasts_too_long_unless_it_has_its_own_limit(connect):
    """A brief session bounds its statements; each lets go of its locks when its process stops."""
    for brief, seconds in ((True, "30s"), (False, "0")):
        with closing(Session(connect, brief=brief)) as session:
            with session.transaction() as connection:
                assert connection.execute("SHOW statement_timeout").fetchone() == (seconds,)
                idle = connection.execute("SHOW idle_in_transaction_session_timeout")
                assert idle.fetchone() == ("1min",)
            with session.connection() as connection:
                connection.execute("SET statement_timeout = '7s'")
            with session.transaction() as connection:
                assert connection.execute("SHOW statement_timeout").fetchone() == ("7s",)


@pytest.mark.parametrize(
    "asked",
    [
        lambda connection: connection.execute("SELECT pg_sleep(60)"),
        lambda connection: connection.cursor().executemany("SELECT pg_sleep(%s)", [(60,), (60,)]),
        lambda connection: copied(connection, "COPY (SELECT pg_sleep(60)) TO STDOUT"),
    ],
)
def test_a_brief_session_waits_for_no_answer_for_long(connect, asked, monkeypatch):
    """The connection is closed, and the next one made, by the client alone."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    with closing(Session(connect, brief=True)) as session:
        with (
            pytest.raises(ConnectionLostError, match=r"no answer within 0\.2 s"),
            session.transaction() as lost,
        ):
            asked(lost)
        assert lost.closed
        with session.transaction() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def copied(connection, statement):
    with connection.cursor().copy(statement) as rows:
        return list(rows)


def test_an_answer_in_time_is_taken_however_long_it_takes(connect, monkeypatch):
    """A session that is not brief has no bound: a migration takes as long as it takes."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    with closing(Session(connect)) as session, session.transaction() as connection:
        assert connection.execute("SELECT 1 FROM pg_sleep(0.6)").fetchone() == (1,)


@contextmanager
def listening():
    """Yield a server that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up(tmp_path):
    """As a stopped postmaster does; and the URL's own limit goes before the default one."""
    with listening() as port:
        url = f"postgresql://u@127.0.0.1:{port}/db?connect_timeout=1"
        with (
            database(url, tmp_path) as connect,
            pytest.raises(ConnectionLostError, match="timeout expired"),
            Session(connect).connection(),
        ):
            pass


@pytest.mark.parametrize(
    "wrong",
    [{"dbname": "not_there"}, {"user": "not_there"}, {"host": "{host},{host}", "user": "x"}],
)
def test_a_connection_that_is_refused_for_good_halts(parameters, wrong):
    """A wrong name is no reason to wait."""
    wrong = {name: value.format(**parameters) for name, value in wrong.items()}
    session = Session(lambda: Connection.open(**{**parameters, **wrong}))
    words = r"refuses the connection.*does not exist"
    with pytest.raises(StoreError, match=words) as caught, session.connection():
        pass
    assert not isinstance(caught.value, ConnectionLostError)


def test_a_connection_that_one_host_refuses_and_another_may_not_is_tried_again(parameters):
    """The one that is away may be the one that is meant."""
    hosts = f"/nowhere,{parameters['host']}"
    session = Session(lambda: Connection.open(**{**parameters, "host": hosts, "user": "not_there"}))
    with pytest.raises(ConnectionLostError), session.connection():
        pass


@pytest.mark.parametrize("message", ["too many clients", "the database system is starting up"])
def test_a_connection_that_is_refused_for_now_is_tried_again(message):
    """There is no SQLSTATE of it, so it goes by the words."""

    def connect():
        raise psycopg.OperationalError(f"connection failed: server failed: FATAL: {message}")

    with pytest.raises(ConnectionLostError), Session(connect).connection():
        pass
