"""What the dashboard shows: the nodes and what they hold, where the time of the newest answers went, and what happened.

Of a fleet the nodes come from ``status.Watch``; an embedded model is one node, this process. Timings are of this
gateway's own requests.
"""

from __future__ import annotations

import platform
import threading
import time
from collections import Counter, deque
from statistics import median
from typing import Any

from edgevit.fleet.asking.answers import PartTiming
from edgevit.fleet.gateway.answering import HERE, Answering, Said
from edgevit.fleet.operating.rows import NodeRow
from edgevit.fleet.operating.watch import Watch

NEWEST = 50  # answers of a sub-model that its figures are made of
WINDOW_S = 10.0  # that the request rate is counted over
EVENTS = 60


class Live:
    """Thread-safe. ``snapshot`` is JSON for the page."""

    def __init__(self, model: Answering, watch: Watch | None = None) -> None:
        self.model, self.watch = model, watch
        self._lock = threading.Lock()
        self._timings: dict[tuple[str, str], deque[PartTiming]] = {}
        self._when: deque[float] = deque(maxlen=10_000)
        self._latencies: deque[float] = deque(maxlen=NEWEST)
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._counts: Counter[str] = Counter()
        self._missing: tuple[str, ...] = ()
        self._number = 0
        if watch is not None:
            watch.on_event = self.event
            watch.ask_info()

    def event(self, kind: str, sentence: str) -> None:
        """Something happened; never blocks."""
        with self._lock:
            self._number += 1
            self._events.append({"id": self._number, "at": time.time(), "kind": kind, "said": sentence})

    def answered(self, said: Said) -> None:
        """One of this gateway's own requests was answered."""
        missing = tuple(one.part for one in said.missing)
        with self._lock:
            self._when.append(time.monotonic())
            self._latencies.append(said.latency_ms)
            self._counts["answered"] += 1
            self._counts["degraded"] += said.degraded
            for one in said.timings:
                self._timings.setdefault((one.node, one.part), deque(maxlen=NEWEST)).append(one)
            changed, self._missing = missing != self._missing, missing
        if changed:
            self.event("degraded" if missing else "whole", said.sentence())

    def failed(self, kind: str) -> None:
        """One of this gateway's own requests was not: "refused", "rejected" or "failed"."""
        with self._lock:
            self._counts[kind] += 1

    def snapshot(self) -> dict[str, Any]:
        """Everything, as JSON."""
        if self.watch:
            self.watch.silences()
            rows = self.watch.status().nodes
        else:
            rows = ()
        now = time.monotonic()
        with self._lock:
            recent = [at for at in self._when if now - at <= WINDOW_S]
            nodes = [self._node(row) for row in rows] if self.watch else [self._here()]
            return {
                "model": self.model.name,
                "version": self.model.version,
                "where": self.model.where,
                "takes_images": self.model.takes_images,
                "draws": self.model.draws,
                "parts": [
                    {"part": part, "classes": list(classes), "nodes": _holders(nodes, part)}
                    for part, classes in self.model.parts.items()
                ],
                "nodes": nodes,
                "rate": round(len(recent) / WINDOW_S, 2),
                "p50_ms": _middle(self._latencies),
                "answered": self._counts["answered"],
                "degraded": self._counts["degraded"],
                "refused": self._counts["refused"] + self._counts["rejected"] + self._counts["failed"],
                "events": list(self._events),
            }

    def _node(self, row: NodeRow) -> dict[str, Any]:
        """One node of a fleet. Only the parts of this model are named; others are counted."""
        info, beat = row.info, row.beat
        mine = {one.part: one for one in (beat.parts if beat else ())}
        return {
            "node": row.node,
            "state": row.state,
            "machine": f"{info.system} {info.arch}, {info.cores} cores" if info else None,
            "labels": dict(info.labels) if info else {},
            "memory_bytes": row.memory_bytes if row.alive else None,
            "free_bytes": row.free_bytes if row.alive else None,
            "load": beat.load if beat else None,
            "parts": [
                self._part(row.node, part) | {"queued": mine[part].queued if part in mine else None}
                for part in row.parts
                if part in self.model.parts or not self.model.parts
            ],
        }

    def _here(self) -> dict[str, Any]:
        return {
            "node": HERE,
            "state": "up",
            "machine": f"{platform.system()} {platform.machine()}",
            "labels": {},
            "memory_bytes": None,
            "free_bytes": None,
            "load": None,
            "parts": [self._part(HERE, part) for part in (self.model.parts or {"model": ()})],
        }

    def _part(self, node: str, part: str) -> dict[str, Any]:
        seen = self._timings.get((node, part), ())
        return {
            "part": part,
            "queue_ms": _middle([one.queue_ms for one in seen]),
            "compute_ms": _middle([one.compute_ms for one in seen]),
            "network_ms": _middle([one.network_ms for one in seen]),
        }


def _holders(nodes: list[dict[str, Any]], part: str) -> list[str]:
    there = (node for node in nodes if node["state"] != "gone")
    return [node["node"] for node in there if any(one["part"] == part for one in node["parts"])]


def _middle(values: deque[float] | list[float]) -> float | None:
    return round(median(values), 3) if values else None
