"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelwright.evaluate._predictor import needs
from modelwright.serve._served import Served
from modelwright.serve._traces import Trace

#: Seconds that requests may take.
_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_PREFIX = "modelwright_"


class Metrics:
    """Requests by panel and status, their seconds, the queue, and what inner calls came to.

    Args:
        served: What is served; its ledgers are read when somebody asks.
    """

    def __init__(self, served: Served):
        prometheus = needs("prometheus_client", "serving", "serve")
        self._registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            f"{_PREFIX}requests", "Requests by what became of them.", ["panel", "status"], registry=self._registry
        )
        self._seconds = prometheus.Histogram(
            f"{_PREFIX}request_seconds", "Seconds of a request, waiting included.", ["panel"],
            buckets=_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(_Spending(served))
        served.ended = self._ended

    def _ended(self, trace: Trace) -> None:
        self._requests.labels(trace.panel, trace.status).inc()
        self._seconds.labels(trace.panel).observe(trace.seconds)

    def text(self) -> tuple[bytes, str]:
        """What Prometheus reads, and its content type."""
        exposition: Any = needs("prometheus_client.exposition", "serving", "serve")
        return exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_LATEST


class _Spending:
    """What the ledgers say, and how full the server is."""

    def __init__(self, served: Served):
        self._served = served

    def collect(self) -> Iterator[Any]:
        core: Any = needs("prometheus_client.core", "serving", "serve")
        for name, what in (("waiting", "Requests that wait."), ("running", "Requests that are being answered.")):
            yield core.GaugeMetricFamily(f"{_PREFIX}{name}", what, value=getattr(self._served, name))
        yield core.CounterMetricFamily(f"{_PREFIX}refused", "Requests that found the queue full.", self._served.refused)
        calls = core.CounterMetricFamily(f"{_PREFIX}inner_calls", "Calls of agents.", labels=["panel", "agent", "kind"])
        tokens = core.CounterMetricFamily(f"{_PREFIX}tokens", "Tokens paid for.", labels=["panel", "agent", "kind"])
        money = core.CounterMetricFamily(f"{_PREFIX}money", "Spent, by the panels' prices.", labels=["panel", "agent"])
        for (panel, agent), spent in self._served.spent().items():
            for kind in ("calls", "cached", "retries", "failed"):
                calls.add_metric([panel, agent, "answered" if kind == "calls" else kind], getattr(spent, kind))
            for kind, name in (("read", "tokens_in"), ("written", "tokens_out")):
                tokens.add_metric([panel, agent, kind], getattr(spent, name))
            money.add_metric([panel, agent], spent.money)
        yield from (calls, tokens, money)
