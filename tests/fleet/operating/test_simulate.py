"""The simulation against queueing theory, against enumeration, and on 10,000 nodes."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from fleet.tiny_fleet import make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.bundle.assign import Node, Part
from edgevit.bundle.fleet_file import Fleet
from edgevit.bundle.opened import Bundle
from edgevit.bundle.plan import Plan, make_plan, plan_bundle, write_plan
from edgevit.errors import BadArtifact, UnknownName, UsageError
from edgevit.fleet.operating.simulate import finished, simulate, what_if

MB = 1_000_000
SHA = "a" * 64


def plan_of(parts: int, nodes: int, *, replicas: int = 1, rate: float = 1e9, macs: int = 10_000_000) -> Plan:
    placed = [Part(f"part-{index}", MB, 2 * MB, macs, 1000) for index in range(parts)]
    fleet = Fleet(Path("fleet.toml"), tuple(Node(f"pi-{index}", 100 * MB, rate) for index in range(nodes)))
    return make_plan(placed, fleet, bundle_sha256=SHA, replicas=replicas)


def asked(plan: Plan, **options):
    parts = sorted({part for node in plan.nodes for part in node.parts}, key=lambda part: int(part.partition("-")[2]))
    macs = dict.fromkeys(parts, 10_000_000)
    return what_if(plan, macs=macs, classes={part: (part[-1],) for part in parts}, **options)


def table(lost: Collection[str]) -> float | None:
    """Singles and pairs, as a bundle measures them."""
    return {0: 0.9, 1: 0.7, 2: 0.5}.get(len(lost))


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), min_size=1, max_size=40),
)
def test_a_server_works_as_one_job_after_the_other_says(jobs: list[tuple[float, float]]) -> None:
    arrivals = np.cumsum([gap for gap, _ in jobs])[:, None]
    service = np.array([size for _, size in jobs])[:, None]
    free, expected = 0.0, []
    for arrived, size in zip(arrivals[:, 0], service[:, 0], strict=True):
        free = max(free, arrived) + size
        expected.append(free)
    assert finished(arrivals, service)[:, 0] == pytest.approx(expected, abs=1e-9)


def test_an_idle_fleet_answers_in_the_planned_time_and_a_busy_one_as_queueing_theory_says() -> None:
    plan = plan_of(1, 1)  # 10 ms an image
    idle = asked(plan, rate=0.01)
    assert idle.p50_ms == pytest.approx(10, rel=1e-3)
    assert idle.capacity == pytest.approx(100)
    half = asked(plan, rate=50)
    assert half.nodes[0].load == pytest.approx(0.5)
    # M/D/1 at load 0.5: an arriving image waits nothing with probability 1/2, so the median is a bare 10 ms
    assert half.p50_ms == pytest.approx(10, rel=0.1)
    assert 25 < (half.p99_ms or 0) < 60
    assert (asked(plan, rate=90).p50_ms or 0) > 2 * 10


def test_too_high_a_rate_is_told_with_the_node_that_falls_behind_and_the_highest_rate() -> None:
    found = asked(plan_of(2, 2), rate=130)
    assert (found.p50_ms, found.p99_ms) == (None, None)
    assert any("too much: pi-" in line and "at most 100 images/s" in line for line in found.lines())


def test_replicas_share_the_load_and_take_over_when_one_dies() -> None:
    plan = plan_of(1, 2, replicas=2)
    both, one = asked(plan, rate=40), asked(plan, rate=40, lose=["pi-0"])
    assert [node.load for node in both.nodes] == pytest.approx([0.2, 0.2])
    assert [node.load for node in one.nodes] == pytest.approx([0.4])
    assert one.missing == ()
    assert any("every sub-model is still there" in line for line in one.lines())


def test_a_slow_link_carries_the_image_before_the_processor_sees_it() -> None:
    plan = plan_of(1, 1)
    thin = asked(plan, rate=1, links={"pi-0": 10.0}, image_bytes=150_528)  # 120 ms
    assert thin.p50_ms == pytest.approx(130.4, rel=0.05)
    assert thin.capacity == pytest.approx(1 / 0.1204, rel=1e-2)


def test_named_nodes_die_and_what_is_missing_is_told() -> None:
    plan = plan_of(3, 3)
    where = {node.parts[0]: node.node for node in plan.nodes}
    found = asked(plan, lose=[where["part-1"]], accuracy=table)
    assert (found.missing, found.missing_classes, found.accuracy_now) == (("part-1",), ("1",), 0.7)
    assert any("degraded 2/3 (missing: part-1; classes 1), accuracy 70.00% instead of 90.00%" in line
               for line in found.lines())  # fmt: skip
    none = asked(plan, lose=list(where.values()), accuracy=table, fail_probability=0.1)
    assert none.nodes == ()
    assert any("no sub-model is left" in line for line in none.lines())
    assert none.failures is not None
    assert none.failures.none == pytest.approx(1)
    with pytest.raises(UnknownName):
        asked(plan, lose=["pi-9"])


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.integers(1, 4), st.integers(1, 2))
def test_failures_of_few_nodes_are_counted_exactly(probability: float, nodes: int, replicas: int) -> None:
    plan = plan_of(3, nodes, replicas=min(replicas, nodes))
    holders = {
        part: {node.node for node in plan.nodes if part in node.parts} for part in ("part-0", "part-1", "part-2")
    }
    used = sorted(set().union(*holders.values()))
    complete = none = right = unknown = 0.0
    for states in itertools.product((True, False), repeat=len(used)):
        up = {name for name, state in zip(used, states, strict=True) if state}
        share = float(np.prod([1 - probability if state else probability for state in states]))
        lost = [part for part, on in holders.items() if not on & up]
        complete += share * (not lost)
        none += share * (len(lost) == 3)
        right += share * ((table(lost) or 0.0) if len(lost) < 3 else 0.0)
        unknown += share * (table(lost) is None and len(lost) < 3)
    found = asked(plan, accuracy=table, fail_probability=probability).failures
    assert found is not None
    assert (found.complete, found.none, found.accuracy_at_least, found.unmeasured) == pytest.approx(
        (complete, none, right, unknown), abs=1e-9
    )
    assert found.complete + found.degraded + found.none == pytest.approx(1)


def test_failures_of_many_nodes_are_near_the_exact_share() -> None:
    found = asked(plan_of(30, 30, rate=1e9), accuracy=table, fail_probability=0.02).failures
    assert found is not None
    assert found.complete == pytest.approx(0.98**30, abs=0.02)


def test_a_bundle_is_simulated_on_a_fleet_file_and_on_its_plan_alike(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", parts=4)
    fleet = tmp_path / "fleet.toml"
    fleet.write_text("".join(f'[[node]]\nname = "pi-{i}"\nmemory = "512MB"\nmacs_per_s = "1M"\n' for i in range(4)))
    by_file = simulate(bundle, fleet=fleet, rate=2, fail_probability=0.01)
    from edgevit.bundle.fleet_file import read_fleet

    plan = tmp_path / "plan.json"
    write_plan(plan_bundle(Bundle.open(bundle), read_fleet(fleet)), plan)
    assert simulate(bundle, plan=plan, rate=2, fail_probability=0.01) == by_file
    assert json.loads(json.dumps(by_file.record()))["capacity"] == pytest.approx(1000)
    assert len(list(by_file.rows())) == 4
    assert by_file.failures is not None
    assert by_file.failures.complete == pytest.approx(0.99**4)
    for wrong in ({}, {"fleet": fleet, "rate": 0.0}, {"fleet": fleet, "fail_probability": 1.5}):
        with pytest.raises(UsageError):
            simulate(bundle, **wrong)  # type: ignore[arg-type]
    plan.write_text("{}")
    with pytest.raises(BadArtifact):
        simulate(bundle, plan=plan)


def test_ten_thousand_nodes_are_planned_and_simulated_in_moments() -> None:
    started = time.perf_counter()
    found = asked(plan_of(64, 10_000, replicas=2), accuracy=table, rate=20, fail_probability=0.01)
    assert time.perf_counter() - started < 20  # about 1 s on an idle machine: benchmarks/fleet_scale.py
    assert found.fleet_nodes == 10_000
    assert found.p99_ms is not None
