"""What an operator does: deploy, undeploy, drain, rebalance. Every order is signed and has a generation.

A deployment is asked of every node first, and only if none refuses is anything moved. Nodes pull from this process
until all of them answer; if one cannot, the order that was there before is given again, under a new generation, and as
no node has let go of what ran, it goes on running.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgevit.artifact.files import write_durably
from edgevit.bundle.assign import Node, assign
from edgevit.bundle.fleet_file import Fleet, read_fleet
from edgevit.bundle.opened import Bundle
from edgevit.bundle.plan import Plan, read_plan
from edgevit.errors import EdgeVitError, FleetError, UnknownName, UsageError
from edgevit.fleet.agent import placing
from edgevit.fleet.agent.placing import Where
from edgevit.fleet.agent.release import Packed, Release, pack
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import BadMessage, Info, Placement, record
from edgevit.fleet.bus.names import checked
from edgevit.fleet.operating.operator import OnProgress, Operator, hosts, unheard
from edgevit.foreign import TEXT_BYTES, read_bounded
from edgevit.home import fleet_home

COLUMNS = ("node", "sub-models")
MAX_REPLICAS, DAY_S = 64, 86_400  # as messages.Placement has them


@dataclass(frozen=True)
class Deployed:
    """What now runs. ``notes`` say what went less well than it could have."""

    name: str
    kind: str
    revision: str
    generation: tuple[int, int]
    replicas: int
    nodes: Where
    seconds: float
    notes: tuple[str, ...] = ()
    moved: tuple[tuple[str, str, str], ...] = field(default=())

    def record(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "revision": self.revision,
            "generation": list(self.generation),
            "replicas": self.replicas,
            "nodes": {node: list(parts) for node, parts in self.nodes.items()},
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "moved": [list(move) for move in self.moved],
        }

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Cells of ``COLUMNS``."""
        for node, parts in self.nodes.items():
            yield node, ", ".join(parts)

    def summary(self) -> str:
        count = len({part for parts in self.nodes.values() for part in parts})
        return (
            f"{self.name} {self.revision[:12]}: {count} sub-models on {len(self.nodes)} nodes, "
            f"generation {'.'.join(map(str, self.generation))}, in {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class Undeployed:
    """A deployment that is no more, and the nodes that were told; others hear it when they come back."""

    name: str
    told: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "told": list(self.told), "notes": list(self.notes)}


@dataclass(frozen=True)
class DrainedNode:
    """A node that holds nothing any more, and where its parts went."""

    node: str
    drained: bool
    moved: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "drained": self.drained,
            "moved": [list(move) for move in self.moved],
            "notes": list(self.notes),
        }


# --- the commands ----------------------------------------------------------------------------------------------------


def deploy(
    path: Path | str,
    link: Link | None = None,
    *,
    plan: Plan | Path | str | None = None,
    fleet: Fleet | Path | str | None = None,
    replicas: int = 1,
    name: str | None = None,
    runtime: str | None = None,
    replace_after_s: float = 10.0,
    on_progress: OnProgress = unheard,
) -> Deployed:
    """Place a bundle or an artifact on the nodes that are there, and return when all of it answers.

    ``plan`` says who holds what; ``fleet`` is planned over as far as its nodes are there; without both, all nodes are.
    ``on_progress`` hears of every node's stages: checking, pulling (with its share), loading, ready.

    Raises PlacementImpossible when there is no room, FleetError naming the node and its reason when one refuses or
    fails, or none is there, UsageError for a plan of another bundle, BadArtifact for what is no plan; what ran before
    runs on.
    """
    started = time.monotonic()
    _check(replicas, replace_after_s)
    packed, plan = pack(path, runtime), read_plan(plan) if isinstance(plan, Path | str) else plan
    replicas = replicas if plan is None else plan.replicas
    name = checked("deployment", name or packed.name)
    with Operator.on(link) as operator:
        infos = operator.nodes()
        known = operator.placement(name)
        where = _where(packed, path, infos, known, plan=plan, fleet=fleet, replicas=replicas)
        with operator.serving(packed.find):
            placement = operator.sign(
                name=name,
                kind=packed.release.kind,
                revision=packed.release.revision,
                release=packed.sha256,
                epoch=operator.next_epoch(name, infos, known),
                replicas=replicas,
                replace_after_s=replace_after_s,
                hosts=hosts(infos),
                nodes=placing.with_spare(where, [one.node for one in infos]),
            )
            brought = operator.bring_about(placement, infos, known, on_progress)
    placement, notes = brought.placement, (*operator.notes, *brought.notes)
    _remember(placement, link)
    return Deployed(
        name,
        placement.kind,
        placement.revision,
        placement.generation,
        replicas,
        where,
        time.monotonic() - started,
        notes,
    )


def undeploy(name: str, link: Link | None = None) -> Undeployed:
    """Unload a deployment everywhere. UnknownName when no node knows it; FleetError when none is there."""
    with Operator.on(link) as operator:
        infos = operator.nodes()
        known = operator.known_placement(name)
        placement = operator.again(known, infos, nodes={}, withdrawn=True)
        failed = operator.bring_about(placement, infos, known, unheard).refused
    told = tuple(sorted(one.node for one in infos if one.node not in failed))
    if not told:
        node, reason = min(failed.items())
        raise FleetError(f"{node} refused: {reason}")
    _forget(name)
    return Undeployed(name, told, tuple(operator.notes))


def rebalance(name: str, link: Link | None = None, *, on_progress: OnProgress = unheard) -> Deployed:
    """Place a deployment anew over the nodes that are there now, and move what gains; ``moved`` says what that was."""
    started = time.monotonic()
    with Operator.on(link) as operator:
        infos = operator.nodes()
        known = operator.known_placement(name)
        parts = operator.release(known).placement_parts()
        there, nodes = [one.node for one in infos], placing.candidates(infos, known.revision)
        where = placing.better(parts, nodes, known.nodes, known.replicas)
        for part in placing.missing(parts, where):
            raise placing.impossible(part, nodes, where, parts)
        moved = tuple(placing.moves(known.nodes, where))
        placement, notes = known, tuple[str, ...]()
        if moved or known.hosts != hosts(infos):
            placement = operator.again(known, infos, nodes=placing.with_spare(where, there))
            brought = operator.bring_about(placement, infos, known, on_progress)
            placement, notes = brought.placement, brought.notes
    return Deployed(
        name,
        placement.kind,
        placement.revision,
        placement.generation,
        placement.replicas,
        dict(placement.nodes),
        time.monotonic() - started,
        (*operator.notes, *notes),
        moved,
    )


def drain(node: str, link: Link | None = None, *, undo: bool = False, on_progress: OnProgress = unheard) -> DrainedNode:
    """Move all parts of a node elsewhere, and give it none until ``undo``. Returns when it has let go of them.

    PlacementImpossible when a part fits on no other node, and nothing changes.
    """
    with Operator.on(link) as operator:
        infos = operator.nodes(wanted=node)
        if node not in {one.node for one in infos}:
            raise UnknownName("node", node, [one.node for one in infos])
        if undo:
            operator.drain(node, False)
            return DrainedNode(node, False)
        moved, notes, orders = list[tuple[str, str, str]](), list[str](), list[tuple[Placement, Placement]]()
        for known in operator.placements().values():
            if known.withdrawn or not known.nodes.get(node):
                continue
            parts = operator.release(known).placement_parts()
            nodes = placing.candidates(infos, known.revision, without=[node])
            kept = {other: held for other, held in known.nodes.items() if other != node}
            where = placing.fill(parts, nodes, kept, known.replicas)
            for part in placing.missing(parts, where):
                raise placing.impossible(part, nodes, where, parts)
            moved += placing.moves(known.nodes, where)
            second = placing.with_spare(where, [one.node for one in infos if one.node != node])
            orders.append((known, operator.again(known, infos, nodes=second)))
        operator.drain(node, True)
        try:
            for known, placement in orders:
                notes += operator.bring_about(placement, infos, known, on_progress).notes
        except BaseException:
            operator.drain(node, False)
            raise
        operator.wait_empty(node)
    return DrainedNode(node, True, tuple(moved), (*operator.notes, *notes))


def deployed_here(revision: str) -> bool:
    """Whether this machine has deployed a bundle of this revision, and not withdrawn it."""
    return revision in _deployed()


# --- who holds what --------------------------------------------------------------------------------------------------


def _where(
    packed: Packed,
    path: Path | str,
    infos: Sequence[Info],
    known: Placement | None,
    *,
    plan: Plan | None,
    fleet: Fleet | Path | str | None,
    replicas: int,
) -> Where:
    release = packed.release
    if plan is not None and fleet is not None:
        raise UsageError("a plan says already who holds what", hint="give --plan or --fleet")
    if (plan is not None or fleet is not None) and release.kind != "bundle":
        raise UsageError("plans and fleet files are for bundles", hint="leave --plan and --fleet out")
    if plan is not None:
        return _planned(plan, release, infos)
    if fleet is not None:
        return _over_file(fleet if isinstance(fleet, Fleet) else read_fleet(fleet), path, release, infos, replicas)
    parts, nodes = release.placement_parts(), placing.candidates(infos, release.revision)
    if not nodes:
        raise FleetError("every node is drained", hint="edgevit drain NODE --undo")
    if known is not None and known.revision == release.revision and not known.withdrawn:
        where = placing.better(parts, nodes, known.nodes, replicas)
        if not placing.missing(parts, where) and known.replicas == replicas:
            return where
    return placing.place(parts, nodes, replicas)


def _check(replicas: int, replace_after_s: float) -> None:
    if not 1 <= replicas <= MAX_REPLICAS:
        raise UsageError(f"{replicas} replicas of each part", hint=f"--replicas 1 to {MAX_REPLICAS}")
    if not 1 <= replace_after_s <= DAY_S:
        raise UsageError(f"a node that is gone is waited for 1 s to a day, not {replace_after_s:g} s")


def _planned(plan: Plan, release: Release, infos: Iterable[Info]) -> Where:
    if plan.bundle_sha256 != release.revision:
        raise UsageError("the plan is of another bundle, or of an older state of this one", hint="plan it anew")
    where = {one.node: one.parts for one in plan.nodes if one.parts}
    placed = {part for parts in where.values() for part in parts}
    if placed != release.parts.keys():
        wrong = min(placed ^ release.parts.keys())
        raise UsageError(f"the plan and the bundle do not have the same parts: {wrong}", hint="plan it anew")
    _all_there(where, infos)
    return where


def _all_there(wanted: Iterable[str], infos: Iterable[Info]) -> None:
    there = {one.node for one in infos}
    if absent := [node for node in wanted if node not in there]:
        raise FleetError(
            f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not there; found {', '.join(sorted(there))}",
            hint="start edgevit node there under that name, or plan over the nodes that are up",
        )


def _over_file(fleet: Fleet, path: Path | str, release: Release, infos: Sequence[Info], replicas: int) -> Where:
    """A placement over those nodes of the file that are there, with no more memory than they have."""
    there = {one.node: placing.room(one, release.revision) for one in infos if not one.drained}
    target = release.target if len(Bundle.read(path).targets) > 1 else None
    parts = [replace(part, memory_on=None) for part in fleet.parts(Bundle.open(path).placement_parts(target))]
    nodes = [
        Node(one.name, min(one.memory_bytes, there[one.name]), one.macs_per_s, one.energy_macs, one.link_mbps)
        for one in fleet.rated(parts)
        if one.name in there
    ]
    if not nodes:
        raise FleetError(
            f"no node of {fleet.file} is there; found {', '.join(sorted(there))}",
            hint="start edgevit node --name NAME on them",
        )
    found = assign(parts, nodes, replicas=replicas, fleet_file=str(fleet.file))
    return {
        node.name: tuple(parts[row].name for row in rows)
        for node, rows in zip(nodes, found.parts_on(), strict=True)
        if rows
    }


# --- what this machine has deployed ----------------------------------------------------------------------------------


def _file() -> Path:
    return fleet_home() / "deployed.json"


def _deployed() -> dict[str, Any]:
    if not _file().exists():
        return {}
    hint = "move it away, and deploy again"
    try:
        return record(read_bounded(_file(), TEXT_BYTES, "a record of deployments", error=EdgeVitError, hint=hint))
    except BadMessage as exc:
        raise EdgeVitError(f"{_file()} cannot be read: {exc}", hint=hint) from exc


def _remember(placement: Placement, link: Link | None) -> None:
    others = {revision: one for revision, one in _deployed().items() if one.get("name") != placement.name}
    here = {
        "name": placement.name,
        "kind": placement.kind,
        "epoch": placement.epoch,
        "cluster": (link or Link()).cluster,
        "nodes": {node: list(parts) for node, parts in placement.nodes.items()},
        "deployed": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    _write({**others, placement.revision: here})


def _forget(name: str) -> None:
    _write({revision: one for revision, one in _deployed().items() if one.get("name") != name})


def _write(found: Mapping[str, Any]) -> None:
    write_durably(_file(), (json.dumps(found, indent=2) + "\n").encode())
