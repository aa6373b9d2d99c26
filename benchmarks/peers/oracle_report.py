"""The tests' oracle in the form of a peer, so that its rows can be compared. Never measured.

Runs in the project's venv, as a process of its own: it needs much memory.
"""

import csv
import sys
from pathlib import Path

from common import COLUMNS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import oracle


def main(log: str, out: str) -> None:
    """Make the report of a log."""
    report = oracle.report(oracle.lines_of(log))
    with Path(out).open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for customer, hour in sorted(report, key=lambda key: (key[1], key[0])):
            rows.writerow((customer, hour, *report[customer, hour]))


if __name__ == "__main__":
    main(*sys.argv[1:])
