"""A fortnight in minutes: a daemon under load and rotation, looked at all the time."""

import gzip
import itertools
import json
import random
import shutil
import threading
import time
from collections import Counter
from datetime import timedelta

import pytest
from conftest import wait_until
from listening import Listening
from oracle import lines_of, report

from processor.shell.generate import START, LogShape, generate

DAYS = 14
LINES_A_DAY = 40_000
KEPT_FILES = 3
SETTLED_AFTER_DAYS = 4


class Scraper(threading.Thread):
    """Scrapes all the time, as Prometheus would in a fortnight; keeps what must not go back."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self._daemon = daemon
        self.scrapes = 0
        self.errors = []
        self.ends = False
        self._last = {}

    def run(self):
        """Scrape, until told to end."""
        while not self.ends:
            try:
                self._look(self._daemon.metrics())
            except Exception as error:  # noqa: BLE001 - it is told by the test
                self.errors.append(repr(error))
            self.scrapes += 1
            time.sleep(0.1)

    def _look(self, metrics):
        for name, samples in metrics.items():
            if name.endswith(("_total", "_count", "_bucket", "offset_bytes")):
                for labels, value in samples.items():
                    before = self._last.get((name, labels), 0)
                    if value < before:
                        self.errors.append(f"{name}{labels} went from {before} to {value}")
                    self._last[name, labels] = value


def by_day():
    """Yield the lines of each day, duplicates, late and broken ones among them."""
    shape = LogShape(
        events=DAYS * LINES_A_DAY, hours=24 * DAYS, customers=20, users=5_000, seed=14,
        duplicates=0.01, malformed=0.005, late=0.005,
    )  # fmt: skip
    lines = iter(generate(shape))
    for _ in range(DAYS):
        yield list(itertools.islice(lines, LINES_A_DAY))


def rotate(path):
    """Rotate as logrotate does with `delaycompress`: rename, compress the one before, forget."""
    numbered = [path.with_name(f"{path.name}.{number}") for number in range(1, KEPT_FILES + 1)]
    zipped = [file.with_name(file.name + ".gz") for file in numbered]
    zipped[-1].unlink(missing_ok=True)
    for older, newer in zip(reversed(zipped[2:]), reversed(zipped[1:-1]), strict=True):
        if newer.exists():
            newer.rename(older)
    if numbered[0].exists():
        with numbered[0].open("rb") as plain, gzip.open(zipped[1], "wb", 1) as packed:
            shutil.copyfileobj(plain, packed)
        numbered[0].unlink()
    path.rename(numbered[0])


def counted(metrics):
    """Return lines by outcome, as counted by the process."""
    return Counter({k[0]: int(v) for k, v in metrics["processor_lines_total"].items()})


def ledger(command):
    """Return the same by the ledger, and the offset."""
    (log,) = command.status()
    names = {"applied": "applied", "duplicates": "duplicate", "ignored": "ignored"}
    names["dead_letters"] = "dead_letter"
    return Counter({name: log[column] for column, name in names.items()}), log["byte_offset"]


def parts(lines, dice):
    """Yield lines as they are written: some thousands at once."""
    at = 0
    while at < len(lines):
        end = at + dice.randint(1, 8_000)
        yield "".join(f"{line}\n" for line in lines[at:end])
        at = end


def caught_up(daemon, written):
    """Wait until so many bytes are accounted for; return the metrics of then."""

    def offset():
        return sum(daemon.metrics()["processor_log_offset_bytes"].values())

    wait_until(lambda: offset() == written, seconds=120, what=f"byte {written}")
    return daemon.metrics()


@pytest.mark.torture
def test_a_fortnight(command, tmp_path):
    """No growth, no gap, counters equal to the ledger each day, the report that of the oracle."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    log, whole = tmp_path / "app.log", tmp_path / "whole.jsonl"
    log.touch()
    daemon = Listening(command, log, "--batch-seconds", 0.05)
    scraper = Scraper(daemon)
    scraper.start()
    days, written = [], 0
    print("day     lines seconds    MiB  visits files scrapes")
    for day, lines in enumerate(by_day(), 1):
        started = time.monotonic()
        if day > 1:
            rotate(log)
        for part in parts(lines, dice):
            for path in (log, whole):
                with path.open("a") as file:
                    file.write(part)
            written += len(part.encode())
        metrics = caught_up(daemon, written)
        assert (counted(metrics), written) == ledger(command)
        assert daemon.get("/readyz")[0] == 200
        days.append(metrics)
        print(
            f"{day:3} {counted(metrics).total():9,} {time.monotonic() - started:7.1f} "
            f"{metrics['process_resident_memory_bytes'][()] / (1 << 20):6.1f} "
            f"{metrics['processor_open_visits'][()]:7.0f} {metrics['process_open_fds'][()]:5.0f} "
            f"{scraper.scrapes:7}"
        )
    scraper.ends = True
    scraper.join()
    assert scraper.errors == []
    assert counted(days[-1]).total() == DAYS * LINES_A_DAY
    settled, last = days[SETTLED_AFTER_DAYS - 1], days[-1]
    for name, most in (
        ("process_resident_memory_bytes", 1.1),
        ("processor_open_visits", 1.5),
        ("process_open_fds", 1.2),
    ):
        assert last[name][()] <= most * settled[name][()], name
    watermark = last["processor_log_watermark_timestamp_seconds"][(str(log),)]
    assert watermark > (START + timedelta(days=DAYS) - timedelta(minutes=5)).timestamp()
    daemon.process.terminate()
    _, said = daemon.process.communicate(timeout=20)
    assert daemon.process.returncode == 0
    assert [line for line in said.splitlines() if json.loads(line)["level"] != "info"] == []
    assert command.report() == report(lines_of(whole))
