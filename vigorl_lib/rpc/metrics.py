"""Prometheus metrics of a server's calls. The label sets are closed: method and code."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_CALLS = Counter("vigorl_rpc_calls", "Finished calls.", ["method", "code"])
_SECONDS = Histogram(
    "vigorl_rpc_seconds",
    "Time from arrival to answer.",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
_IN_FLIGHT = Gauge("vigorl_rpc_in_flight", "Calls being served.")
_LOOP_LAG = Gauge("vigorl_loop_lag_seconds", "How late the event loop woke up a timer of one second.")


class CallMetrics:
    """Keeps the labelled children, whose look-up costs more than counting."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], Counter] = {}
        self._seconds: dict[str, Histogram] = {}

    def observe(self, method: str, code: str, seconds: float, in_flight: int) -> None:
        if (method, code) not in self._calls:
            self._calls[method, code] = _CALLS.labels(method, code)
            self._seconds[method] = _SECONDS.labels(method)
        self._calls[method, code].inc()
        self._seconds[method].observe(seconds)
        _IN_FLIGHT.set(in_flight)

    @staticmethod
    def loop_lag() -> Gauge:
        return _LOOP_LAG
