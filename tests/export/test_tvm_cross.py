"""A TVM build for Arm: the object is for Arm, this machine says what it needs, and under qemu it computes the model."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tvm_tiny

import edgevit
from edgevit.artifact.opened import Artifact
from edgevit.errors import Unsupported
from edgevit.export.prepare import prepare
from edgevit.export.tvm import compile, schedules, targets
from edgevit.export.tvm.link import link, object_arch
from edgevit.request import ExportRequest, ModelChoice
from edgevit.runtimes.tvm.device import TvmRuntime

ROOT = Path(__file__).parents[2]
SYSROOT = "/usr/aarch64-linux-gnu"


@pytest.fixture(scope="session")
def host_program() -> Path:
    """The C++ host for aarch64, built by .ci/aarch64.sh, which does nothing where everything is there already."""
    done = subprocess.run([ROOT / ".ci" / "aarch64.sh"], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.fail(f".ci/aarch64.sh: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return ROOT / ".venv" / "aarch64" / "tvm_host"


def run_under_qemu(
    program: Path, library: Path, feeds: Sequence[np.ndarray], scratch: Path, threads: int = 1
) -> list[np.ndarray]:
    """Outputs in order, computed by the C++ host."""
    words = []
    for index, array in enumerate(feeds):
        array.tofile(scratch / f"in{index}.bin")
        words.append(f"{scratch}/in{index}.bin:{array.dtype}:{'x'.join(map(str, array.shape))}")
    command = ["qemu-aarch64-static", "-L", SYSROOT, program, library, scratch / "out", str(threads), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = []
    for line in done.stdout.splitlines():
        index, dtype, shape = line.split()
        array = np.fromfile(scratch / f"out.{index}.bin", dtype)
        found.append(array.reshape([int(side) for side in shape.split("x")]))
    return found


@pytest.mark.parametrize("threads", [1, 2])
def test_an_aarch64_build_gives_every_output_under_qemu(host_program: Path, tmp_path: Path, threads: int) -> None:
    target = targets.choose(arch="aarch64", cores=2)
    artifact = Artifact.open(tvm_tiny.write_artifact(tmp_path / "tiny", target))
    assert object_arch(artifact.entry) == "aarch64"
    feeds, expected = artifact.golden()
    found = run_under_qemu(host_program, artifact.entry, list(feeds.values()), tmp_path, threads)
    for array, wanted in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-4)


def test_vit_nano_for_aarch64_computes_the_model_under_qemu(host_program: Path, tmp_path: Path) -> None:
    model = edgevit.create_model("vit_nano", weights="digits")
    prepared = prepare(ExportRequest(ModelChoice(model), ("tvm",), threads=1))
    target = targets.choose(arch="aarch64", cores=2)
    scheduled = schedules.apply(compile.lower(prepared.capture.program), target, {})
    link(compile.build(scheduled, target), tmp_path / "model.so", target)
    image = np.ascontiguousarray(prepared.rows.inputs["image"][:1])
    (logits,) = run_under_qemu(host_program, tmp_path / "model.so", [image], tmp_path)
    expected = prepared.reference.whole.outputs["logits"][:1]
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_an_armv7_build_is_linked_for_armv7(host_program: Path, tmp_path: Path) -> None:
    target = targets.choose(arch="armv7", cores=2)
    link(tvm_tiny.compile_tiny(target), tmp_path / "model.so", target)
    assert object_arch(tmp_path / "model.so") == "armv7"


def test_this_machine_says_that_it_needs_the_other_device(host_program: Path, tmp_path: Path) -> None:
    target = targets.choose(arch="aarch64", cores=2)
    artifact = Artifact.open(tvm_tiny.write_artifact(tmp_path / "tiny", target))
    if object_arch(artifact.entry) == targets.host(1).arch:
        pytest.skip("this is an aarch64 machine")
    with pytest.raises(Unsupported, match="needs an aarch64 device"):
        TvmRuntime().open(artifact, threads=1, provider=None, options={})
