"""The plan: its fields, what each node's loss costs, and ``edgevit assign``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_bundle import FACTS, fill

from edgevit.artifact.files import sha256_of
from edgevit.artifact.staging import staged
from edgevit.bundle.assign import Node, Part
from edgevit.bundle.fleet_file import Fleet
from edgevit.bundle.opened import write_bundle
from edgevit.bundle.plan import Plan, make_plan, read_plan, write_plan
from edgevit.errors import BadArtifact, PlacementImpossible, UsageError

ROOT = Path(__file__).parents[2]
MB = 1_000_000
SHA = "a" * 64
PARTS = [Part(f"part-{index}", 10 * MB, 20 * MB, 400 * MB, 1000) for index in range(3)]
FLEET = Fleet(
    Path("fleet.toml"),
    (Node("fast", 100 * MB, 8e9, energy_macs=1e9), Node("slow", 50 * MB, 4e9, link_mbps=8), Node("tiny", MB, 1e9)),
)


def known(lost: Collection[str]) -> float | None:
    """What a bundle knows that measured every single loss, and nothing else."""
    return {(): 0.97, ("part-0",): 0.9, ("part-1",): 0.8, ("part-2",): 0.7}.get(tuple(sorted(lost)))


def test_the_plan_has_the_fields_that_outside_scripts_read() -> None:
    plan = make_plan(PARTS, FLEET, bundle_sha256=SHA, accuracy=known)
    record = json.loads(plan.model_dump_json())
    assert {"schema_version", "bundle_sha256", "nodes", "max_latency_ms", "accuracy_if_lost"} <= set(record)
    assert {"node", "parts", "latency_ms", "memory_bytes", "free_bytes"} <= set(record["nodes"][0])
    assert (record["schema_version"], record["bundle_sha256"]) == (1, SHA)


def test_latency_memory_margin_and_loss_are_told_for_every_node() -> None:
    plan = make_plan(PARTS, FLEET, bundle_sha256=SHA, accuracy=known)
    fast, slow, tiny = plan.nodes
    assert [len(node.parts) for node in plan.nodes] == [2, 1, 0]
    assert (fast.latency_ms, slow.latency_ms, tiny.latency_ms) == (100.0, 101.0, 0.0)
    assert plan.max_latency_ms == 101.0
    assert (fast.memory_bytes, fast.free_bytes, fast.macs) == (40 * MB, 60 * MB, 800 * MB)
    assert fast.margin == pytest.approx(0.2)  # of its energy; 0.6 of its memory
    assert slow.margin == pytest.approx(0.6)
    assert plan.accuracy == 0.97
    assert plan.accuracy_if_lost == {"fast": None, "slow": known(slow.parts), "tiny": 0.97}


def test_a_node_whose_parts_have_replicas_costs_nothing_when_it_is_lost() -> None:
    fleet = replace(FLEET, nodes=(FLEET.nodes[0], replace(FLEET.nodes[1], memory_bytes=80 * MB)))
    two = make_plan(PARTS[:2], fleet, bundle_sha256=SHA, replicas=2, accuracy=known)
    assert two.accuracy_if_lost == {"fast": 0.97, "slow": 0.97}


def test_where_a_latency_comes_from_is_told() -> None:
    nodes = (Node("measured", 50 * MB), Node("stated", 50 * MB, 1e9))
    parts = [replace(part, latency_ms={"measured": 80.0}) if part.name == "part-0" else part for part in PARTS]

    class Measured(Fleet):
        def parts(self, _: object) -> list[Part]:
            return parts

    plan = make_plan(PARTS, Measured(Path("fleet.toml"), nodes), bundle_sha256=SHA)
    sources = {part: source for node in plan.nodes for part, source in node.latency_from.items()}
    held = {part: node.node for node in plan.nodes for part in node.parts}
    expected = {"measured": "scaled", "stated": "rate"}
    assert sources == {
        part: "measured" if (part, node) == ("part-0", "measured") else expected[node] for part, node in held.items()
    }
    assert "scaled" in sources.values()


def test_a_bundle_that_knows_no_accuracy_gives_none() -> None:
    assert make_plan(PARTS, FLEET, bundle_sha256=SHA).accuracy_if_lost == {"fast": None, "slow": None, "tiny": None}


def test_the_error_names_the_fleet_file_to_prune_for() -> None:
    with pytest.raises(PlacementImpossible) as raised:
        make_plan([replace(PARTS[0], memory_bytes=101 * MB)], FLEET, bundle_sha256=SHA)
    assert "--fleet fleet.toml" in str(raised.value.hint)


def test_an_older_plan_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    plan = make_plan(PARTS, FLEET, bundle_sha256=SHA)
    out = tmp_path / "new/plan.json"
    write_plan(plan, out)
    write_plan(plan.model_copy(update={"bundle_sha256": "b" * 64}), out)
    assert Plan.model_validate_json(out.read_text()).bundle_sha256 == "b" * 64
    other = tmp_path / "bundle.json"
    other.write_text("{}")
    for taken in (other, tmp_path):
        with pytest.raises(UsageError, match="exists and is not a plan"):
            write_plan(plan, taken)
    assert other.read_text() == "{}"


def test_a_plan_is_read_back_and_what_is_none_is_told_from_what_is_not_there(tmp_path: Path) -> None:
    plan = make_plan(PARTS, FLEET, bundle_sha256=SHA)
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(BadArtifact, match="is not a plan"):
        read_plan(tmp_path / "torn.json")
    with pytest.raises(UsageError, match="no such file or directory"):
        read_plan(tmp_path / "nothing.json")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plan") / "bundle"
    with staged(out) as staging:
        fill(staging)
        write_bundle(staging, out, FACTS)
    return out


def edgevit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "edgevit"), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)
    assert "Traceback" not in ran.stderr + ran.stdout, ran.stderr
    return ran


def test_assign_prints_and_writes_the_plan(bundle: Path, tmp_path: Path) -> None:
    ran = edgevit("assign", bundle, "--fleet", ROOT / "examples/fleet.toml", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    plan = Plan.model_validate_json((tmp_path / "plan.json").read_text())
    assert plan.bundle_sha256 == sha256_of(bundle / "bundle.json")
    assert sorted(part for node in plan.nodes for part in node.parts) == ["part-0", "part-1"]
    for node in plan.nodes:
        assert (node.node in ran.stdout) == bool(node.parts)
    assert "accuracy with all 97.00%" in ran.stdout
    assert "written: plan.json" in ran.stderr


def test_assign_json_is_the_plan_with_replicas_apart(bundle: Path, tmp_path: Path) -> None:
    options = ("--fleet", ROOT / "examples/fleet.toml", "--replicas", 2, "-o", tmp_path / "p.json", "--json")
    ran = edgevit("assign", bundle, *options, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    record = json.loads(ran.stdout)
    assert record == json.loads((tmp_path / "p.json").read_text())
    for part in ("part-0", "part-1"):
        assert sum(part in node["parts"] for node in record["nodes"]) == 2
    assert set(record["accuracy_if_lost"].values()) == {0.97}


def test_assign_ends_with_8_and_the_line_to_run_when_nothing_fits(bundle: Path, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('[[node]]\nname = "tiny"\nmemory = "1kB"\nmacs_per_s = "1G"\n')
    ran = edgevit("assign", bundle, "--fleet", fleet, cwd=tmp_path)
    assert ran.returncode == 8
    assert "part-0 fits on no node: it needs 6," in ran.stderr
    assert "tiny, which comes nearest, has 1,000 free" in ran.stderr
    assert f"edgevit split … --fleet {fleet}" in ran.stderr
    assert not (tmp_path / "plan.json").exists()
