"""A fleet at one moment: a row a node, and what to say of them. Inert, whoever watched it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgevit import render
from edgevit.fleet.bus.messages import Beat, Info, Placement

COLUMNS = ("node", "state", "sub-models", "p50", "queued", "answered", "refused", "memory", "free", "load")
MACHINE_COLUMNS = ("node", "state", "system", "cores", "memory", "runtimes", "python", "edgevit", "labels")


@dataclass(frozen=True)
class NodeRow:
    """One node at one moment.

    state   up, silent (announced but no beat for 2 s), drained, or gone
    parts   names of the sub-models it has announced as ready
    p50_ms  queue and compute of its slowest sub-model, of its newest answers
    """

    node: str
    state: str
    parts: tuple[str, ...] = ()
    revisions: tuple[str, ...] = ()
    info: Info | None = None
    beat: Beat | None = None
    seen_s: float | None = None

    @property
    def alive(self) -> bool:
        return self.state != "gone"

    @property
    def p50_ms(self) -> float | None:
        parts = self.beat.parts if self.beat else ()
        known = [(one.queue_p50_ms or 0.0) + one.compute_p50_ms for one in parts if one.compute_p50_ms is not None]
        return max(known, default=None)

    @property
    def memory_bytes(self) -> int | None:
        source = self.beat or self.info
        return source.memory_bytes if source else None

    @property
    def free_bytes(self) -> int | None:
        source = self.beat or self.info
        return source.free_bytes if source else None

    def total(self, figure: str) -> int:
        """The sum of one of PartFigures' counters."""
        return sum(getattr(one, figure) for one in (self.beat.parts if self.beat else ()))

    def record(self) -> dict[str, Any]:
        info, beat = self.info, self.beat
        return {
            "node": self.node,
            "alive": self.alive,
            "state": self.state,
            "parts": list(self.parts),
            "revisions": list(self.revisions),
            "memory_bytes": self.memory_bytes,
            "free_bytes": self.free_bytes,
            "p50_ms": self.p50_ms,
            "rss_bytes": beat.rss_bytes if beat else None,
            "load": beat.load if beat else None,
            "figures": [one.model_dump() for one in beat.parts] if beat else [],
            "held": [one.model_dump() for one in info.held] if info else [],
            "labels": info.labels if info else {},
            "machine": _machine(info) if info else None,
        }

    def cells(self) -> tuple[str, ...]:
        """Cells of ``COLUMNS``."""
        refused = self.total("busy") + self.total("late") + self.total("failed")
        load = self.beat.load if self.beat else None
        return (
            self.node,
            self.state,
            ", ".join(self.parts) or "—",
            render.ms(self.p50_ms),
            str(self.total("queued")),
            f"{self.total('answered'):,}",
            f"{refused:,}",
            render.si(self.memory_bytes, "B"),
            render.si(self.free_bytes, "B"),
            "—" if load is None else f"{load:.0%}",
        )

    def machine_cells(self) -> tuple[str, ...]:
        """Cells of ``MACHINE_COLUMNS``."""
        if self.info is None:
            return (self.node, self.state, *["—"] * (len(MACHINE_COLUMNS) - 2))
        info = self.info
        return (
            self.node,
            self.state,
            f"{info.system} {info.arch}",
            str(info.cores),
            render.si(info.memory_bytes, "B"),
            ", ".join(info.runtimes),
            info.python,
            info.edgevit,
            ", ".join(f"{key}={value}" for key, value in info.labels.items()) or "—",
        )


def _machine(info: Info) -> dict[str, Any]:
    kept = ("edgevit", "arch", "system", "python", "cores", "runtimes", "macs_per_s", "started")
    return {key: value for key, value in info.model_dump(mode="json").items() if key in kept}


@dataclass(frozen=True)
class Status:
    """A fleet at one moment."""

    nodes: tuple[NodeRow, ...]
    placements: tuple[Placement, ...] = ()

    def record(self) -> list[dict[str, Any]]:
        return [node.record() for node in self.nodes]

    def rows(self) -> Iterator[tuple[str, ...]]:
        return (node.cells() for node in self.nodes)

    def machine_rows(self) -> Iterator[tuple[str, ...]]:
        return (node.machine_cells() for node in self.nodes)

    def lines(self) -> Iterator[str]:
        """The fleet in a sentence, one for every deployment, and one for everything that a node could not take."""
        alive = [node for node in self.nodes if node.alive]
        gone = len(self.nodes) - len(alive)
        yield f"{render.counted(len(alive), 'node')} up" + (f", {gone} gone" if gone else "")
        for placed in self.placements:
            if placed.withdrawn:
                continue
            wanted = {part for parts in placed.nodes.values() for part in parts}
            there = {part for node in alive if placed.revision in node.revisions for part in node.parts}
            lacking = sorted(wanted - there)
            state = f"lacks {', '.join(lacking)}" if lacking else "all there"
            yield f"{placed.name}: {len(wanted) - len(lacking)}/{len(wanted)} sub-models, {state}"
        for node in alive:
            for held in node.info.held if node.info else ():
                if held.state == "failed":
                    yield f"{node.node} could not take {held.part} of {held.deployment}: {held.reason}"
