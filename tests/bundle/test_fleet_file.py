"""fleet.toml: units, profiles recognised by the model's hash, and a sentence for everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgevit.bundle.assign import Part
from edgevit.bundle.fleet_file import Fleet, read_fleet
from edgevit.errors import BadArtifact, UnknownName, UsageError

ROOT = Path(__file__).parents[2]
MB = 1_000_000
PARTS = [
    Part(f"part-{index}", 2 * MB, 10 * MB, 100 * MB, 256, model_files=frozenset({f"{index}" * 64})) for index in (1, 2)
]


def fleet_of(folder: Path, text: str) -> Fleet:
    (folder / "fleet.toml").write_text(text)
    return read_fleet(folder / "fleet.toml")


def node(**fields: object) -> str:
    known = {"name": '"pi"', "memory": '"1GB"', "macs_per_s": "1e9"} | fields
    return "[[node]]\n" + "\n".join(f"{key} = {value}" for key, value in known.items() if value is not None) + "\n"


def profile(folder: Path, stamp: str = "20260101T000000000000Z", **fields: Any) -> Path:
    """A profiles/*.json as edgevit writes it, for part-1 unless told otherwise."""
    p50 = fields.get("p50_ms", 5.0)
    record = {
        "format": 1, "artifact": "a", "runtime": "onnxruntime", "provider": "cpu", "threads": 1, "batch": 1,
        "scenario": "single-stream", "tier": "quick", "verdict": "STEADY", "unmonitored": [], "p50_ms": p50,
        "p90_ms": None, "p99_ms": None, "throughput": None, "load_ms": 1.0, "first_ms": 1.0,
        "peak_rss_bytes": 36 * MB, "key_fields": {"device": "pi"}, "environment": {},
        "files": {"model.onnx": "1" * 64, "golden.npz": "f" * 64},
        "processes": [{"samples": 1, "load_ms": 1.0, "first_ms": 1.0}], "samples_ms": [p50],
    } | fields  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stamp}-onnxruntime-quick.json"
    path.write_text(json.dumps(record))
    return path


def test_the_example_fleet_is_read_and_its_units_are_understood() -> None:
    fleet = read_fleet(ROOT / "examples/fleet.toml")
    garden = next(node for node in fleet.nodes if node.name == "pi-4b-garden")
    assert len(fleet.nodes) == 5
    assert (garden.memory_bytes, garden.macs_per_s, garden.energy_macs) == (256 * MB, 5e9, 1.5e9)
    assert garden.link_mbps == 2


@pytest.mark.parametrize(
    ("size", "bytes_"), [('"512MB"', 512 * MB), ('"1 GiB"', 2**30), ("4096", 4096), ('"1.5kB"', 1500), ('"4096"', None)]
)
def test_a_size_has_a_unit_or_is_a_number(tmp_path: Path, size: str, bytes_: int | None) -> None:
    if bytes_ is None:
        with pytest.raises(UsageError, match="'4096' is not a size"):
            fleet_of(tmp_path, node(memory=size))
    else:
        assert fleet_of(tmp_path, node(memory=size)).nodes[0].memory_bytes == bytes_


@pytest.mark.parametrize("energy", ["3e9", '"3G"', '"3 GMACs"', '"3000M"'])
def test_energy_is_macs_for_one_image(tmp_path: Path, energy: str) -> None:
    assert fleet_of(tmp_path, node(energy=energy)).nodes[0].energy_macs == 3e9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no node"),
        ("node = []", "lists no node"),
        ("node = 3", "lists no node"),
        ("[[node]\n", r"is not TOML: .*\(at line 1, column 7\)"),
        (node(name=None), "^node 1 in .* has no name$"),
        (node(name='""'), "^name of node 1 in "),
        (node(name="3"), "^name of node 3 in .*: Input should be a valid string$"),
        (node(memory=None), "^node 'pi' in .* has no memory$"),
        (node(memory='"12 parsecs"'), "^memory of node 'pi' in .*: '12 parsecs' is not a size such as \"512MB\"$"),
        (node(memory="-1"), "-1 is not a size"),
        (node(memory="true"), "True is not a size"),
        (node(memory="0"), "0 is not a size"),
        (node(macs_per_s='"fast"'), "^macs_per_s of node 'pi' in .*: 'fast' is not a rate"),
        (node(macs_per_s="nan"), "nan is not a rate"),
        (node(energy="inf"), "^energy of node 'pi' in .*: inf is not a number of MACs"),
        (node(link_mbps="0"), "^link_mbps of node 'pi' in .*: 0 is not a number of Mbit/s above 0"),
        (node(macs_per_s=None), "^node 'pi' in .* has neither macs_per_s nor profile"),
        (node() + node(name='"b"') + node(), "^nodes 1 and 3 in .* have the same name, 'pi'$"),
        (node(profile='"nowhere"'), "^profile of node 'pi' in .*nowhere is not there$"),
        (node(profile='"."'), "^profile of node 'pi' in .* holds no profile$"),
    ],
)
def test_every_mistake_has_its_own_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fleet_of(tmp_path, text)


def test_an_unknown_key_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown key of node 'pi' in .* 'memmory'") as raised:
        fleet_of(tmp_path, node(memmory='"1GB"'))
    assert raised.value.hint == "did you mean memory?"
    with pytest.raises(UnknownName) as raised:
        fleet_of(tmp_path, "[[nodes]]\n")
    assert raised.value.hint == "did you mean node?"


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or directory"):
        read_fleet(tmp_path / "fleet.toml")


def test_a_profile_is_recognised_by_the_hash_of_the_model_and_counts_for_its_node_alone(tmp_path: Path) -> None:
    profile(tmp_path / "pi")
    fleet = fleet_of(tmp_path, node(profile='"pi"') + node(name='"other"'))
    first, second = fleet.parts(PARTS)
    assert (first.latency_ms, first.memory_on) == ({"pi": 5.0}, {"pi": 6 * MB})
    assert (second.latency_ms, second.memory_on) == (None, None)


def test_the_newest_usable_profile_counts(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"  # as copied back from the device: artifacts with their profiles, manifests beside them
    at = bundle / "part-0/profiles"
    profile(at, "20260101T000000000000Z", p50_ms=9.0)
    profile(at, "20260102T000000000000Z", p50_ms=4.0)
    profile(at, "20260103T000000000000Z", p50_ms=1.0, batch=8)
    profile(at, "20260104T000000000000Z", p50_ms=2.0, scenario="paced 30 fps")
    profile(at, "20260105T000000000000Z", p50_ms=3.0, verdict="FAILED")
    (bundle / "bundle.json").write_text("{}")
    (bundle / "part-0/edgevit.json").write_text("{}")
    assert fleet_of(tmp_path, node(profile='"bundle"')).parts(PARTS)[0].latency_ms == {"pi": 4.0}


def test_measured_memory_is_never_less_than_the_model_files(tmp_path: Path) -> None:
    file = profile(tmp_path / "pi", peak_rss_bytes=31 * MB)
    assert fleet_of(tmp_path, node(profile=f'"pi/{file.name}"')).parts(PARTS)[0].memory_on == {"pi": 2 * MB}


def test_a_node_without_a_rate_gets_that_of_what_was_measured_on_it(tmp_path: Path) -> None:
    profile(tmp_path / "pi")
    fleet = fleet_of(tmp_path, node(profile='"pi"', macs_per_s=None) + node(name='"b"'))
    assert [one.macs_per_s for one in fleet.rated(fleet.parts(PARTS))] == [pytest.approx(20e9), 1e9]


def test_a_damaged_profile_is_an_error(tmp_path: Path) -> None:
    profile(tmp_path / "pi", p50_ms="quick")
    with pytest.raises(BadArtifact, match="is damaged: p50_ms"):
        fleet_of(tmp_path, node(profile='"pi"'))
