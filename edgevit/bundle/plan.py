"""The plan: which node runs which sub-models, what that is predicted to cost, and what is lost with each node."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgevit import render
from edgevit.artifact.claim import claimed
from edgevit.artifact.files import write_atomically
from edgevit.artifact.manifest import Sha256
from edgevit.bundle.assign import Assignment, Node, Part, assign
from edgevit.bundle.fleet_file import Fleet
from edgevit.disk import writing
from edgevit.errors import BadArtifact, UsageError
from edgevit.foreign import TEXT_BYTES, read_bounded

if TYPE_CHECKING:
    from edgevit.bundle.opened import Bundle

PLAN_SCHEMA: Literal[1] = 1
_NO_PLAN = "edgevit assign BUNDLE --fleet fleet.toml makes one"
COLUMNS = ("node", "sub-models", "latency", "from", "memory", "free", "margin", "accuracy without it")

Source = Literal["measured", "scaled", "rate"]
Accuracy = Callable[[Collection[str]], float | None]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class PlannedNode(_Model):
    """What one node is to hold. Latency is the time for one image through all of it and over the link."""

    node: str
    parts: tuple[str, ...]
    latency_ms: float
    memory_bytes: int = Field(description="predicted need of its parts")
    free_bytes: int = Field(description="what remains of its memory")
    macs: int = Field(description="of one image through its parts")
    margin: float = Field(description="share of the memory or of the energy budget that remains, the smaller one")
    latency_from: dict[str, Source] = Field(
        description="part -> measured there; scaled by MACs from parts measured there; or MACs / the stated rate"
    )


class Plan(_Model):
    """plan.json."""

    schema_version: Literal[1] = PLAN_SCHEMA
    bundle_sha256: Sha256 = Field(description="of bundle.json")
    replicas: int
    nodes: tuple[PlannedNode, ...] = Field(description="all nodes of the fleet, in its order; some may hold nothing")
    max_latency_ms: float
    accuracy: float | None = Field(description="top-1 with every part, where the bundle knows it")
    accuracy_if_lost: dict[str, float | None] = Field(
        description="node -> top-1 without the parts that only it holds; null where that was not measured"
    )

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Cells of ``COLUMNS`` for every node that holds something."""
        for one in self.nodes:
            if one.parts:
                left = self.accuracy_if_lost[one.node]
                yield (
                    one.node,
                    ", ".join(one.parts),
                    render.ms(one.latency_ms),
                    ", ".join(sorted(set(one.latency_from.values()))),
                    render.si(one.memory_bytes, "B"),
                    render.si(one.free_bytes, "B"),
                    f"{one.margin:.0%}",
                    "not measured" if left is None else f"{left:.2%}",
                )

    def summary(self) -> str:
        used = [one for one in self.nodes if one.parts]
        slowest = max(used, key=lambda one: one.latency_ms)
        known = "" if self.accuracy is None else f"; accuracy with all {self.accuracy:.2%}"
        idle = len(self.nodes) - len(used)
        return (
            f"slowest: {slowest.node}, {render.ms(self.max_latency_ms)}{known}"
            f"{f'; {idle} of {len(self.nodes)} nodes hold nothing' if idle else ''}"
        )


def plan_bundle(bundle: Bundle, fleet: Fleet, *, replicas: int = 1) -> Plan:
    """Place an opened bundle on a fleet. Raises what ``assign`` raises."""
    accuracy = bundle.manifest.accuracy
    return make_plan(
        bundle.placement_parts(),
        fleet,
        bundle_sha256=bundle.sha256,
        replicas=replicas,
        accuracy=accuracy.if_lost if accuracy else None,
    )


def make_plan(
    parts: Sequence[Part],
    fleet: Fleet,
    *,
    bundle_sha256: str,
    replicas: int = 1,
    accuracy: Accuracy | None = None,
) -> Plan:
    """The plan for ``parts``. ``accuracy(lost)`` is the top-1 without the parts of these names, None if not known.

    Raises what ``assign`` raises.
    """
    parts = fleet.parts(parts)
    nodes = fleet.rated(parts)
    found = assign(parts, nodes, replicas=replicas, fleet_file=str(fleet.file))
    known = accuracy or (lambda lost: None)
    return Plan(
        bundle_sha256=bundle_sha256,
        replicas=replicas,
        nodes=tuple(_planned(parts, fleet, nodes, found)),
        max_latency_ms=found.max_latency_ms,
        accuracy=known(()),
        accuracy_if_lost={
            node.name: known([parts[row].name for row in rows])
            for node, rows in zip(nodes, _only_there(found), strict=True)
        },
    )


def _planned(parts: Sequence[Part], fleet: Fleet, nodes: Sequence[Node], found: Assignment) -> Iterator[PlannedNode]:
    for index, (node, rows) in enumerate(zip(nodes, found.parts_on(), strict=True)):
        memory, macs = found.memory_bytes[index], found.macs[index]
        shares = [1 - memory / node.memory_bytes]
        if node.energy_macs is not None:
            shares.append(1 - macs / node.energy_macs)
        stated: Source = "rate" if fleet.nodes[index].macs_per_s else "scaled"
        yield PlannedNode(
            node=node.name,
            parts=tuple(parts[row].name for row in rows),
            latency_ms=found.latency_ms[index],
            memory_bytes=memory,
            free_bytes=node.memory_bytes - memory,
            macs=macs,
            margin=min(shares),
            latency_from={
                parts[row].name: "measured" if node.name in (parts[row].latency_ms or {}) else stated for row in rows
            },
        )


def _only_there(found: Assignment) -> list[list[int]]:
    """For each node the parts that no other node holds."""
    return [[row for row in rows if len(found.where[row]) == 1] for rows in found.parts_on()]


def write_plan(plan: Plan, out: Path) -> None:
    """Write plan.json, replacing an older plan but nothing else (UsageError)."""
    with claimed(out, least=0), writing(out, UsageError):
        if os.path.lexists(out) and not _is_plan(out):
            raise UsageError(f"{out} exists and is not a plan", hint="choose another -o")
        write_atomically(out, plan.model_dump_json(indent=2) + "\n")


def read_plan(path: Path | str) -> Plan:
    """The plan in a plan.json; UsageError where there is none to read, BadArtifact for what is no plan."""
    text = read_bounded(Path(path), TEXT_BYTES, "a plan", hint=_NO_PLAN)
    try:
        return Plan.model_validate_json(text)
    except ValidationError as exc:
        raise BadArtifact(f"{path} is not a plan", hint=_NO_PLAN) from exc


def _is_plan(path: Path) -> bool:
    try:
        read_plan(path)
    except (UsageError, BadArtifact):
        return False
    return True
