"""Answers whether the process is alive, and whether it does what it is there for."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from processor.edges.listener import Request, Response, text
from processor.errors import ProcessorError
from processor.shell.operate.metrics import Metrics
from processor.shell.operate.pulse import STUCK_SECONDS, Pulse


class Health:
    """What `/healthz` and `/readyz` tell."""

    def __init__(
        self, metrics: Metrics, pulse: Pulse, ping: Callable[[], None], ready_lag: timedelta
    ) -> None:
        self._metrics = metrics
        self._pulse = pulse
        self._ping = ping
        self._ready_lag = ready_lag

    def alive(self, _request: Request) -> Response:
        """Return 200 while the loop turns, 503 when starting anew is what helps."""
        if self._pulse.is_alive:
            return text(200, "The loop turns.")
        return text(503, f"The loop has not turned for {STUCK_SECONDS:.0f} s: start anew.")

    def ready(self, _request: Request) -> Response:
        """Return 200 while what is written to the logs gets into the report in time."""
        problems = list(self._problems())
        return text(503, "\n".join(problems)) if problems else text(200, "Up to date.")

    def _problems(self) -> Iterator[str]:
        if not self._pulse.is_alive:
            yield "The loop does not turn."
        if not self._metrics.has_begun:
            yield "The working state is not there yet: the logs are being opened."
        if self._metrics.is_failing:
            yield "The last commit failed; it is tried again."
        try:
            self._ping()
        except ProcessorError:
            yield "The database does not answer."
        now = time.monotonic()
        lags = self._metrics.lags().values()
        if catching_up := sum(lag.is_catching_up for lag in lags):
            yield f"{catching_up} logs are still catching up with what was there at the start."
        behind = max((lag.seconds(now) for lag in lags), default=0.0)
        if behind > self._ready_lag.total_seconds():
            yield f"Lines wait for {behind:.0f} s, more than {self._ready_lag} (--ready-lag)."
