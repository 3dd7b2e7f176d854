"""How far placements are from the optimum, and how long they take. Needs ortools, which edgevit itself does not.

    pip install ortools==9.15.6755
    python benchmarks/assign.py [--instances 200]

Small instances: 3 to 8 parts on 2 to 6 nodes with tight memory, energy budgets on half of the nodes and links from
2 Mbit/s to 1 Gbit/s. CP-SAT proves the optimum of each, or that there is none. "local" is the improved method without
the search that it adds on small fleets. Large: 1,000 parts on 10,000 nodes, timed. Writes results/assign.json.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from unittest.mock import patch

import numpy as np
from ortools.sat.python import cp_model

from edgevit.bundle import assign as placement
from edgevit.bundle.assign import Node, Part, assign, memory_need
from edgevit.errors import PlacementImpossible
from edgevit.profiles import environment

RESULTS = Path(__file__).parent / "results"
TICKS = 10_000  # a millisecond, for the solver's integers
LIMIT_S = 1.0


def instance(rng: np.random.Generator, parts: int, nodes: int) -> tuple[list[Part], list[Node]]:
    """Random parts as ViT-Base's sub-models are large, and nodes of which some hold one part and some all."""
    sizes, macs = rng.integers(3e6, 80e6, parts), rng.integers(3e7, 4e9, parts)
    made = [
        Part(f"part-{i}", int(size), memory_need(int(size)), int(mac), int(rng.integers(64, 769)) * 4)
        for i, (size, mac) in enumerate(zip(sizes, macs, strict=True))
    ]
    share = sum(part.memory_bytes for part in made) / nodes
    energy = float(macs.sum()) / nodes
    fleet = [
        Node(
            f"node-{i}",
            int(max(30e6, share * rng.uniform(0.8, 3.0))),
            float(rng.uniform(3e9, 4e10)),
            float(energy * rng.uniform(1, 4)) if rng.random() < 0.5 else None,
            float(rng.choice([2, 10, 100, 1000])),
        )
        for i in range(nodes)
    ]
    return made, fleet


def optimum(parts: list[Part], nodes: list[Node]) -> float | None:
    """The slowest node's ms of the best placement, proved by CP-SAT; None where it proves that there is none."""
    model = cp_model.CpModel()
    ticks = np.rint(placement._latency(parts, nodes) * TICKS).astype(int)
    at = {(p, n): model.new_bool_var(f"{p}-{n}") for p in range(len(parts)) for n in range(len(nodes))}
    slowest = model.new_int_var(0, int(ticks.max(axis=1).sum()), "slowest")
    for p in range(len(parts)):
        model.add_exactly_one(at[p, n] for n in range(len(nodes)))
    for n, node in enumerate(nodes):
        model.add(sum(part.memory_bytes * at[p, n] for p, part in enumerate(parts)) <= node.memory_bytes)
        if node.energy_macs is not None:
            model.add(sum(part.macs * at[p, n] for p, part in enumerate(parts)) <= int(node.energy_macs))
        model.add(sum(int(ticks[p, n]) * at[p, n] for p in range(len(parts))) <= slowest)
    model.minimize(slowest)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.INFEASIBLE):
        raise RuntimeError(f"CP-SAT proved nothing: {solver.status_name(status)}")
    return solver.objective_value / TICKS if status == cp_model.OPTIMAL else None


def candidates(parts: list[Part], nodes: list[Node]) -> dict[str, float | None]:
    """Slowest node's ms by method; None where the method finds no placement."""

    def slowest(method: placement.Method) -> float | None:
        try:
            return assign(parts, nodes, method=method).max_latency_ms
        except PlacementImpossible:
            return None

    found = {"greedy": slowest("greedy"), "improved": slowest("improved")}
    with patch.object(placement, "SMALL", 0):
        found["local"] = slowest("improved")
    return found


def quality(instances: int) -> dict[str, object]:
    rng = np.random.default_rng(5)
    ratios: dict[str, list[float]] = {"greedy": [], "local": [], "improved": []}
    missed = dict.fromkeys(ratios, 0)
    infeasible, rounding = 0, 0.0
    while len(ratios["improved"]) + missed["improved"] < instances:
        parts, nodes = instance(rng, int(rng.integers(3, 9)), int(rng.integers(2, 7)))
        best = optimum(parts, nodes)
        found = candidates(parts, nodes)
        if best is None:
            infeasible += 1
            if any(value is not None for value in found.values()):
                raise RuntimeError("a method placed what CP-SAT proved impossible")
            continue
        rounding = max(rounding, len(parts) * 0.5 / TICKS / best)
        for method, value in found.items():
            if value is None:
                missed[method] += 1
            else:
                ratios[method].append(value / best)
    return {
        "instances": instances,
        "proved_impossible_beside": infeasible,
        "solver_rounding": rounding,
        "methods": {
            method: {
                "mean_ratio": mean(values),
                "worst_ratio": max(values),
                "share_optimal": sum(ratio <= 1 + rounding for ratio in values) / instances,
                "found_none": missed[method],
            }
            for method, values in ratios.items()
        },
        "ratios": ratios,
    }


def timing(runs: int = 5) -> dict[str, object]:
    """Seconds for 1,000 parts on 10,000 nodes with every kind of budget."""
    parts, nodes = instance(np.random.default_rng(6), 1000, 10_000)
    room = max(part.memory_bytes for part in parts) * 1.5
    rng = np.random.default_rng(7)
    nodes = [replace(node, memory_bytes=int(room * rng.uniform(0.3, 2)), energy_macs=None) for node in nodes]
    budgeted = [replace(node, energy_macs=8e9) if rng.random() < 0.5 else node for node in nodes]
    cases = {
        "greedy": ("greedy", 1, budgeted),
        "improved": ("improved", 1, budgeted),
        "improved, 2 replicas": ("improved", 2, budgeted),
        "improved, no energy budgets": ("improved", 1, nodes),
    }
    rows: dict[str, object] = {}
    for name, (method, replicas, fleet) in cases.items():
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            found = assign(parts, fleet, replicas=replicas, method=method)  # type: ignore[arg-type]
            seconds.append(time.perf_counter() - start)
        rows[name] = {"seconds": median(seconds), "samples_s": seconds, "max_latency_ms": found.max_latency_ms}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=200)
    small = quality(parser.parse_args().instances)
    large = timing()
    record = {"environment": environment.collect().record(), "small": small, "large": large, "large_limit_s": LIMIT_S}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "assign.json").write_text(json.dumps(record, indent=1) + "\n")
    print("| method | mean ÷ optimum | worst ÷ optimum | optimal | found none |\n|---|---|---|---|---|")
    for method, row in small["methods"].items():  # type: ignore[attr-defined]
        print(f"| {method} | {row['mean_ratio']:.3f} | {row['worst_ratio']:.3f} | {row['share_optimal']:.1%} "
              f"| {row['found_none']} |")  # fmt: skip
    print("\n| 1,000 parts on 10,000 nodes | seconds | slowest node ms |\n|---|---|---|")
    for name, row in large.items():
        print(f"| {name} | {row['seconds']:.2f} | {row['max_latency_ms']:.1f} |")  # type: ignore[index]


if __name__ == "__main__":
    main()
