"""What is counted of commits, whatever a log holds."""

import re

from conftest import PROJECT
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from processor.core.model import Checkpoint, Commit, LogCommit, Rules
from processor.shell.operate.metrics import MAX_LOGS, Metrics

ROLES = {"processor_reader", "processor_writer"}
LOG_METRICS = ("lag_bytes", "lag_seconds", "offset_bytes", "watermark_timestamp_seconds")
HOSTILE = '"} 1\nprocessor_lines_total{outcome="applied"} 1e9 #'


def commit(*logs):
    """Return a commit of logs, of which the outcomes are given."""
    return Commit(
        (),
        tuple(
            LogCommit(log_id, 0, Checkpoint(100), sum(outcomes.values()), outcomes, ())
            for log_id, outcomes in enumerate(logs, 1)
        ),
    )


def samples(metrics, name):
    """Return {labels: value} of a metric, read back from its text."""
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    found = (sample for family in families for sample in family.samples if sample.name == name)
    return {tuple(sample.labels.values()): sample.value for sample in found}


def test_lines_are_counted_by_what_became_of_them():
    """Over all logs and batches; outcomes and reasons that have none yet are there, as zero."""
    metrics = Metrics()
    metrics.committed(commit({("applied", ""): 3, ("dead_letter", "late"): 2}), 0.1)
    metrics.committed(commit({("applied", ""): 1}, {("duplicate", ""): 4}), 0.1)
    expected = {("applied",): 4, ("duplicate",): 4, ("ignored",): 0, ("dead_letter",): 2}
    assert samples(metrics, "processor_lines_total") == expected
    reasons = samples(metrics, "processor_dead_letters_total")
    assert reasons.pop(("late",)) == 2
    assert set(reasons.values()) == {0}
    assert samples(metrics, "processor_batch_lines_sum") == {(): 10}
    assert samples(metrics, "processor_commit_seconds_count") == {(): 2}


def test_names_of_event_types_are_bounded_over_all_logs():
    """Each log may have a hundred of its own; together they have a hundred, and the rest."""
    metrics = Metrics()
    for log in range(10):
        names = {("ignored", f"Type {log} {number}"): 1 for number in range(100)}
        metrics.committed(commit(names | {("ignored", "(other)"): 1}), 0.1)
    found = samples(metrics, "processor_ignored_lines_total")
    assert len(found) == 101
    assert found["(other)",] == 10 * 101 - 100
    assert samples(metrics, "processor_lines_total")["ignored",] == 10 * 101


def test_a_name_cannot_forge_a_metric():
    """It is escaped, and read back as it is."""
    metrics = Metrics()
    metrics.committed(commit({("ignored", HOSTILE): 1}), 0.1)
    assert samples(metrics, "processor_ignored_lines_total") == {(HOSTILE,): 1}
    assert samples(metrics, "processor_lines_total")["applied",] == 0


def test_a_failure_lasts_until_the_next_commit():
    """Each is counted, and whether the last try failed is known meanwhile."""
    metrics = Metrics()
    for _ in range(3):
        metrics.failed()
    assert metrics.is_failing
    metrics.committed(commit({("applied", ""): 1}), 0.1)
    assert not metrics.is_failing
    assert samples(metrics, "processor_commit_failures_total") == {(): 3}


def test_what_failed_of_a_generation_that_was_replaced_is_over():
    """There may be nothing left to commit of the new one that would end it."""
    metrics = Metrics()
    metrics.failed()
    metrics.adopted(2, Rules())
    assert not metrics.is_failing
    assert samples(metrics, "processor_generation") == {(): 2}


class _State:
    def __init__(self, log_id):
        self.log_id = log_id
        self.offset = self.from_offset = 10
        self.mark = type("Mark", (), {"at": 5_000_000})


class _Folding:
    """What a folding of many logs shows."""

    fold_seconds = 0.25

    def __init__(self, folder, logs):
        self.fold = type("Fold", (), {"open_visits": 7})
        self.logs = {
            folder / f"{log_id:03}.log": type(
                "Log", (), {"state": _State(log_id), "size_bytes": lambda _self: 30}
            )()
            for log_id in range(logs)
        }


def test_logs_are_bounded(tmp_path):
    """Of many logs, the first by path have series of their own; how many there are is known."""
    metrics = Metrics()
    metrics.turned(_Folding(tmp_path, MAX_LOGS + 5), is_idle=False)
    for name in LOG_METRICS:
        assert len(samples(metrics, f"processor_log_{name}")) == MAX_LOGS
    assert samples(metrics, "processor_logs") == {(): MAX_LOGS + 5}
    assert samples(metrics, "processor_log_lag_bytes")[str(tmp_path / "000.log"),] == 20
    assert samples(metrics, "processor_log_watermark_timestamp_seconds").popitem()[1] == 5
    assert samples(metrics, "processor_open_visits") == {(): 7}
    assert samples(metrics, "processor_fold_seconds_sum") == {(): 0.25}


def test_each_metric_is_explained():
    """The table in the documentation has them all, and no others."""
    metrics = Metrics()
    metrics.adopted(1, Rules())
    text = generate_latest(metrics.registry).decode()
    there = set(re.findall(r"^# TYPE (processor_\w+)", text, re.MULTILINE))
    there |= {f"processor_log_{name}" for name in LOG_METRICS}
    documented = (PROJECT / "docs/operations.md").read_text()
    assert set(re.findall(r"`(processor_[a-z_]+)[`{]", documented)) - ROLES == there
