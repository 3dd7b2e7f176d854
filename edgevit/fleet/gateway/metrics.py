"""Prometheus metrics of a gateway: its own requests, where their time went on every node, and what the nodes say."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgevit.fleet.gateway.answering import Said
from edgevit.fleet.operating.watch import Watch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SERIES = 1000  # pairs of node and sub-model; more are not counted one by one
COUNTED = {
    "answered": "Questions that the node answered",
    "busy": "Questions that the node refused because its queue was full",
    "late": "Questions that the node did not begin because their deadline had passed",
    "failed": "Bad questions and engine errors",
}


class Metrics:
    """A registry of its own, so that one process can hold several gateways."""

    def __init__(self, watch: Watch | None = None) -> None:
        self.registry = into = CollectorRegistry()
        self.requests = Counter("edgevit_requests", "Requests by how they ended", ("outcome",), registry=into)
        self.latency = Histogram("edgevit_request_seconds", "Time to a whole answer", buckets=SECONDS, registry=into)
        self.degraded = Counter("edgevit_degraded_answers", "Answers without one sub-model or more", registry=into)
        self.missing = Counter(
            "edgevit_missing", "Sub-models that gave nothing by the deadline", ("part",), registry=into
        )
        self.in_flight = Gauge("edgevit_in_flight", "Requests being worked on", registry=into)
        self.queue = self._split("edgevit_queue_seconds", "Time in a node's queue")
        self.compute = self._split("edgevit_compute_seconds", "Time in a node's engine")
        self.network = self._split("edgevit_network_seconds", "Time on the way to a node and back")
        self._known: set[tuple[str, str]] = set()
        for outcome in ("answered", "degraded", "rejected", "refused", "failed"):
            self.requests.labels(outcome)
        if watch is not None:
            self.registry.register(_Nodes(watch))

    def _split(self, name: str, said: str) -> Histogram:
        return Histogram(name, said, ("node", "part"), buckets=SECONDS, registry=self.registry)

    def answered(self, said: Said) -> None:
        """One request was answered."""
        self.requests.labels("degraded" if said.degraded else "answered").inc()
        self.latency.observe(said.latency_ms / 1e3)
        if said.degraded:
            self.degraded.inc()
        for gone in said.missing:
            self.missing.labels(gone.part).inc()
        for one in said.timings:
            labels = (one.node, one.part)
            if labels not in self._known and len(self._known) >= SERIES:
                continue
            self._known.add(labels)
            self.queue.labels(*labels).observe(one.queue_ms / 1e3)
            self.compute.labels(*labels).observe(one.compute_ms / 1e3)
            self.network.labels(*labels).observe(one.network_ms / 1e3)

    def failed(self, kind: str) -> None:
        """One request was not answered: "refused" for lack of room, "rejected" as wrong, "failed"."""
        self.requests.labels(kind).inc()

    def text(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class _Nodes(Collector):
    """What nodes announce and publish, read when it is asked for."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        nodes = self.watch.status().nodes
        up = GaugeMetricFamily("edgevit_node_up", "1 while the node is there and speaks", labels=("node",))
        memory = GaugeMetricFamily("edgevit_node_memory_bytes", "Given to sub-models", labels=("node",))
        free = GaugeMetricFamily("edgevit_node_free_bytes", "Of that, what is left", labels=("node",))
        rss = GaugeMetricFamily("edgevit_node_rss_bytes", "Resident memory of the agent", labels=("node",))
        load = GaugeMetricFamily("edgevit_node_load", "Load of the last minute, per core", labels=("node",))
        by_part = ("node", "part", "revision")
        queued = GaugeMetricFamily("edgevit_node_queued", "Questions waiting", labels=by_part)
        counts = {
            figure: CounterMetricFamily(f"edgevit_node_{figure}", said, labels=by_part)
            for figure, said in COUNTED.items()
        }
        for row in nodes:
            up.add_metric((row.node,), float(row.state in ("up", "drained")))
            if row.beat is None:
                continue
            memory.add_metric((row.node,), row.beat.memory_bytes)
            free.add_metric((row.node,), row.beat.free_bytes)
            rss.add_metric((row.node,), row.beat.rss_bytes)
            if row.beat.load is not None:
                load.add_metric((row.node,), row.beat.load)
            for one in row.beat.parts:
                labels = (row.node, one.part, one.revision[:12])
                queued.add_metric(labels, one.queued)
                for figure, family in counts.items():
                    family.add_metric(labels, getattr(one, figure))
        yield from (up, memory, free, rss, load, queued, *counts.values())
