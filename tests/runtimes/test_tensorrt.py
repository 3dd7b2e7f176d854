"""Everything of the TensorRT runtime that needs no GPU: the lock, buffers, profiles, layer lists, options, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgevit.artifact.files import sha256_of
from edgevit.artifact.manifest import TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.engines.nvidia import Gpu, find_gpu
from edgevit.errors import BadArtifact, MissingDependency, UnknownName, Unsupported, UsageError
from edgevit.module_paths import shared_module
from edgevit.registry import version_of
from edgevit.runtimes.tensorrt.buffers import ALIGNMENT, choose_profile, plan_buffers
from edgevit.runtimes.tensorrt.device import TensorRtRuntime
from edgevit.runtimes.tensorrt.engine import invalidity, write_whole
from edgevit.runtimes.tensorrt.here import here
from edgevit.runtimes.tensorrt.layers import Kernel, layer_times, parse_inspection, read_kernels
from edgevit.runtimes.tensorrt.lock import Machine, check_lock, read_lock, rebuild_command, this_machine, version_fits
from edgevit.runtimes.tensorrt.options import check_provider, parse_options

ADA = Gpu("NVIDIA RTX 4090", 89, 13000)


@pytest.fixture
def engine(make_artifact) -> Artifact:
    """An artifact with the manifest of an engine; its model file is the tiny graph, which nothing here opens."""
    folder = make_artifact(batch=(1, 8))
    lock = {
        "flavor": "rtx",
        "version": "1.7.1.116",
        "accepts": "same",
        "sm": [86, 89, 120],
        "platform": "any",
        "cuda_driver": 13000,
        "driver": "r580",
        "sha256": sha256_of(folder / "model.onnx"),
    }
    return changed(folder, target="tensorrt", precision="fp16", lock=lock)


def changed(folder: Path, **fields) -> Artifact:
    manifest = json.loads((folder / "edgevit.json").read_text())
    for key, value in fields.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    return Artifact.open(folder)


def machine(gpu: Gpu | None = ADA, version: str | None = "1.7.1.116", platform: str = "Linux-x86_64") -> Machine:
    return Machine(gpu, {"rtx": version, "tensorrt": version}, platform)


def refused(artifact: Artifact, here: Machine) -> Exception:
    with pytest.raises((Unsupported, MissingDependency)) as caught:
        check_lock(read_lock(artifact), here, artifact.manifest)
    return caught.value


def test_a_machine_that_fits_is_not_refused(engine: Artifact) -> None:
    check_lock(read_lock(engine), machine(), engine.manifest)


def test_without_a_gpu_the_sentence_is_the_one_of_the_manifest(engine: Artifact) -> None:
    nothing_else_fits_either = machine(gpu=None, version=None)
    error = refused(engine, nothing_else_fits_either)
    assert str(error) == "needs an NVIDIA GPU (SM 8.6, 8.9 or 12.0)"
    assert error.exit_code == 4
    one = changed(engine.path, lock={"sm": [89]})
    assert str(refused(one, machine(gpu=None))) == "needs an NVIDIA GPU (SM 8.9)"


@pytest.mark.parametrize(
    ("here", "sentence", "hint"),
    [
        (
            machine(version=None),
            "needs TensorRT-RTX 1.7.1.116, which is not installed",
            "pip install tensorrt-rtx==1.7",
        ),
        (
            machine(version="1.8.0.3"),
            "needs TensorRT-RTX 1.7.1.116, here is 1.8.0.3",
            "edgevit export tiny -t tensorrt",
        ),
        (
            machine(gpu=Gpu("NVIDIA H200", 90, 13000)),
            "needs an NVIDIA GPU (SM 8.6, 8.9 or 12.0), here is NVIDIA H200 (SM 9.0)",
            "--option tensorrt.sm=90",
        ),
        (
            machine(gpu=Gpu("NVIDIA RTX 3090", 86, 12040)),
            "needs an NVIDIA driver r580 or later (CUDA 13.0), here is one for CUDA 12.4",
            "update the driver",
        ),
    ],
)
def test_each_mismatch_is_one_sentence_with_the_next_step(engine: Artifact, here, sentence, hint) -> None:
    error = refused(engine, here)
    assert sentence in str(error)
    assert hint in error.hint
    assert "\n" not in f"{error}{error.hint}"


def test_an_engine_of_another_platform_is_refused(engine: Artifact) -> None:
    built_on_jetson = changed(engine.path, lock={"flavor": "tensorrt", "platform": "Linux-aarch64"})
    error = refused(built_on_jetson, machine())
    assert "needs Linux-aarch64, where the engine was built; here is Linux-x86_64" in str(error)


def test_only_a_version_compatible_engine_runs_with_a_later_version(engine: Artifact) -> None:
    same = read_lock(engine)
    newer = read_lock(changed(engine.path, lock={"accepts": "newer", "version": "10.9.0"}))
    assert [version_fits(same, version) for version in ("1.7.1.116", "1.7.1.117", "1.8")] == [True, False, False]
    assert [version_fits(newer, version) for version in ("10.9.0", "10.13.2", "11.1.0", "10.8.9")] == [
        True,
        True,
        True,
        False,
    ]


def test_the_command_that_rebuilds_keeps_what_was_asked(engine: Artifact) -> None:
    command = rebuild_command(read_lock(engine), engine.manifest, ADA)
    assert command == (
        "edgevit export tiny -t tensorrt --precision fp16 --batch 1-8 "
        "--option tensorrt.flavor=rtx --option tensorrt.sm=89"
    )


@pytest.mark.parametrize(
    ("lock", "sentence"),
    [
        ({"sha256": "0" * 64}, "is of another engine"),
        ({"flavor": "lite"}, "names no TensorRT"),
        ({"sm": []}, "no GPU"),
        ({"cuda_driver": "new"}, "lacks"),
    ],
)
def test_a_lock_that_was_tampered_with_is_a_bad_artifact(engine: Artifact, lock, sentence) -> None:
    with pytest.raises(BadArtifact, match=sentence):
        read_lock(changed(engine.path, lock=lock))


def test_a_missing_lock_is_a_bad_artifact(make_artifact) -> None:
    with pytest.raises(BadArtifact, match="lacks 'sm'"):
        read_lock(Artifact.open(make_artifact()))


def test_this_machine_has_no_gpu_and_says_so_in_words(engine: Artifact) -> None:
    assert find_gpu() is None
    assert this_machine(find_gpu).versions["rtx"] == version_of("tensorrt-rtx")
    assert (here().able, here().sentence) == (False, "needs an NVIDIA GPU")
    with pytest.raises(Unsupported, match=r"needs an NVIDIA GPU \(SM 8\.6, 8\.9 or 12\.0\)"):
        TensorRtRuntime().open(engine, threads=1, provider=None, options={})


def test_neither_tensorrt_nor_cuda_is_loaded_to_say_so() -> None:
    code = (
        "import sys\nfrom edgevit.runtimes.tensorrt.here import here\nprint(here().sentence)\n"
        "print(any(name in sys.modules for name in ('torch', 'tensorrt', 'tensorrt_rtx', 'onnx')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:2] == ["needs an NVIDIA GPU", "False"]


SPECS = (
    TensorSpec(name="image", dtype="float32", shape=("batch", 3, 5, 5), role="image"),
    TensorSpec(name="mask", dtype="bool", shape=("batch", 7), role="mask"),
    TensorSpec(name="scale", dtype="float16", shape=(3,), role="tensor"),
    TensorSpec(name="logits", dtype="float32", shape=("batch", 10), role="logits"),
)


def test_tensors_lie_aligned_and_apart_at_every_batch() -> None:
    plan = plan_buffers(SPECS[:3], SPECS[3:], 6)
    slots = (*plan.inputs, *plan.outputs)
    assert [slot.name for slot in slots] == ["image", "mask", "scale", "logits"]
    assert all(slot.offset % ALIGNMENT == 0 for slot in slots)
    ends = [slot.offset + slot.nbytes(6) for slot in slots]
    assert all(end <= after.offset for end, after in zip(ends, slots[1:], strict=False))
    assert ends[-1] <= plan.nbytes


def test_only_the_rows_of_a_call_are_copied() -> None:
    image, mask, scale = plan_buffers(SPECS[:3], SPECS[3:], 6).inputs
    assert [slot.nbytes(2) for slot in (image, mask, scale)] == [2 * 75 * 4, 2 * 7, 3 * 2]
    assert (image.shape(2), scale.shape(2)) == ((2, 3, 5, 5), (3,))
    assert image.dtype == np.float32


def test_the_profile_tuned_nearest_to_the_batch_is_chosen() -> None:
    ranges = [(1, 1, 1), (1, 4, 8), (8, 32, 32)]
    assert [choose_profile(rows, ranges) for rows in (1, 2, 8, 9, 32)] == [0, 1, 1, 2, 2]
    with pytest.raises(Unsupported, match="batches of 1-1 and 1-8 and 8-32, not 33"):
        choose_profile(33, ranges)


@pytest.mark.parametrize("key", ["DataType", "Datatype", "Format/Datatype"])
def test_the_inspector_s_json_is_read_in_every_version_s_words(key: str) -> None:
    layer = {
        "Name": "conv",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", key: "Row major linear FP16 format" if "/" in key else "Half"}],
        "Constants": [{"Name": "alpha", key: "Float"}],
        "Outputs": [{"Name": "y", key: "Int8"}],
    }
    (found,) = parse_inspection(json.dumps({"Layers": [layer]}))
    assert (found.name, found.kind, found.reads, found.writes) == (
        "conv",
        "CaskConvolution",
        ("float16", "float32"),
        ("int8",),
    )


def test_an_engine_that_keeps_only_names_is_listed_by_name() -> None:
    assert [layer.name for layer in parse_inspection('{"Layers": ["a + b", "c"]}')] == ["a + b", "c"]


def test_layer_times_are_medians_with_the_module_they_came_from(tmp_path: Path) -> None:
    rows = [{"name": "fused_0", "kind": "gemm", "modules": ["blocks.0.attn.q", "blocks.0.attn.k"]}]
    (tmp_path / "layers.json").write_text(json.dumps({"network": [], "engine": rows}))
    kernels = read_kernels(tmp_path)
    assert kernels == {"fused_0": Kernel("gemm", "blocks.0.attn")}
    times = layer_times({"fused_0": [3.0, 1.0, 2.0], "head/Gemm_myl": [0.5]}, kernels, "RTX")
    assert [(time.name, time.op, time.module, time.ms) for time in times] == [
        ("fused_0", "gemm", "blocks.0.attn", 2.0),
        ("head/Gemm_myl", "", "head", 0.5),
    ]
    assert read_kernels(tmp_path / "elsewhere") == {}


def test_fused_modules_are_named_by_what_holds_them_all() -> None:
    assert shared_module(["head"]) == "head"
    assert shared_module(["blocks.0.norm1", "blocks.1.attn"]) == "blocks"
    assert shared_module(["stem", "blocks.0"]) == shared_module([]) == ""


def test_options_of_a_session_are_checked(engine: Artifact) -> None:
    rtx = read_lock(engine)
    made = parse_options({"cuda_graph": "true", "runtime_cache": "kernels.bin"}, rtx)
    assert (made.cuda_graph, made.runtime_cache) == (True, Path("kernels.bin"))
    with pytest.raises(UnknownName, match="option of tensorrt 'cuda_grpah'"):
        parse_options({"cuda_grpah": "true"}, rtx)
    with pytest.raises(UsageError, match="cuda_graph must be true or false"):
        parse_options({"cuda_graph": "yes"}, rtx)
    other = read_lock(changed(engine.path, lock={"flavor": "tensorrt"}))
    with pytest.raises(Unsupported, match="no runtime_cache"):
        parse_options({"runtime_cache": "kernels.bin"}, other)
    check_provider("CUDA")
    with pytest.raises(UnknownName, match="provider of tensorrt 'cpu'"):
        check_provider("cpu")


def test_why_tensorrt_refuses_an_engine_is_told_in_words() -> None:
    flags = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4}
    assert invalidity(5, flags) == "version mismatch, old cuda driver"
    assert invalidity(0, flags) == "no reason given"


def test_a_cache_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kernels.bin"
    for data in (b"old", b"new"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert [found.name for found in path.parent.iterdir()] == ["kernels.bin"]


def test_the_gpu_script_ends_clearly_where_there_is_no_gpu(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "tensorrt_gpu.py"
    command = [sys.executable, str(script), "-o", str(tmp_path / "result.json")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 4
    assert ran.stderr.startswith("needs an NVIDIA GPU: this machine has none, or no driver for it\n")
    assert not (tmp_path / "result.json").exists()
