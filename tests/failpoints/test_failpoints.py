"""Every failpoint at its first hit.

`python tests/failpoints/run_failpoints.py` does so at the first 200.
"""

import pytest
from run_failpoints import act_at, plan, shares_of, tasks_of
from workload import Workload


@pytest.fixture
def workload(database_url, tmp_path):
    """What is run, in a database of its own."""
    made = Workload(database_url, tmp_path)
    yield made
    made.close()


def test_a_crash_an_error_and_a_delay_at_every_step_change_nothing(workload):
    """Before and after each statement, COMMIT, read, fold, snapshot, reconnect and migration."""
    planned = {key: lines[:1] for key, lines in plan(workload, 3).items()}
    table = {}
    for tasks in shares_of(tasks_of(planned)):
        if tasks[0][0] == "start":
            workload.empty()
        for task in tasks:
            acted, is_equal = act_at(workload, task)
            assert is_equal, task
            table.setdefault(task[2], set()).update({task[1]} if acted else ())
    steps = {step for _, step in planned}
    for action in ("crash", "error", "delay"):
        assert len(table[action]) > 0.9 * len(steps), f"{steps - table[action]} were not met"
    needed = ("COMMIT", "UPDATE checkpoints", "read", "fold", "snapshot rename", "connect")
    assert {f"{when} {step}" for when in ("before", "after") for step in needed} <= steps
