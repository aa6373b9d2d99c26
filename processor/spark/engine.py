"""What the commands run: a replay by Spark, or a stream, until it is done or asked to stop."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from processor.core.model import Rules
from processor.edges.generations import Generations
from processor.edges.snapshot import SnapshotFiles
from processor.edges.store import Store
from processor.edges.view import ALL_HOURS, Changes
from processor.errors import ProcessorError, ReplacedError, SettingsError
from processor.shell.replay.recount import Logs, named_logs
from processor.shell.replay.replay import Replay, begin, forget, unfinished
from processor.shell.retry import when_connected
from processor.shell.run.daemon import Progress
from processor.shell.settings import RunSettings
from processor.shell.stop import Stop
from processor.spark.inputs import LogFile, local_files
from processor.spark.replay import fill
from processor.spark.session import in_words, spark_session
from processor.spark.stream import Counting
from processor.spark.urls import is_local, name_of, pattern_of, url_of

_LOOK_SECONDS: Final = 0.2

_log = logging.getLogger(__name__)


@contextmanager
def replayed(
    master: str | None,
    urls: Sequence[str],
    store: Store,
    generations: Generations,
    settings: RunSettings,
    stop: Stop,
    progress: Progress,
    snapshots: SnapshotFiles,
    *,
    only_these: bool,
) -> Iterator[Changes | None]:
    """Make the report anew by Spark; yield what changed, once that is live.

    Nothing, if a stop came first. Logs on this machine are then folded on, from where Spark has
    come, to where the live report is by now.

    Raises:
        ProcessorError: it cannot be made; what is live is as it was.

    """
    if not _are_local(urls):
        with _replayed_elsewhere(
            master, urls, store, generations, settings.rules, stop, only_these=only_these
        ) as changes:
            yield changes
        return
    generation = begin(
        store, generations, settings, ALL_HOURS, stop, progress, only_these=only_these
    )
    if generation is None:
        yield None
        return
    store.bind(generation, settings.rules)
    if not any(log.checkpoint.byte_offset for log in store.open_logs(()).values()):
        with generations.view() as view:
            live = view.logs(view.live.generation) if view.live else {}
        with in_words():
            _fill_from_here(master, store, settings, live, only_these=only_these)
    replay = Replay(store, generations, settings, stop, progress, snapshots, only_these=only_these)
    with replay.run() as changes:
        yield changes


def _fill_from_here(
    master: str | None, store: Store, settings: RunSettings, live: Logs, *, only_these: bool
) -> None:
    """Commit what logs on this machine hold."""
    named = named_logs(settings.logs, live, only_these=only_these)
    files = [file for path in named for file in local_files(path, live.get(path))]
    there = [file for file in files if file.found and file.found.size_bytes]
    if there:
        paths = [pattern_of(file.url) for file in there]
        fill(spark_session(master), store, settings.rules, paths, lambda _: files)


@contextmanager
def _replayed_elsewhere(
    master: str | None,
    urls: Sequence[str],
    store: Store,
    generations: Generations,
    rules: Rules,
    stop: Stop,
    *,
    only_these: bool,
) -> Iterator[Changes | None]:
    """Make the report anew of files that this machine does not have: each is a log of its own."""
    generations.must_be_allowed()
    forget(generations, unfinished(generations, stop))
    generation = generations.begin(rules, {}, store.identity)
    store.bind(generation, rules)
    with in_words():
        fill(spark_session(master), store, rules, urls, _each_a_log)
    with generations.look_later() as look:
        with generations.held() as held:
            live, new = held.logs(), store.open_logs(())
            left_out = sorted(map(str, live.keys() - set(map(Path, new))))
            if left_out and not only_these:
                raise SettingsError(
                    f"the report also counts {', '.join(left_out)}; name these logs too. "
                    "--only-these forgets what they have put into it"
                )
            changes = look().changes_to(generation)
            held.replace(generation)
        yield changes


def run(
    master: str | None,
    urls: Sequence[str],
    store: Store,
    settings: RunSettings,
    stop: Stop,
    checkpoint: str,
    files_per_trigger: int | None,
) -> None:
    """Count files into the live report, until all are, or a stop is asked for.

    Raises:
        ProcessorError: it cannot go on; what is committed is committed.

    """
    spark = spark_session(master)

    def count() -> None:
        store.adopt(settings.rules)
        counting = Counting(store, settings.rules, checkpoint)
        try:
            with in_words():
                query = counting.start(
                    spark, list(map(url_of, urls)), files_per_trigger, once=settings.once
                )
                while not stop.requested and not query.awaitTermination(_LOOK_SECONDS):
                    pass
                query.stop()
        except ProcessorError as error:
            if isinstance(counting.error, ReplacedError):
                raise ProcessorError(
                    "another generation of the report is live, and what Spark keeps belongs to the "
                    "one before. Go on with another --checkpoint, on files that it does not have"
                ) from error
            raise counting.error or error from error

    when_connected(count, stop, is_patient=True)


def _each_a_log(urls: Iterable[str]) -> list[LogFile]:
    return [LogFile(name_of(url), name_of(url)) for url in sorted(urls)]


def _are_local(urls: Sequence[str]) -> bool:
    """Whether all logs are on this machine.

    Raises:
        SettingsError: some are, and some are not.

    """
    local = set(map(is_local, urls))
    if len(local) > 1:
        raise SettingsError("URL: name logs on this machine, or elsewhere, but not both at once")
    return local == {True}
