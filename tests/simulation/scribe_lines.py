"""The lines of a log that is simulated: no two files of it can be taken for each other."""

from core_helpers import DAY, HOUR, MINUTE, YEAR, event

from processor.core.contract import CLICK, PAGE_LOAD
from processor.shell.generate import LogShape, generate

KINDS = ["traffic"] * 6 + ["wild", "late", "again", "noise", "silence", "leap"]


def lines_of_log(rng, lines):
    """Return so many lines, in the shape of real logs or with all that can be wrong with them."""
    if rng.random() < 0.4:
        shape = LogShape(
            events=lines,
            hours=rng.choice((0.5, 2, 8)),
            seed=rng.randrange(1 << 30),
            users=rng.choice((3, 20)),
            customers=2,
            duplicates=0.05,
            malformed=0.03,
            late=0.03,
        )
        return [line.encode() for line in generate(shape)]
    return list(_anything(rng, lines))


def _anything(rng, lines):
    """Yield traffic of a few visits that come back, and what may befall a log."""
    now, recent = rng.choice((0, 0, HOUR, DAY)), []
    kinds = rng.sample(KINDS, 5) + ["traffic"] * 3
    while lines > 0:
        kind, run = rng.choice(kinds), min(rng.choice((1, 1, 3, 40)), lines)
        for _ in range(run):
            now += _goes_on(rng, kind)
            line = _line(rng, kind, now, lines, recent)
            recent = [*recent[-60:], line]
            lines -= 1
            yield line


def _goes_on(rng, kind):
    if kind == "silence":
        return rng.choice((0, 0, 0, 0, 0, 0, 0, DAY, 3 * DAY))
    if kind == "leap":
        return rng.choice((9 * MINUTE, 10 * MINUTE, 10 * MINUTE + 1, 30 * MINUTE, 41 * MINUTE))
    return rng.choice((0, 1, 20, MINUTE, 2 * MINUTE)) if kind == "traffic" else 0


def _line(rng, kind, now, number, recent):
    if kind == "noise":
        return rng.choice((b"[%d]", b"not JSON %d", b'{"event_type":"FaqClick","n":%d}')) % number
    if kind == "again" and recent:
        return rng.choice(recent)
    at = now
    if kind == "wild":
        at += rng.choice((YEAR, YEAR, YEAR + 30 * MINUTE, 2 * HOUR))
    elif kind == "late":
        at -= rng.choice((MINUTE, 10 * MINUTE, 10 * MINUTE + 1, HOUR, DAY))
    else:
        at -= rng.choice((0, 0, 0, MINUTE, 10 * MINUTE))
    visit = rng.choice("abc"), rng.choice((7, 8)), rng.choice((1, 1, 2))
    return event(rng.choice((PAGE_LOAD, CLICK)), at, *visit, ip=f"10.0.0.{number}")
