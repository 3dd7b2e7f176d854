"""What a node counts and times about the parts it serves, for its beat and, where asked for, for Prometheus."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from edgevit import registry
from edgevit.errors import UsageError
from edgevit.fleet.bus.messages import Beat, PartFigures
from edgevit.fleet.bus.transport import Closer
from edgevit.profiles.statistics import raw_percentile

NEWEST = 256  # answers that the percentiles are of

_PROMETHEUS = ("prometheus_client",)


class Figures:
    """Of one part on this node. Written by the threads that serve it, read by the one that publishes the beat."""

    def __init__(self, revision: str, part: str) -> None:
        self.revision, self.part = revision, part
        self._lock = threading.Lock()
        self._answered = 0
        self._refused = {"busy": 0, "late": 0, "failed": 0}
        self._queue_ms: deque[float] = deque(maxlen=NEWEST)
        self._compute_ms: deque[float] = deque(maxlen=NEWEST)

    def answered(self, queue_ms: float, compute_ms: float) -> None:
        with self._lock:
            self._answered += 1
            self._queue_ms.append(queue_ms)
            self._compute_ms.append(compute_ms)

    def refused(self, kind: str) -> None:
        """``kind`` is "busy", "late" or "failed"."""
        with self._lock:
            self._refused[kind] += 1

    def record(self, queued: int) -> PartFigures:
        with self._lock:
            answered, refused = self._answered, dict(self._refused)
            queue_ms, compute_ms = list(self._queue_ms), list(self._compute_ms)
        return PartFigures(
            revision=self.revision,
            part=self.part,
            queued=queued,
            answered=answered,
            **refused,
            queue_p50_ms=_percentile(queue_ms, 0.5),
            compute_p50_ms=_percentile(compute_ms, 0.5),
            compute_p95_ms=_percentile(compute_ms, 0.95),
        )


def _percentile(ms: list[float], p: float) -> float | None:
    """As a profile gives it for its samples; None of nothing."""
    return round(raw_percentile(sorted(ms), p), 4) if ms else None


def serve_metrics(address: str, beat: Callable[[], Beat]) -> Closer:
    """Prometheus metrics of this node at ``http://HOST:PORT/metrics``, made from a fresh beat at every scrape.

    UsageError for an address that is not HOST:PORT or is taken, MissingDependency without prometheus_client.
    """
    host, port = host_port(address)
    registry.need("--metrics", _PROMETHEUS, "edgevit[fleet]")
    from prometheus_client import CollectorRegistry, start_http_server

    collectors = CollectorRegistry()
    collectors.register(_Collector(beat))
    try:
        server, thread = start_http_server(port, addr=host, registry=collectors)
    except OSError as exc:
        said = (exc.strerror or str(exc)).lower()
        raise UsageError(f"--metrics cannot listen on {address}: {said}", hint="choose another port") from exc
    return _Listening(server, thread)


def host_port(address: str) -> tuple[str, int]:
    """HOST:PORT in two; UsageError for anything else."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 1 << 16):
        raise UsageError(f"--metrics {address!r} is not HOST:PORT", hint="for example --metrics 127.0.0.1:9100")
    return host.strip("[]"), int(port)


class _Listening:
    def __init__(self, server: Any, thread: threading.Thread) -> None:
        self._server, self._thread = server, thread

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector:
    """The beat in Prometheus' words: base units, one label set a part."""

    def __init__(self, beat: Callable[[], Beat]) -> None:
        self._beat = beat

    def describe(self) -> Iterable[Any]:
        return ()  # nothing is collected to learn the names

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        beat = self._beat()
        for name, value, told in (
            ("edgevit_node_resident_bytes", beat.rss_bytes, "Memory of the node's process"),
            ("edgevit_node_memory_bytes", beat.memory_bytes, "Memory that the node gives to sub-models"),
            ("edgevit_node_free_bytes", beat.free_bytes, "What of it is free"),
            ("edgevit_node_drained", float(beat.drained), "1 when the node takes no parts"),
        ):
            gauge = GaugeMetricFamily(name, told, labels=("node",))
            gauge.add_metric((beat.node,), value)
            yield gauge
        which = ("node", "revision", "part")
        answers = CounterMetricFamily("edgevit_part_answers", "Questions answered", labels=which)
        refusals = CounterMetricFamily("edgevit_part_refusals", "Questions refused", labels=(*which, "reason"))
        queued = GaugeMetricFamily("edgevit_part_queued", "Questions waiting or in work", labels=which)
        queue = GaugeMetricFamily("edgevit_part_queue_seconds", "Time in the queue", labels=(*which, "quantile"))
        compute = GaugeMetricFamily("edgevit_part_compute_seconds", "Time in work", labels=(*which, "quantile"))
        for part in beat.parts:
            labels = (beat.node, part.revision, part.part)
            answers.add_metric(labels, part.answered)
            queued.add_metric(labels, part.queued)
            for reason in ("busy", "late", "failed"):
                refusals.add_metric((*labels, reason), getattr(part, reason))
            for family, quantile, ms in (
                (queue, "0.5", part.queue_p50_ms),
                (compute, "0.5", part.compute_p50_ms),
                (compute, "0.95", part.compute_p95_ms),
            ):
                if ms is not None:
                    family.add_metric((*labels, quantile), ms / 1e3)
        yield from (answers, refusals, queued, queue, compute)
