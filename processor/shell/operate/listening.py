"""What a run serves over HTTP, if it is told where."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from processor.edges.listener import Address, Listener, Route
from processor.shell.operate.health import Health
from processor.shell.operate.metrics import Metrics


@contextmanager
def listening(address: Address | None, routes: Mapping[str, Route]) -> Iterator[None]:
    """Serve routes meanwhile; nothing without an address.

    Raises:
        SettingsError: the address is not to be had.

    """
    if address is None:
        yield
        return
    with Listener(address, routes):
        yield


def routes_of(metrics: Metrics, health: Health) -> dict[str, Route]:
    """Return what operators ask for."""
    return {"/healthz": health.alive, "/readyz": health.ready, "/metrics": metrics.answer}
