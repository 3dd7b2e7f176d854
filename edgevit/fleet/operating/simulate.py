"""What a fleet would do, from figures alone: how long answers take at a rate of images, what is left when nodes die.

A plan says which node holds which sub-models and how long they take there. Images arrive at random (a Poisson process);
each is sent to one replica of every sub-model, chosen at random; a node's link and its processor are two queues, one
after the other, first come, first served. The answer is there when its slowest sub-model is. Nothing is moved when a
node dies: this is the time before the controller has placed its sub-models anew.

Failures are counted exactly for up to 12 nodes that hold something, else over random draws with a fixed seed. What a
bundle's ``accuracy`` did not measure counts as never right, so that the expected accuracy is a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import render
from edgevit.artifact.manifest import Array
from edgevit.bundle.fleet_file import read_fleet
from edgevit.bundle.opened import Bundle
from edgevit.bundle.plan import Accuracy, Plan, plan_bundle, read_plan
from edgevit.errors import UnknownName, UsageError

COLUMNS = ("node", "sub-models", "load", "p50", "p99", "accuracy without it")
CELLS = 1_000_000  # requests × nodes of one simulation
REQUESTS = (200, 20_000)
WARM_UP = 0.1  # share of the requests that only fill the queues
EXACT_NODES = 12
DRAWS = 20_000


@dataclass(frozen=True)
class Fleet:
    """A plan as the simulation sees it.

    where      nodes (indices) of each part's replicas
    service_s  (parts, nodes) seconds of one image; 0 where the part is not held
    upload_s   (nodes,) seconds to send one image for one part
    """

    nodes: tuple[str, ...]
    parts: tuple[str, ...]
    where: tuple[tuple[int, ...], ...]
    service_s: Array
    upload_s: Array

    @cached_property
    def used(self) -> tuple[int, ...]:
        return tuple(sorted({node for nodes in self.where for node in nodes}))

    def without(self, lost: Collection[str]) -> Fleet:
        """The fleet with these nodes dead."""
        dead = {index for index, name in enumerate(self.nodes) if name in lost}
        left = tuple(tuple(node for node in nodes if node not in dead) for nodes in self.where)
        return Fleet(self.nodes, self.parts, left, self.service_s, self.upload_s)

    def held(self) -> dict[int, list[int]]:
        """The parts (indices) of every node that holds any."""
        found: dict[int, list[int]] = {node: [] for node in self.used}
        for part, nodes in enumerate(self.where):
            for node in nodes:
                found[node].append(part)
        return found

    def missing(self) -> tuple[str, ...]:
        """Parts that no node holds."""
        return tuple(part for part, nodes in zip(self.parts, self.where, strict=True) if not nodes)


@dataclass(frozen=True)
class NodeLoad:
    """One node at the rate asked for. ``load`` is the share of time that its busier half, link or processor, works; at
    1 or more it falls behind, its queue refuses images, and it has no latency."""

    node: str
    parts: tuple[str, ...]
    load: float
    p50_ms: float | None
    p99_ms: float | None
    accuracy_without: float | None


@dataclass(frozen=True)
class Failures:
    """Shares of the time that all sub-models, some, or none are there, when every node is down with ``probability``.

    ``accuracy_at_least`` counts what was not measured (a share of ``unmeasured``) as never right.
    """

    probability: float
    complete: float
    degraded: float
    none: float
    accuracy_at_least: float | None
    unmeasured: float


@dataclass(frozen=True)
class Simulation:
    """What would happen. ``p50_ms`` and ``p99_ms`` are of whole answers, None when a node falls behind."""

    rate: float
    parts: int
    fleet_nodes: int
    lost: tuple[str, ...]
    missing: tuple[str, ...]
    missing_classes: tuple[str, ...]
    p50_ms: float | None
    p99_ms: float | None
    capacity: float
    accuracy: float | None
    accuracy_now: float | None
    failures: Failures | None
    nodes: tuple[NodeLoad, ...]

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Cells of ``COLUMNS``, the busiest node first."""
        for one in sorted(self.nodes, key=lambda node: -node.load):
            left = one.accuracy_without
            yield (
                one.node,
                ", ".join(one.parts),
                f"{one.load:.0%}",
                render.ms(one.p50_ms),
                render.ms(one.p99_ms),
                "not measured" if left is None else f"{left:.2%}",
            )

    def lines(self) -> Iterator[str]:
        """What people read first."""
        yield f"{self.parts} sub-models on {len(self.nodes)} of {self.fleet_nodes:,} nodes at {self.rate:g} images/s"
        yield from self._speed()
        yield from self._lost()
        if self.failures is not None:
            yield self._failing(self.failures)

    def _speed(self) -> Iterator[str]:
        if not self.nodes:
            return
        busiest = max(self.nodes, key=lambda node: node.load)
        most = f"at most {self.capacity:.3g} images/s, then {busiest.node} falls behind"
        if self.p50_ms is None:
            yield f"too much: {busiest.node} is asked for {busiest.load:.2f} times what it can do; {most}"
        else:
            yield f"answers: p50 {render.ms(self.p50_ms)}, p99 {render.ms(self.p99_ms)}; {most}"

    def _lost(self) -> Iterator[str]:
        before = "not measured" if self.accuracy is None else f"{self.accuracy:.2%}"
        if not self.lost:
            yield f"accuracy with all sub-models: {before}"
            return
        who = f"without {', '.join(self.lost)}"
        if not self.missing:
            yield f"{who}: every sub-model is still there, accuracy {before}"
        elif len(self.missing) == self.parts:
            yield f"{who}: no sub-model is left, nothing is answered"
        else:
            now = "not measured" if self.accuracy_now is None else f"{self.accuracy_now:.2%}"
            yield (
                f"{who}: degraded {self.parts - len(self.missing)}/{self.parts} (missing: {', '.join(self.missing)}; "
                f"classes {', '.join(self.missing_classes)}), accuracy {now} instead of {before}"
            )

    def _failing(self, one: Failures) -> str:
        least = "not measured" if one.accuracy_at_least is None else f"at least {one.accuracy_at_least:.2%}"
        which = "every other node" if self.lost else "every node"
        return (
            f"{which} down {one.probability:.2%} of the time: complete {one.complete:.3%}, degraded "
            f"{one.degraded:.3%}, no answer {one.none:.3%}; accuracy {least}"
        )


def simulate(
    path: Path | str,
    *,
    fleet: Path | str | None = None,
    plan: Path | str | None = None,
    replicas: int = 1,
    rate: float = 1.0,
    lose: Sequence[str] = (),
    fail_probability: float | None = None,
) -> Simulation:
    """A bundle on a fleet file, placed as ``edgevit assign`` would, or on the plan that it wrote.

    ``rate`` in images per second; ``lose`` names dead nodes; every node is down with ``fail_probability``.
    Sending the image is counted where a fleet file states ``link_mbps``. Raises what ``plan_bundle`` raises,
    UsageError, BadArtifact for a plan that is none, UnknownName for a node that there is not.
    """
    bundle = Bundle.open(path)
    read = None if fleet is None else read_fleet(fleet)
    if plan is not None:
        placed = _plan_of(bundle, plan)
    elif read is not None:
        placed = plan_bundle(bundle, read, replicas=replicas)
    else:
        raise UsageError("nothing says which nodes there are", hint="--fleet fleet.toml, or --plan plan.json")
    links = {} if read is None else {node.name: node.link_mbps for node in read.nodes if node.link_mbps}
    image = bundle.parts()[0].manifest.image_input()
    pixels = math.prod(side for side in image.shape[1:] if isinstance(side, int)) if image else 0
    accuracy = bundle.manifest.accuracy
    return what_if(
        placed,
        macs={part.name: part.macs for part in bundle.manifest.parts},
        classes={part.name: part.classes for part in bundle.manifest.parts},
        links=links,
        image_bytes=pixels,
        accuracy=accuracy.if_lost if accuracy else None,
        rate=rate,
        lose=lose,
        fail_probability=fail_probability,
    )


def _plan_of(bundle: Bundle, path: Path | str) -> Plan:
    found = read_plan(path)
    if found.bundle_sha256 != bundle.sha256:
        raise UsageError(f"{path} was made for another bundle than {bundle.path}", hint="edgevit assign it again")
    return found


def what_if(
    plan: Plan,
    *,
    macs: Mapping[str, int],
    classes: Mapping[str, Sequence[str]],
    links: Mapping[str, float] | None = None,
    image_bytes: int = 0,
    accuracy: Accuracy | None = None,
    rate: float = 1.0,
    lose: Sequence[str] = (),
    fail_probability: float | None = None,
    seed: int = 0,
) -> Simulation:
    """The simulation of a plan: a pure function. ``macs`` share a node's time out among its parts; ``links`` (Mbit/s)
    carry ``image_bytes`` for each part."""
    _check(plan, rate, lose, fail_probability)
    known = accuracy or (lambda lost: None)
    whole = _fleet(plan, macs, links or {}, image_bytes)
    left = whole.without(lose)
    missing = left.missing()
    loads = _loads(left, rate)
    held = left.held()
    overloaded = any(loads[node] >= 1 for node in left.used)
    per_node, whole_ms = ({}, None) if overloaded or not left.used else _latencies(left, rate, seed)
    busiest = float(loads.max())
    return Simulation(
        rate=rate,
        parts=len(whole.parts),
        fleet_nodes=len(whole.nodes),
        lost=tuple(lose),
        missing=missing,
        missing_classes=tuple(label for part in missing for label in classes[part]),
        p50_ms=whole_ms[0] if whole_ms else None,
        p99_ms=whole_ms[1] if whole_ms else None,
        capacity=rate / busiest if busiest else 0.0,
        accuracy=known(()),
        accuracy_now=None if len(missing) == len(whole.parts) else known(missing),
        failures=None if fail_probability is None else _failures(left, fail_probability, known, seed),
        nodes=tuple(
            NodeLoad(
                node=left.nodes[node],
                parts=tuple(left.parts[part] for part in parts),
                load=float(loads[node]),
                p50_ms=per_node[node][0] if node in per_node else None,
                p99_ms=per_node[node][1] if node in per_node else None,
                accuracy_without=known([*missing, *(left.parts[part] for part in parts if len(left.where[part]) == 1)]),
            )
            for node, parts in held.items()
        ),
    )


def _check(plan: Plan, rate: float, lose: Sequence[str], fail_probability: float | None) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"--rate {rate:g} is not a number of images per second", hint="for example --rate 10")
    if fail_probability is not None and not 0 <= fail_probability <= 1:
        raise UsageError(f"--fail-probability {fail_probability:g} is not between 0 and 1")
    names = {node.node for node in plan.nodes}
    for name in lose:
        if name not in names:
            raise UnknownName("node of this fleet", name, names)


def _fleet(plan: Plan, macs: Mapping[str, int], links: Mapping[str, float], image_bytes: int) -> Fleet:
    parts = tuple(macs)
    row = {name: index for index, name in enumerate(parts)}
    where: list[list[int]] = [[] for _ in parts]
    service = np.zeros((len(parts), len(plan.nodes)))
    for column, node in enumerate(plan.nodes):
        total = sum(macs[part] for part in node.parts)
        for part in node.parts:
            where[row[part]].append(column)
            service[row[part], column] = node.latency_ms / 1e3 * (macs[part] / total if total else 1 / len(node.parts))
    upload = np.array([image_bytes * 8e-6 / links[node.node] if node.node in links else 0.0 for node in plan.nodes])
    return Fleet(tuple(node.node for node in plan.nodes), parts, tuple(map(tuple, where)), service, upload)


def _loads(fleet: Fleet, rate: float) -> Array:
    """(nodes,) share of time that the busier of link and processor works."""
    compute, link = np.zeros(len(fleet.nodes)), np.zeros(len(fleet.nodes))
    for part, nodes in enumerate(fleet.where):
        for node in nodes:
            compute[node] += fleet.service_s[part, node] / len(nodes)
            link[node] += fleet.upload_s[node] / len(nodes)
    found: Array = rate * np.maximum(compute, link)
    return found


def finished(arrivals: Array, service: Array) -> Array:
    """When each job (rows, in order of arrival) is done at a server that takes them one by one, of every column.

    C_n = max(C_{n-1}, A_n) + S_n, which is Σ_{k≤n} S_k + max_{k≤n} (A_k - Σ_{j<k} S_j).
    """
    total = np.cumsum(service, axis=0)
    found: Array = total + np.maximum.accumulate(arrivals - (total - service), axis=0)
    return found


def _latencies(fleet: Fleet, rate: float, seed: int) -> tuple[dict[int, tuple[float, float]], tuple[float, float]]:
    """p50 and p99 in ms, of every node that is used and of whole answers."""
    random = np.random.default_rng(seed)
    used = np.array(fleet.used)
    column = {int(node): index for index, node in enumerate(used)}
    requests = int(np.clip(CELLS // len(used), *REQUESTS))
    compute, upload = np.zeros((requests, len(used))), np.zeros((requests, len(used)))
    rows = np.arange(requests)
    for part, nodes in enumerate(fleet.where):
        if nodes:
            chosen = np.array(nodes)[random.integers(len(nodes), size=requests)]
            at = np.array([column[node] for node in nodes])[np.searchsorted(nodes, chosen)]
            compute[rows, at] += fleet.service_s[part, chosen]
            upload[rows, at] += fleet.upload_s[chosen]
    arrivals = np.cumsum(random.exponential(1 / rate, (requests, 1)), axis=0)
    took = (finished(finished(arrivals, upload), compute) - arrivals) * 1e3
    took[(compute + upload) == 0] = np.nan
    took = took[int(requests * WARM_UP) :]
    answers = np.nanmax(took, axis=1)
    return {int(node): _percentiles(took[:, index]) for index, node in enumerate(used)}, _percentiles(answers)


def _percentiles(took: Array) -> tuple[float, float]:
    asked = took[~np.isnan(took)]
    if not asked.size:
        return 0.0, 0.0
    middle, tail = np.percentile(asked, (50, 99))
    return float(middle), float(tail)


def _failures(fleet: Fleet, probability: float, accuracy: Accuracy, seed: int) -> Failures:
    used = fleet.used
    up, weights = _draws(len(used), probability, seed)
    column = {node: index for index, node in enumerate(used)}
    there = np.zeros((len(up), len(fleet.parts)), bool)
    for part, nodes in enumerate(fleet.where):
        if nodes:
            there[:, part] = up[:, [column[node] for node in nodes]].any(axis=1)
    complete = float(weights[there.all(axis=1)].sum())
    none = float(weights[~there.any(axis=1)].sum())
    cases, which = np.unique(np.packbits(there, axis=1), axis=0, return_inverse=True)
    shares = np.bincount(which.ravel(), weights, minlength=len(cases))
    right, unmeasured = 0.0, 0.0
    for case, share in zip(cases, shares, strict=True):
        here = np.unpackbits(case, count=len(fleet.parts))
        lost = [fleet.parts[part] for part in np.flatnonzero(here == 0)]
        found = accuracy(lost) if here.any() else 0.0
        right += share * (found or 0.0)
        unmeasured += share if found is None else 0.0
    return Failures(
        probability,
        complete,
        max(0.0, 1.0 - complete - none),
        none,
        float(right) if accuracy(()) is not None else None,
        float(unmeasured),
    )


def _draws(nodes: int, probability: float, seed: int) -> tuple[Array, Array]:
    """(cases, nodes) which nodes are up, and how likely each case is: all cases of a few nodes, draws of many."""
    if nodes <= EXACT_NODES:
        up = (np.arange(1 << nodes)[:, None] >> np.arange(nodes)) & 1 == 1
        count = up.sum(axis=1)
        return up, (1 - probability) ** count * probability ** (nodes - count)
    draws = int(np.clip(3 * CELLS // nodes, 500, DRAWS))
    up = np.random.default_rng(seed).random((draws, nodes), np.float32) >= probability
    return up, np.full(draws, 1 / draws)
