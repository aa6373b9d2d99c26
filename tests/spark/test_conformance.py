"""The inputs of the local fold, through Spark: the same rows, ledger and dead letters."""

import gzip
import os
import random
from collections import defaultdict
from contextlib import closing
from datetime import timedelta
from operator import itemgetter

import pytest
from on_spark import spark  # noqa: F401 - a fixture

# isort: split

from core_helpers import EPOCH, HOUR, MINUTE, Run, click, log_of, page_load
from oracle import event_of, report
from pyspark.errors import StreamingQueryException
from test_fold_properties import KINDS, written
from test_hostile_lines import HOSTILE

from processor.core.model import Rules
from processor.edges.generations import Generations
from processor.edges.reader import Reader
from processor.edges.session import ConnectionLostError
from processor.edges.snapshot import SnapshotFiles
from processor.edges.store import Store
from processor.errors import CheckpointMovedError, SettingsError
from processor.shell.generate import LogShape, generate
from processor.shell.settings import RunSettings
from processor.shell.stop import Stop
from processor.spark.engine import replayed
from processor.spark.inputs import local_files
from processor.spark.replay import fill
from processor.spark.stream import Counting
from processor.spark.urls import pattern_of, url_of

RULES = Rules()
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def store(connect):
    with closing(Store(connect)) as store:
        store.migrate()
        store.adopt(RULES)
        yield store


def generated(**shape):
    return [line.encode() for line in generate(LogShape(**shape))]


ODD = [line for lines in HOSTILE.values() for line in lines]


def hostile():
    """Return every hostile line there is, each between two that count."""
    rng = random.Random(1)
    return [
        line
        for number, one in enumerate(rng.sample(ODD, len(ODD)))
        for line in (page_load(number, f"of {number}"), one, click(number, f"of {number}"))
    ]


def expected(*logs):
    """Return the report of the oracle, which need not know all that a line can be."""
    odd = set(ODD)
    return report(*([line for line in log if line not in odd] for log in logs))


def write(path, data, age=0):
    """Write a file, as if some seconds ago."""
    path.write_bytes(data)
    os.utime(path, (1_700_000_000 - age,) * 2)
    return path


def any_logs(folder):
    """Write logs as they are in life; return {path: lines that are complete}."""
    rng = random.Random(11)
    logs = {}
    for number in range(3):
        episodes = [(kind, 40, rng.randrange(1 << 16)) for kind in rng.sample(KINDS * 2, 14)]
        logs[f"any {number}.log"] = written(number * HOUR, episodes)
    logs["traffic.log"] = generated(events=2000, hours=30, seed=3, duplicates=0.05, late=0.02)
    logs["again.log"] = rng.sample(logs["traffic.log"], 500)
    logs["again.log"].sort(key=logs["traffic.log"].index)
    logs["hostile.log"] = hostile()
    logs["a%20[b]{c,d}#?*\\.log"] = generated(events=300, hours=2, seed=4)
    logs["long.log"] = [page_load(0, padding="x" * (1 << 20)), page_load(MINUTE), b"y" * (1 << 20)]
    for name, lines in logs.items():
        write(folder / name, log_of(lines))
    logs["mark.log"] = generated(events=200, hours=2, seed=5)
    write(folder / "mark.log", BOM + log_of(logs["mark.log"]))
    logs["half.log"] = generated(events=200, hours=2, seed=6)
    write(folder / "half.log", log_of(logs["half.log"]) + page_load(0)[:-5])
    logs["app.log"] = lines = generated(events=900, hours=9, seed=7, malformed=0.05)
    (folder / "app.log.2.gz").write_bytes(gzip.compress(log_of(lines[:300])))
    write(folder / "app.log.1", log_of(lines[300:700])[:-1])
    write(folder / "app.log", log_of(lines[700:]))
    write(folder / "empty.log", b"")
    logs["empty.log"] = []
    return {folder / name: lines for name, lines in logs.items()}


@pytest.fixture
def small_splits(spark):
    """Have files cut into many parts."""
    spark.conf.set("spark.sql.files.maxPartitionBytes", "100000")
    yield
    spark.conf.unset("spark.sql.files.maxPartitionBytes")


@pytest.mark.usefixtures("small_splits")
def test_a_replay_of_any_logs_is_what_the_fold_makes_and_the_daemon_goes_on(
    spark, store, command, tmp_path, connect
):
    """Table, ledger and dead letters, line by line; `verify` finds them equal; then they grow."""
    logs = any_logs(tmp_path)
    files = [file for path in logs for file in local_files(path, None)]
    urls = [pattern_of(file.url) for file in files]
    fill(spark, store, RULES, urls, lambda _: files)
    assert command.report() == expected(*logs.values())
    run = Run(*logs.values()).to_end()
    found = {log["path"]: log for log in command.status()}
    letters = dead_letters(connect)
    for number, (path, lines) in enumerate(logs.items(), 1):
        of_spark, of_fold = found.get(str(path)), run.ledger(number)
        if not lines:
            assert of_spark["lines"] == 0
            continue
        assert of_spark["lines"] == len(lines)
        assert of_spark["ignored"] == sum(n for (o, _), n in of_fold.items() if o == "ignored")
        hidden = 3 if path.name == "mark.log" else 0
        mine = [(offset - hidden, *more) for offset, *more in letters[str(path)]]
        assert mine == sorted(map(tuple, run.dead_letters(number)))
    for outcome, name in (("applied", "applied"), ("duplicate", "duplicates")):
        all_of_fold = sum(run.ledger(n).get((outcome, ""), 0) for n in range(1, len(logs) + 1))
        assert sum(log[name] for log in found.values()) == all_of_fold
    assert "no rows differ" in command("verify", *logs).stdout
    before = command.report()
    command("run", "--once", *logs)
    assert command.report() == before
    now = {path.name: lines for path, lines in logs.items()}
    more = [*generated(events=300, hours=2, seed=8), click(30 * HOUR + 5, "beat")]
    for name in ("traffic.log", "app.log", "half.log"):
        with (tmp_path / name).open("ab") as log:
            log.write(b"\n" * (name == "half.log") + log_of(more))
        now[name] += [page_load(0)[:-5]] * (name == "half.log") + more
    command("run", "--once", *logs)
    assert command.report() == expected(*now.values())


def dead_letters(connect):
    """Return {path: [(offset, length, reason, detail)]} of the live report."""
    letters = defaultdict(list)
    for letter in Reader(connect).dead_letters():
        letters[letter.path].append(tuple(letter[1:]))
    return letters


def in_files(folder, lines, count):
    """Write lines to files, one after the other; return them."""
    folder.mkdir(exist_ok=True)
    size = -(-len(lines) // count)
    return [
        write(
            folder / f"{number:03}.log",
            log_of(lines[number * size : (number + 1) * size]),
            99 - number,
        )
        for number in range(count)
    ]


def streamed(spark, store, folder, checkpoint, files_per_trigger):
    """Count what is in a folder, and return the plan by which; raise what went wrong."""
    store.adopt(RULES)
    counting = Counting(store, RULES, f"file://{checkpoint}")
    query = counting.start(spark, [url_of(f"{folder}/*")], files_per_trigger, once=True)
    try:
        query.awaitTermination()
    except StreamingQueryException:
        raise counting.error from None
    return query._jsq.explainInternal(False)  # noqa: SLF001 - explain() prints it


def out_of_order(lines, rng, by=9 * MINUTE):
    """Return lines in another order, none later than the lateness."""
    odd = set(ODD)
    last, keyed = EPOCH, []
    for line in lines:
        if line not in odd and (event := event_of(line)):
            last = max(last, event[-1])
        keyed.append((last + timedelta(seconds=rng.uniform(0, by)), line))
    return [line for _, line in sorted(keyed, key=itemgetter(0))]


def test_a_stream_of_files_gives_the_table_of_the_oracle_and_counts_what_is_late(
    spark, store, command, tmp_path
):
    """Micro-batch by micro-batch; duplicates, clicks before loads, files out of order, noise."""
    rng = random.Random(2)
    lines = generated(events=3000, hours=30, seed=9, duplicates=0.05, malformed=0.05)
    mixed = out_of_order(hostile() + lines, rng)
    files = in_files(tmp_path / "in", mixed, 6)
    files[2].rename(tmp_path / "in" / "002b.log")
    plan = streamed(spark, store, tmp_path / "in", tmp_path / "state", 2)
    assert plan.count("MapInArrow") == 1, "each line is decoded once"
    assert command.report() == expected(mixed)
    assert sum(log["lines"] for log in command.status()) == len(mixed)
    assert "no rows differ" in command("verify", tmp_path / "in" / "*").stdout
    late = [page_load(MINUTE, f"late {n}") for n in range(7)]
    end = [page_load(31 * HOUR + n) for n in range(40)]
    for number, more in enumerate((end, end[:1], late + end[:2])):
        write(tmp_path / "in" / f"1{number}.log", log_of(more), -number)
        streamed(spark, store, tmp_path / "in", tmp_path / "state", None)
    assert command.report() == expected(mixed + end)
    last = next(log for log in command.status() if log["path"].endswith("12.log"))
    assert (last["lines"], last["duplicates"]) == (9, 2)
    assert last["dead_letters_by_reason"] == {"late": 7}


def test_a_micro_batch_that_is_handed_over_twice_counts_once(spark, store, command, tmp_path):
    """Whatever of the two was not heard of: its commit, or that Spark was told of it."""
    lines = generated(events=400, hours=3, seed=10, duplicates=0.1)
    in_files(tmp_path / "in", lines, 4)
    commit, failures = store.commit, [True, False, True]

    def fail_after(*arguments):
        commit(*arguments)
        if failures and failures.pop():
            raise ConnectionLostError("the answer was lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "commit", fail_after)
        for _ in range(2):
            with pytest.raises(ConnectionLostError):
                streamed(spark, store, tmp_path / "in", tmp_path / "state", 1)
        streamed(spark, store, tmp_path / "in", tmp_path / "state", 1)
    assert command.report() == expected(lines)
    streamed(spark, store, tmp_path / "in", tmp_path / "state", 1)
    assert command.report() == expected(lines)
    with pytest.raises(CheckpointMovedError, match=r"counted it already|handed over"):
        streamed(spark, store, tmp_path / "in", tmp_path / "anew", 1)
    assert command.report() == expected(lines)


def test_files_elsewhere_are_logs_of_their_own_and_become_live_in_one_step(
    spark, store, command, connect, tmp_path
):
    """Known by their URL. What the report had of others is forgotten only when asked for."""
    lines = generated(events=400, hours=3, seed=12, duplicates=0.1)
    in_files(tmp_path / "in", lines, 2)
    mounts = "fs.viewfs.mounttable.elsewhere.link."
    spark._jsc.hadoopConfiguration().set(f"{mounts}/logs", f"file://{tmp_path}/in")  # noqa: SLF001
    other = write(tmp_path / "other.log", log_of([page_load(0)]))
    command("run", "--once", other)
    settings = RunSettings(logs=[other])
    given = None, ["viewfs://elsewhere/logs/*.log"], store
    rest = settings, Stop(), lambda *_: None, SnapshotFiles(tmp_path / "snapshots")
    with closing(Generations(connect)) as generations:
        with (
            pytest.raises(SettingsError, match=r"also counts .*other\.log"),
            replayed(*given, generations, *rest, only_these=False),
        ):
            pass
        assert command.report() == expected([page_load(0)])
        with replayed(*given, generations, *rest, only_these=True) as changes:
            assert changes.totals.after.page_loads == sum(
                row[0] for row in expected(lines).values()
            )
    assert command.report() == expected(lines)
    paths = [log["path"] for log in command.status()]
    assert paths == [f"viewfs://elsewhere/logs/00{number}.log" for number in range(2)]
