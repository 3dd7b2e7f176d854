"""Placement: budgets hold, replicas are apart, the improved method beats the greedy rule and finds what there is."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.bundle.assign import Assignment, Node, Part, assign, memory_need
from edgevit.errors import PlacementImpossible, UnknownName, UsageError

MB = 1_000_000
PART = Part("part-0", 10 * MB, 20 * MB, 400 * MB, 4_000)
NODE = Node("pi", 100 * MB, macs_per_s=4e9, link_mbps=10)

Fleet = tuple[list[Part], list[Node]]


def part(index: int, memory: int = 20 * MB, macs: int = 400 * MB) -> Part:
    return Part(f"part-{index}", memory // 2, memory, macs, 0)


@st.composite
def fleets(draw: st.DrawFn, most_parts: int = 5, most_nodes: int = 4) -> Fleet:
    """Small fleets, about half of them too small for their parts; some nodes have an energy budget."""
    small = st.integers(1, 6)
    parts = [
        part(index, draw(small) * 10 * MB, draw(small) * 100 * MB) for index in range(draw(st.integers(1, most_parts)))
    ]
    nodes = [
        Node(
            f"node-{index}",
            draw(st.integers(2, 14)) * 10 * MB,
            macs_per_s=draw(small) * 1e9,
            energy_macs=draw(st.none() | st.integers(3, 20).map(lambda n: n * 1e8)),
            link_mbps=draw(st.none() | st.sampled_from([2, 100])),
        )
        for index in range(draw(st.integers(1, most_nodes)))
    ]
    return parts, nodes


def placed(parts: Sequence[Part], nodes: Sequence[Node], **options: object) -> Assignment | None:
    try:
        return assign(parts, nodes, **options)  # type: ignore[arg-type]
    except PlacementImpossible:
        return None


def best_of_all(parts: Sequence[Part], nodes: Sequence[Node]) -> float | None:
    """The slowest node's ms in the best of all placements, tried one by one."""
    slowest = []
    for where in itertools.product(nodes, repeat=len(parts)):
        held = [[p for p, at in zip(parts, where, strict=True) if at is node] for node in nodes]
        if all(
            sum(p.memory_bytes for p in mine) <= node.memory_bytes
            and sum(p.macs for p in mine) <= (node.energy_macs or float("inf"))
            for node, mine in zip(nodes, held, strict=True)
        ):
            slowest.append(max(sum(ms(p, node) for p in mine) for node, mine in zip(nodes, held, strict=True)))
    return min(slowest, default=None)


def ms(part: Part, node: Node) -> float:
    sending = part.feature_bytes * 8 / (node.link_mbps * 1e3) if node.link_mbps else 0.0
    return part.macs / (node.macs_per_s or 0) * 1e3 + sending


@settings(max_examples=60, deadline=None)
@given(fleets(), st.integers(1, 3), st.sampled_from(["greedy", "improved"]))
def test_no_node_is_over_budget_and_replicas_are_apart(fleet: Fleet, replicas: int, method: str) -> None:
    parts, nodes = fleet
    found = placed(parts, nodes, replicas=replicas, method=method) if replicas <= len(nodes) else None
    if found is None:
        return
    for row in found.where:
        assert len(set(row)) == replicas
    for index, (node, held) in enumerate(zip(nodes, found.parts_on(), strict=True)):
        assert sum(parts[row].memory_bytes for row in held) == found.memory_bytes[index] <= node.memory_bytes
        assert sum(parts[row].macs for row in held) == found.macs[index] <= (node.energy_macs or float("inf"))
        assert found.latency_ms[index] == pytest.approx(sum(ms(parts[row], node) for row in held))


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_improved_is_the_optimum_of_small_fleets_and_says_impossible_only_when_it_is(fleet: Fleet) -> None:
    found, best = placed(*fleet), best_of_all(*fleet)
    assert (found is None) == (best is None)
    if found is not None and best is not None:
        assert found.max_latency_ms == pytest.approx(best)


@settings(max_examples=12, deadline=None)
@given(fleets(most_parts=40, most_nodes=30))
def test_improved_is_never_worse_than_greedy_nor_impossible_where_greedy_is_not(fleet: Fleet) -> None:
    greedy = placed(*fleet, method="greedy")
    if greedy is not None:
        improved = placed(*fleet)
        assert improved is not None
        assert improved.max_latency_ms <= greedy.max_latency_ms


@settings(max_examples=40, deadline=None)
@given(fleets(), st.integers(0, 4), st.integers(1, 2))
def test_one_more_node_never_makes_it_impossible_nor_slower(fleet: Fleet, at: int, replicas: int) -> None:
    parts, nodes = fleet
    if replicas > len(nodes):
        return
    before = placed(parts, nodes, replicas=replicas)
    more = placed(parts, [*nodes[:at], replace(NODE, name="one more"), *nodes[at:]], replicas=replicas)
    if before is not None:
        assert more is not None
        assert more.max_latency_ms <= before.max_latency_ms * (1 + 1e-8)


@settings(max_examples=15, deadline=None)
@given(fleets(most_parts=12, most_nodes=8))
def test_the_same_fleet_gets_the_same_placement(fleet: Fleet) -> None:
    assert placed(*fleet) == placed(*fleet)


def test_greedy_gives_the_largest_part_to_the_node_with_the_most_energy_left() -> None:
    parts = [part(0, macs=100), part(1, macs=300), part(2, macs=200)]
    nodes = [Node("a", 100 * MB, 1e9, energy_macs=350), Node("b", 100 * MB, 1e12, energy_macs=450)]
    assert assign(parts, nodes, method="greedy").where == (
        (1,),
        (1,),
        (0,),
    )  # the last 100: 150 left on both, b is faster


def test_a_measured_latency_counts_instead_of_the_rate_and_the_transfer_is_added() -> None:
    measured = replace(PART, latency_ms={"pi": 7.0, "elsewhere": 1.0})
    assert assign([PART], [NODE]).max_latency_ms == pytest.approx(100.0 + 3.2)
    assert assign([measured], [NODE]).max_latency_ms == pytest.approx(7.0 + 3.2)
    assert assign([measured], [replace(NODE, macs_per_s=None)]).max_latency_ms == pytest.approx(7.0 + 3.2)


def test_memory_measured_on_a_node_counts_there_alone() -> None:
    hungry = replace(PART, memory_on={"pi": 101 * MB})
    assert assign([hungry], [NODE, replace(NODE, name="slower", macs_per_s=1e9)]).where == ((1,),)
    with pytest.raises(PlacementImpossible) as raised:
        assign([hungry], [NODE])
    assert (raised.value.needed_bytes, raised.value.free_bytes) == (101 * MB, 100 * MB)


def test_equal_nodes_get_one_part_each_before_any_gets_two() -> None:
    nodes = [replace(NODE, name=f"pi-{index}") for index in range(4)]
    assert sorted(map(len, assign([part(index) for index in range(6)], nodes).parts_on())) == [1, 1, 2, 2]


def test_a_dead_end_of_the_greedy_rule_is_not_one_of_the_improved_method() -> None:
    parts = [part(0, 30 * MB, 3), part(1, 60 * MB, 2)]
    nodes = [Node("small", 30 * MB, 1e9), Node("large", 60 * MB, 2e9)]
    assert placed(parts, nodes, method="greedy") is None
    assert assign(parts, nodes).where == ((0,), (1,))


def test_what_fits_nowhere_is_named_with_its_need_and_the_nearest_node() -> None:
    parts, nodes = [part(0), part(1, 300 * MB)], [NODE, Node("tiny", 5 * MB, 1e9)]
    with pytest.raises(PlacementImpossible) as raised:
        assign(parts, nodes, fleet_file="home.toml")
    error = raised.value
    assert str(error) == (
        "part-1 fits on no node: it needs 300,000,000 bytes, and pi, which comes nearest, has 100,000,000 free"
    )
    assert "edgevit split … --fleet home.toml" in str(error.hint)
    assert (error.part, error.node, error.needed_bytes, error.free_bytes) == ("part-1", "pi", 300 * MB, 100 * MB)
    assert error.exit_code == 8


def test_what_finds_no_room_beside_the_others_is_told_apart() -> None:
    with pytest.raises(PlacementImpossible, match=r"no room is left for part-2: it needs 60,000,000 .* 40,000,000"):
        assign([part(index, 60 * MB) for index in range(3)], [NODE, replace(NODE, name="pi-2")])
    with pytest.raises(PlacementImpossible, match=r"no room is left for part-1: it needs 60,000,000 .* 40,000,000"):
        assign([part(0, 60 * MB), part(1, 60 * MB)], [NODE])


def test_a_lack_of_energy_is_not_called_a_lack_of_memory() -> None:
    with pytest.raises(PlacementImpossible, match="but energy left for 1,000 of its 400,000,000 MACs"):
        assign([PART], [replace(NODE, energy_macs=1000)])


@pytest.mark.parametrize(
    ("parts", "nodes", "options", "said"),
    [
        ([], [NODE], {}, "there is no part to place"),
        ([PART], [], {}, "the fleet has no node"),
        ([PART], [NODE, NODE], {}, "node 'pi' is there 2 times"),
        ([PART, PART], [NODE], {}, "part 'part-0' is there 2 times"),
        ([PART], [NODE], {"replicas": 2}, "2 replicas of each part need as many different nodes; there are 1"),
        ([PART], [replace(NODE, macs_per_s=None)], {}, "nothing says how fast node 'pi' runs part-0"),
    ],
)
def test_what_cannot_be_right_is_said_in_a_sentence(
    parts: list[Part], nodes: list[Node], options: dict[str, int], said: str
) -> None:
    with pytest.raises(UsageError) as raised:
        assign(parts, nodes, **options)  # type: ignore[arg-type]
    assert str(raised.value) == said


def test_an_unknown_method_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName) as raised:
        assign([PART], [NODE], method="greed")  # type: ignore[arg-type]
    assert raised.value.hint == "did you mean greedy?"


def test_a_part_that_nobody_measured_needs_twice_its_files_and_a_little() -> None:
    assert memory_need(10 * MB) == 26 * MB


def test_a_thousand_parts_find_their_places_on_ten_thousand_nodes() -> None:
    parts = [part(index, (10 + index % 7) * MB, (100 + index % 13) * MB) for index in range(1000)]
    nodes = [Node(f"n{index}", (20 + index % 5) * MB, (1 + index % 11) * 1e9) for index in range(10_000)]
    found = assign(parts, nodes)
    assert found.max_latency_ms == pytest.approx(112 * MB / 11e9 * 1e3)  # the fastest nodes are more than the parts


@pytest.mark.parametrize("module", ["assign", "fleet_file", "plan", "local_search"])
def test_placement_needs_no_torch(module: str) -> None:
    code = f"import sys\nsys.modules['torch'] = None\nimport edgevit.bundle.{module}"
    subprocess.run([sys.executable, "-c", code], check=True)
