"""Counts again what the live report has counted, and compares.

Nothing is committed: what was counted goes into a view of the database that nobody else sees.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from processor.core.contract import CONTRACT_VERSION
from processor.core.model import HOUR_US, Checkpoint, Chunk, Increment, Rules
from processor.edges.duckdb_report import report_of
from processor.edges.files import logs_of, size_of
from processor.edges.generations import Generations
from processor.edges.history import gone, known_by
from processor.edges.source import LogReader, readable_from
from processor.edges.store import EPOCH, StoredLog, differing_rules
from processor.edges.view import ALL_HOURS, Generation, Hours, View
from processor.errors import LogError, SettingsError
from processor.shell.run.daemon import Progress, collect_seldom
from processor.shell.run.folding import Folding
from processor.shell.run.snapshots import Snapshots
from processor.shell.settings import RunSettings
from processor.shell.stop import Stop

Logs = dict[Path, StoredLog]

_log = logging.getLogger(__name__)


class Engine(StrEnum):
    """What counts again."""

    FOLD = "fold"
    DUCKDB = "duckdb"


@contextmanager
def recounted(
    generations: Generations,
    settings: RunSettings,
    hours: Hours,
    stop: Stop,
    progress: Progress,
    rules: Rules | None = None,
    engine: Engine = Engine.FOLD,
    scratch: Path | None = None,
    *,
    only_these: bool = False,
) -> Iterator[View | None]:
    """Yield a view in which some hours are counted again, up to where the live report has read.

    By `rules`, and with logs that it does not have yet; or by its own, and just its logs. None if a
    stop came before the end. DuckDB reads all hours, and uses the folder `scratch`.

    Raises:
        ProcessorError: that cannot be done.

    """
    collect_seldom()
    with generations.view() as view:
        live = view.live
        if live is None:
            raise SettingsError("there is no report yet; make one with `processor run LOG...`")
        stored = view.logs(live.generation)
        named = named_logs(settings.logs, stored, only_these=only_these)
        if rules is None or hours != ALL_HOURS:
            must_agree(live, rules or live.rules)
            named = [path for path in named if path in stored]
        rules = rules or live.rules
        ends = {path: stored[path].checkpoint.byte_offset for path in named if path in stored}
        read = hours if engine is Engine.FOLD else ALL_HOURS
        starts = starts_of(view, live, rules, named, read, accept_loss=settings.accept_loss)
        logs = {
            path: pinned(path, stored.get(path, _NEW))._replace(log_id=number, checkpoint=start)
            for number, (path, start) in enumerate(starts.items())
        }

        def add(increments: Sequence[Increment]) -> None:
            view.recount(live.generation, increments)

        if engine is Engine.FOLD:
            recount(settings, rules, logs, ends, hours, add, stop, progress)
        else:
            report = report_of(_chunks(logs, ends, rules, stop, progress), rules, scratch)
            add([row for row in report if _is_in(row.hour, hours)])
        yield None if stop.requested else view


def recount(
    settings: RunSettings,
    rules: Rules,
    logs: Mapping[Path, StoredLog],
    ends: Mapping[Path, int],
    hours: Hours,
    add: Callable[[Sequence[Increment]], None],
    stop: Stop,
    progress: Progress,
) -> None:
    """Fold logs from their checkpoints up to their ends, and add what falls into some hours.

    Ends before them where no line that follows can fall into these hours.
    """
    once = settings.model_copy(update={"once": True})
    folding = Folding(once, rules, stop, Snapshots(None, rules))
    folding.ends = ends
    needed_until = None if hours.end is None else us_of(hours.end) + rules.attribution_window_us

    def flush() -> None:
        if commit := folding.fold.cut():
            add([i for i in commit.increments if _is_in(i.hour, hours)])

    def make_room(lines: int) -> None:
        if folding.fold.batch_lines + lines > settings.batch_lines:
            flush()

    try:
        folding.open_anew(logs)
        while not stop.requested and folding.next(make_room):
            progress(folding.bytes_folded, folding.bytes_in_all)
            if needed_until is not None and folding.is_past(needed_until):
                break
        flush()
    finally:
        folding.close()


def must_agree(live: Generation, rules: Rules) -> None:
    """Look whether a generation is made by rules, and by this version of the contract.

    Raises:
        SettingsError: it is not.

    """
    differences = differing_rules(live.rules, rules)
    if live.contract_version != CONTRACT_VERSION:
        differences = f"contract version was {live.contract_version}, is {CONTRACT_VERSION}"
    if differences:
        raise SettingsError(
            f"the report was made by other rules ({differences}); only all of it can be made anew "
            "by these, with `processor replay`"
        )


def named_logs(patterns: Sequence[Path], stored: Logs, *, only_these: bool) -> list[Path]:
    """Return the logs that are meant, with those that a report has in mind.

    Raises:
        SettingsError: one is not there, or the report has others too.

    """
    named = logs_of(patterns, stored)
    missing = [log for log in named if log not in stored and size_of(log) is None]
    if missing or not named:
        raise SettingsError(f"{(*missing, *patterns)[0]}: there is no such file")
    if (left_out := stored.keys() - set(named)) and not only_these:
        raise SettingsError(
            f"the report also counts {', '.join(sorted(map(str, left_out)))}; name these logs too. "
            "`processor replay --only-these` forgets what they have put into it"
        )
    return named


def starts_of(
    view: View,
    live: Generation,
    rules: Rules,
    named: Iterable[Path],
    hours: Hours,
    *,
    accept_loss: bool,
) -> dict[Path, Checkpoint]:
    """Return from where each log is to be read again for some hours.

    Raises:
        LogError: it is not there any more from there on.

    """
    stored = view.logs(live.generation)
    seeks: dict[Path, Checkpoint] = {}
    if hours.first is not None:
        needed = max(us_of(hours.first) - rules.attribution_window_us, _FIRST_INSTANT)
        seeks = view.seek(live.generation, needed)
    starts = {path: seeks.get(path, Checkpoint()) for path in named}
    for path in starts.keys() & stored.keys():
        end = stored[path].checkpoint.byte_offset
        files = pinned(path, stored[path]).files
        there_from = readable_from(path, files, end) if end else 0
        if there_from <= starts[path].byte_offset:
            continue
        lost = f"{path}: bytes {starts[path].byte_offset} to {there_from} are in no file any more"
        if not accept_loss:
            after = view.readable_after(live.generation, path, there_from)
            raise LogError(
                f"{lost}; what they counted cannot be counted again. Put the files back; "
                f"--accept-loss goes on without them{_or_from(after, rules)}"
            )
        _log.warning("%s; what they counted is not counted again", lost)
        mark = stored[path].checkpoint.watermark if there_from == end else None
        starts[path] = Checkpoint(there_from, mark, there_from, mark)
    return starts


def pinned(path: Path, log: StoredLog) -> StoredLog:
    """Return a log with its files as it is known by, also if an old version has kept none."""
    return log._replace(files=known_by(path, log.files, log.checkpoint.byte_offset))


def us_of(moment: datetime) -> int:
    """Return an instant in microseconds since the epoch."""
    return (moment - EPOCH) // timedelta(microseconds=1)


_FIRST_INSTANT: Final = us_of(datetime.min.replace(tzinfo=UTC))


def _or_from(after: int | None, rules: Rules) -> str:
    """Say from which hour on all is there, if that is known."""
    if after is None:
        return ""
    try:
        hour = EPOCH + timedelta(hours=(after + rules.attribution_window_us) // HOUR_US + 1)
    except OverflowError:  # no hour is left before the year 10000
        return ""
    return f"; or take only the hours that are left, with --from {hour:%Y-%m-%dT%H:%M}"


def _is_in(hour: int, hours: Hours) -> bool:
    at = hour * HOUR_US
    return (hours.first is None or at >= us_of(hours.first)) and (
        hours.end is None or at < us_of(hours.end)
    )


_NEW: Final = StoredLog(0, Checkpoint(), [], [])


def _chunks(
    logs: Mapping[Path, StoredLog],
    ends: Mapping[Path, int],
    rules: Rules,
    stop: Stop,
    progress: Progress,
) -> Iterator[Iterator[Chunk]]:
    """Yield the lines of each log up to its end, all at once, one log after the other."""
    in_all, before = sum(ends.values()), 0

    def chunks(path: Path, log: StoredLog) -> Iterator[Chunk]:
        offset = log.checkpoint.byte_offset
        reader = LogReader(path, offset, log.files, 0, rules.max_line_bytes)
        try:
            while offset < ends[path] and not stop.requested:
                if (chunk := reader.read(end=ends[path])) is None:
                    raise gone(path, offset)
                offset = chunk.end
                progress(before + offset, in_all)
                yield chunk
        finally:
            reader.close()

    for path, log in logs.items():
        yield chunks(path, log)
        before += ends[path]
