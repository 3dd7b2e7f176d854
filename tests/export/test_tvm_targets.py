"""Which machine a TVM build is for, and what of it the artifact is locked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit import cpu
from edgevit.errors import ExportFailed, MissingDependency, UnknownName, Unsupported, UsageError
from edgevit.export.tvm import targets
from edgevit.export.tvm.link import CROSS_TOOLCHAINS, check_arch, find_linker, object_arch
from edgevit.runtimes.tvm import lock


def test_the_default_is_this_machine_with_the_features_the_kernel_lists() -> None:
    target = targets.choose(cores=2)
    assert target.host
    assert target.arch == cpu.arch()
    assert target.cores == 2
    assert set(target.features()) <= cpu.flags()
    assert lock.lacking_features(str(target.lock()["features"]), cpu.flags()) == []


def test_features_that_a_virtual_machine_hides_are_taken_away() -> None:
    named = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "sapphirerapids"}
    flags = frozenset({"avx2", "fma", "avx", "f16c", "ssse3", "sse4_1", "sse4_2", "popcnt"})
    config = named | {"mattr": targets.corrections(named, "x86_64", flags)}
    target = targets.BuildTarget(config, "x86_64", host=True)
    assert "-avx512f" in config["mattr"]
    assert not [feature for feature in target.features() if feature.startswith(("avx512", "amx"))]
    assert target.family() == "x86_64-avx2"


def test_features_that_a_cpus_name_does_not_promise_are_added() -> None:
    named = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"}
    flags = frozenset({"ssse3", "sse4_1", "sse4_2", "popcnt", "avx", "avx2", "fma"})
    config = named | {"mattr": targets.corrections(named, "x86_64", flags)}
    assert {"avx2", "fma"} <= set(targets.BuildTarget(config, "x86_64", host=True).features())
    assert targets.corrections(named, "x86_64", frozenset()) == []


@pytest.mark.parametrize(
    ("arch", "family", "feature"), [("aarch64", "aarch64-neon", "asimd"), ("armv7", "armv7-neon", "vfpv4")]
)
def test_cross_targets_are_arm_boards_with_neon(arch: str, family: str, feature: str) -> None:
    target = targets.choose(arch=arch, cores=2)
    assert (target.arch, target.family(), target.host) == (arch, family, False)
    assert feature in target.features()
    assert target.lock()["system"] == "linux"
    assert str(target.config["mtriple"]) in str(target.tvm())


@pytest.mark.parametrize(
    ("text", "arch", "family", "cores"),
    [
        ("raspberry-pi/4b-aarch64", "aarch64", "aarch64-neon", 4),
        ("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a76 -num-cores 8", "aarch64", "aarch64-neon", 8),
        ('{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v4"}', "x86_64", "x86_64-avx512", 3),
        ("llvm -mtriple=armv7l-linux-gnueabihf -mattr=+neon,+vfp4 -mfloat-abi=hard", "armv7", "armv7-neon", 3),
    ],
)
def test_a_target_may_be_spelled_as_tvm_does_or_did(text: str, arch: str, family: str, cores: int) -> None:
    target = targets.choose(target=text, cores=3)
    assert (target.arch, target.family(), target.cores) == (arch, family, cores)
    target.tvm()


@pytest.mark.parametrize(
    "text", ["nonsense", "{", '{"kind": "llvm", "mcpx": "a"}', '{"kind": "llvm", "mcpu": "znver99"}', "llvm -mcpu"]
)
def test_a_target_that_tvm_does_not_know_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        targets.choose(target=text, cores=1)
    assert caught.value.hint


def test_targets_that_cannot_be_built_here_are_declined() -> None:
    with pytest.raises(Unsupported, match="metal"):
        targets.choose(target="metal", cores=1)
    with pytest.raises(UnknownName) as caught:
        targets.choose(arch="aarch46", cores=1)
    assert caught.value.nearest == ("aarch64",)
    with pytest.raises(UsageError, match="exclude"):
        targets.choose(arch="aarch64", target="llvm", cores=1)


def test_cuda_is_built_only_beside_a_gpu() -> None:
    import tvm

    if tvm.cuda(0).exist:
        assert targets.choose(target="cuda", cores=1).kind == "cuda"
    else:
        with pytest.raises(Unsupported, match="needs an NVIDIA GPU"):
            targets.choose(target="cuda", cores=1)


def test_a_missing_linker_comes_with_the_apt_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for arch, chain in CROSS_TOOLCHAINS.items():
        if arch != cpu.arch():
            with pytest.raises(MissingDependency) as caught:
                find_linker(arch)
            assert caught.value.hint == f"sudo apt-get install {chain.package}"
    with pytest.raises(Unsupported, match="no linker is known for sparc"):
        find_linker("sparc")


def header(machine: int, order: str = "little") -> bytes:
    mark = b"\x01" if order == "little" else b"\x02"
    return b"\x7fELF\x02" + mark + bytes(10) + (3).to_bytes(2, order) + machine.to_bytes(2, order)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "arch"),
    [
        (header(62), "x86_64"),
        (header(183), "aarch64"),
        (header(40), "armv7"),
        (header(183, "big"), "aarch64"),
        (header(999), "ELF machine 999"),
        (bytes.fromhex("cffaedfe0c000001"), "aarch64"),
    ],
)
def test_the_header_of_a_shared_object_names_its_instruction_set(tmp_path: Path, content: bytes, arch: str) -> None:
    (tmp_path / "x.so").write_bytes(content)
    assert object_arch(tmp_path / "x.so") == arch


def test_an_object_for_another_machine_fails_the_export(tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(header(62))
    check_arch(tmp_path / "model.so", "x86_64")
    with pytest.raises(ExportFailed, match="came out for x86_64, not for aarch64"):
        check_arch(tmp_path / "model.so", "aarch64")
    (tmp_path / "model.so").write_bytes(b"#!/bin/sh")
    with pytest.raises(ExportFailed, match="no shared object"):
        object_arch(tmp_path / "model.so")
