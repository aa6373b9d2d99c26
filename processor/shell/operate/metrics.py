"""What the process tells Prometheus of itself.

Counters begin at zero with the process, as is the convention, and count what it has committed: so
they grow as the ledger does. Labels are bounded, whatever a log holds: names of event types and
reasons come from there. No metric tells of a user, a visit or a customer.

The loop and the thread that commits tell it what they do; what is asked for meanwhile is answered
from that, never from their working state.
"""

import os
import platform
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from processor.core.contract import OTHER_NAMES
from processor.core.log import MAX_IGNORED_NAMES
from processor.core.model import SECOND_US, Commit, LogCommit, Rules
from processor.edges.listener import Request, Response
from processor.shell.operate.lag import Lag
from processor.shell.run.folding import Folding

MAX_LOGS: Final = 100
"""So many logs, the first by path, have series of their own."""
LOOK_SECONDS: Final = 0.5

_BATCH_LINES: Final = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class _LogView:
    """A log as it was seen last."""

    def __init__(self, path: Path, offset: int, watermark: int | None, size_bytes: int) -> None:
        self.path = path
        self.offset = offset
        self.watermark = watermark
        self._size_bytes = size_bytes
        self._file = _stat(path)
        self.lag = Lag(offset, size_bytes, time.monotonic())

    def see(self, size_bytes: int, offset: int, *, is_idle: bool) -> None:
        """Take note of how long the log is, and of how far it is folded."""
        self._size_bytes, self._file = size_bytes, _stat(self.path)
        if is_idle:
            self.lag.settle(offset, size_bytes, time.monotonic())
        else:
            self.lag.see(size_bytes, time.monotonic())

    def look(self) -> None:
        """Look by how much it has grown since the loop looked, which may wait for the database."""
        seen, now = self._file, _stat(self.path)
        if now is not None:
            is_same = seen is not None and (seen.st_dev, seen.st_ino) == (now.st_dev, now.st_ino)
            before = seen.st_size if seen is not None and is_same else 0
            self.lag.see(self._size_bytes + max(now.st_size - before, 0), time.monotonic())

    def commit(self, log: LogCommit) -> None:
        """Take note of what is committed."""
        self.offset, self.watermark = log.checkpoint.byte_offset, log.checkpoint.watermark
        self.lag.commit(self.offset)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


class Metrics:
    """The metrics of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._logs: dict[int, _LogView] = {}
        self._open_visits = 0
        self._fold_seconds = 0.0
        self._look_at = 0.0
        self.is_failing = False
        """Whether the last try to commit failed."""
        self.has_begun = False
        """Whether the loop has opened its logs."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # process_start_time_seconds says it for all of them
        registry = self.registry = CollectorRegistry()
        self._lines = Counter(
            "processor_lines", "Lines committed, by what became of them.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self._dead_letters = Counter(
            "processor_dead_letters", "Lines committed that do not count, by reason.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self._ignored = Counter(
            "processor_ignored_lines", "Lines committed of other event types, by name.", ["name"],
            registry=registry,
        )  # fmt: skip
        self._batch_lines = Histogram(
            "processor_batch_lines", "Lines of a batch.", buckets=_BATCH_LINES, registry=registry
        )
        self._folding = Histogram(
            "processor_fold_seconds", "Time to decode and fold the lines that are read at once.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._commits = Histogram(
            "processor_commit_seconds", "Time to commit a batch, tries that failed included.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._failures = Counter(
            "processor_commit_failures", "Commits that failed, and were tried again or given up.",
            registry=registry,
        )  # fmt: skip
        self._committed_at = Gauge(
            "processor_last_commit_timestamp_seconds", "When a batch was committed last.",
            registry=registry,
        )  # fmt: skip
        self._generation = Gauge(
            "processor_generation", "The generation of the report that is written to.",
            registry=registry,
        )  # fmt: skip
        self._rules = Info("processor_rules", "What shapes the numbers.", registry=registry)
        build = {"version": version("processor"), "python": platform.python_version()}
        Info("processor_build", "What runs.", registry=registry).info(build)
        ProcessCollector(registry=registry)
        registry.register(self)
        for outcome in ("applied", "duplicate", "ignored", "dead_letter"):
            self._lines.labels(outcome)
        for reason in ("malformed", "event_type", "invalid", "late", "ahead", "too_long"):
            self._dead_letters.labels(reason)

    def adopted(self, generation: int, rules: Rules) -> None:
        """Take note of the generation that is written to from now on; nothing failed of it yet."""
        self.is_failing = False
        self._generation.set(generation)
        self._rules.info(
            {
                "attribution_window_seconds": f"{rules.attribution_window_us / SECOND_US:g}",
                "allowed_lateness_seconds": f"{rules.allowed_lateness_us / SECOND_US:g}",
                "timezone": rules.timezone,
                "max_line_bytes": str(rules.max_line_bytes),
            }
        )
        with self._lock:
            self._logs = {}

    def turned(self, folding: Folding, *, is_idle: bool) -> None:
        """Take note of how far the loop has come; `is_idle` if there was nothing to fold."""
        if folding.fold_seconds > self._fold_seconds:
            self._folding.observe(folding.fold_seconds - self._fold_seconds)
        self._fold_seconds = folding.fold_seconds
        self._open_visits = folding.fold.open_visits
        self.has_begun = True
        now = time.monotonic()
        if is_idle or now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            with self._lock:
                self._see(folding, is_idle=is_idle)

    def _see(self, folding: Folding, *, is_idle: bool) -> None:
        for path, log in folding.logs.items():
            state, size_bytes = log.state, log.size_bytes()
            if state.log_id not in self._logs:
                view = _LogView(path, state.from_offset, state.mark.at, size_bytes)
                self._logs[state.log_id] = view
            self._logs[state.log_id].see(size_bytes, state.offset, is_idle=is_idle)

    def failed(self) -> None:
        """Take note that a commit failed."""
        self.is_failing = True
        self._failures.inc()

    def committed(self, commit: Commit, seconds: float) -> None:
        """Take note of a commit, and of how long it took."""
        self.is_failing = False
        self._committed_at.set_to_current_time()
        self._commits.observe(seconds)
        self._batch_lines.observe(commit.lines)
        for log in commit.logs:
            for (outcome, name), lines in log.outcomes.items():
                self._count(outcome, name, lines)
        with self._lock:
            for log in commit.logs:
                if log.log_id in self._logs:
                    self._logs[log.log_id].commit(log)

    def _count(self, outcome: str, name: str, lines: int) -> None:
        self._lines.labels(outcome).inc(lines)
        if outcome == "dead_letter":
            self._dead_letters.labels(name).inc(lines)
        elif outcome == "ignored":
            self._ignored.labels(self._bounded(name)).inc(lines)

    def _bounded(self, name: str) -> str:
        """Return the name by which an event type is counted: several logs may each have many."""
        if name not in self._names and len(self._names) >= MAX_IGNORED_NAMES:
            return OTHER_NAMES
        self._names.add(name)
        return name

    def lags(self) -> dict[Path, Lag]:
        """Return how far behind each log is by now."""
        with self._lock:
            return {view.path: view.lag for view in self._looked_at()}

    def _looked_at(self) -> list[_LogView]:
        for view in self._logs.values():
            view.look()
        return sorted(self._logs.values(), key=lambda view: view.path)

    def collect(self) -> Iterator[Metric]:
        """Yield what is looked up when it is asked for."""
        yield GaugeMetricFamily(
            "processor_open_visits", "Visits in the working state.", self._open_visits
        )
        with self._lock:
            views = self._looked_at()
            yield GaugeMetricFamily("processor_logs", "Logs that are read.", len(views))
            yield from _of_logs(views[:MAX_LOGS])

    def answer(self, _request: Request) -> Response:
        """Return all of them, as Prometheus reads them."""
        return Response(200, CONTENT_TYPE_LATEST, generate_latest(self.registry))


def _of_logs(views: list[_LogView]) -> list[Metric]:
    offset, lag_bytes, lag_seconds, watermark = (
        GaugeMetricFamily(f"processor_log_{name}", what, labels=["log"])
        for name, what in (
            ("offset_bytes", "Bytes of the log that are accounted for."),
            ("lag_bytes", "Bytes of the log that are not yet."),
            ("lag_seconds", "For how long the oldest line has been there that is not yet."),
            ("watermark_timestamp_seconds", "How far event time has come in the log."),
        )
    )
    for view in views:
        label = [str(view.path)]
        offset.add_metric(label, view.offset)
        lag_bytes.add_metric(label, view.lag.bytes)
        lag_seconds.add_metric(label, view.lag.seconds(time.monotonic()))
        if view.watermark is not None:
            watermark.add_metric(label, view.watermark / SECOND_US)
    return [offset, lag_bytes, lag_seconds, watermark]
