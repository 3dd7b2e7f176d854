"""The TVM runtime opens what was built for this machine, runs it on the threads it was told, and refuses the rest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm_tiny

from edgevit import cpu
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, EdgeVitError, UnknownName, Unsupported, UsageError
from edgevit.export.tvm import targets
from edgevit.runtimes.base import Session
from edgevit.runtimes.tvm import library, lock
from edgevit.runtimes.tvm.device import TvmRuntime, layer_times, read_modules
from edgevit.runtimes.tvm.here import here


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tvm_tiny.write_artifact(tmp_path_factory.mktemp("tvm") / "tiny", targets.host(2))


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """One to change."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


def opened(folder: Path, threads: int = 1, provider: str | None = None, **options: Any) -> Session:
    return TvmRuntime().open(Artifact.open(folder), threads=threads, provider=provider, options=options)


def test_outputs_are_those_of_the_model_under_the_manifests_names(built: Path) -> None:
    feeds, expected = Artifact.open(built).golden()
    with opened(built) as session:
        found = session.infer(feeds)
    assert list(found) == ["logits", "twice"]
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-4)


def test_calls_do_not_share_their_arrays(built: Path) -> None:
    feeds, _ = Artifact.open(built).golden()
    with opened(built) as session:
        first = session.infer(feeds)["logits"]
        kept = first.copy()
        session.infer({"image": feeds["image"] + 1})
        np.testing.assert_array_equal(first, kept)
        strided = np.repeat(feeds["image"], 2, axis=1)[:, ::2]
        assert not strided.flags.c_contiguous
        np.testing.assert_array_equal(session.infer({"image": strided})["logits"], kept)


def test_a_closed_session_says_so(built: Path) -> None:
    feeds, _ = Artifact.open(built).golden()
    session = opened(built)
    session.close()
    with pytest.raises(EdgeVitError, match="was closed"):
        session.infer(feeds)


def test_layers_are_the_kernels_of_one_inference_in_running_order(built: Path) -> None:
    feeds, _ = Artifact.open(built).golden()
    with opened(built) as session:
        layers = session.layers([feeds, feeds], runs=3)
        assert session.infer(feeds).keys() == {"logits", "twice"}
    assert [layer.name for layer in layers] == ["matmul", "relu", "multiply"]
    assert all(0 < layer.ms < 1e3 and layer.unit == "cpu" for layer in layers)


def test_a_kernel_that_is_called_again_is_numbered_and_keeps_its_operator() -> None:
    samples = [[("fused_matmul12", ms), ("softmax", 2.0), ("fused_matmul12", 5.0)] for ms in (3.0, 1.0, 9.0)]
    layers = layer_times(samples, "cpu", {})
    assert [(layer.name, layer.op, layer.ms) for layer in layers] == [
        ("fused_matmul12", "matmul", 3.0),
        ("softmax", "softmax", 2.0),
        ("fused_matmul12#2", "matmul", 5.0),
    ]


def test_each_call_of_a_shared_kernel_has_its_own_module(copied: Path) -> None:
    rows = [{"name": "matmul", "module": "q"}, {"name": "relu", "module": ""}, {"name": "matmul", "module": None}]
    (copied / "layers.json").write_text(json.dumps(rows))
    modules = read_modules(copied)
    samples = [[("matmul", 1.0), ("relu", 1.0), ("matmul", 1.0), ("matmul", 1.0)]]
    assert [layer.module for layer in layer_times(samples, "cpu", modules)] == ["q", "", None, None]
    (copied / "layers.json").write_text("[{}]")
    with pytest.raises(BadArtifact, match=r"layers\.json cannot be read"):
        read_modules(copied)


def test_an_artifact_without_a_table_has_no_modules(built: Path) -> None:
    assert read_modules(built) == {}


def test_the_memory_of_an_inference_is_what_the_compiled_code_asks_for(built: Path) -> None:
    feeds, _ = Artifact.open(built).golden()
    tensor = tvm_tiny.ROWS * tvm_tiny.WIDTH * 4
    with opened(built) as session:
        assert session.working_memory(feeds) == session.working_memory(feeds) == 3 * tensor


RUN = """
import json, os, sys, time
from pathlib import Path
from edgevit.artifact.opened import Artifact
from edgevit.runtimes.tvm.device import TvmRuntime, layer_times, read_modules

def busy():
    tasks = Path("/proc/self/task").iterdir()
    return {task.name: int((task / "schedstat").read_text().split()[0]) for task in tasks}  # ns on a core

artifact = Artifact.open(sys.argv[1])
feeds, expected = artifact.golden()
before = os.sched_getaffinity(0)
with TvmRuntime().open(artifact, threads=int(sys.argv[2]), provider=None, options={}) as session:
    session.infer(feeds)
    time.sleep(0.5)  # new threads of the pool spin for a moment before they sleep
    idle = busy()
    for _ in range(int(sys.argv[3])):
        session.infer(feeds)
    worked = [ns - idle.get(thread, 0) for thread, ns in busy().items()]
    print(json.dumps({
        "torch": "torch" in sys.modules, "library": session.details["library"], "worked": worked,
        "affinity": before == os.sched_getaffinity(0), "environment": "TVM_USE_RUNTIME_LIB" in os.environ,
    }))
"""


def run_fresh(built: Path, threads: int, calls: int) -> dict[str, Any]:
    command = [sys.executable, "-c", RUN, str(built), str(threads), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_device_loads_the_runtime_library_alone_and_no_torch(built: Path) -> None:
    found = run_fresh(built, threads=1, calls=1)
    assert found["library"] == "runtime"
    assert not found["torch"]
    assert not found["environment"]


@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_run_on_as_many_threads_as_were_asked_for(built: Path, threads: int) -> None:
    found = run_fresh(built, threads, calls=100)
    working = [ns for ns in found["worked"] if ns > 2e6]  # a share of 100 calls is some 30 ms, an idle thread sleeps
    assert len(working) == threads
    assert found["affinity"], "the calling thread was pinned to a core"


def test_sessions_with_different_threads_live_in_one_process(built: Path) -> None:
    feeds, expected = Artifact.open(built).golden()
    count = library._function("runtime.NumThreads")
    with opened(built, threads=2) as two, opened(built, threads=1) as one:
        for session in (two, one, two):
            np.testing.assert_allclose(session.infer(feeds)["twice"], expected["twice"], rtol=1e-5, atol=1e-4)
            assert count() == session.threads


def test_more_threads_than_the_pool_has_is_an_error_and_not_fewer_threads(built: Path) -> None:
    with opened(built, threads=1):
        pass
    with pytest.raises(Unsupported, match="were asked for") as caught:
        opened(built, threads=64)
    assert "TVM_NUM_THREADS=64" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"arch": "aarch64"}, f"needs an aarch64 device, this one is {cpu.arch()}"),
        ({"system": "darwin"}, "needs macOS, this is Linux"),
        ({"features": "avx2,avx1024f,zmm99", "mcpu": "futurelake"}, "needs a CPU with avx1024f, zmm99"),
        ({"apache-tvm": "0.19.0"}, "needs apache-tvm 0.19, 0.27.0.post1 is installed"),
        ({"apache-tvm-ffi": "0.7.1"}, "needs apache-tvm-ffi 0.7"),
    ],
)
def test_a_lock_that_does_not_fit_is_one_sentence_and_the_command_that_rebuilds(
    copied: Path, entries: dict[str, str], sentence: str
) -> None:
    tvm_tiny.change_lock(copied, **entries)
    (copied / "model.so").write_bytes(b"never read")
    with pytest.raises(Unsupported) as caught:
        opened(copied)
    assert str(caught.value).startswith(sentence)
    assert "edgevit export tiny -t tvm" in str(caught.value.hint)


def test_an_artifact_for_a_gpu_says_what_it_needs(copied: Path) -> None:
    tvm_tiny.change_lock(copied, device="cuda")
    if library.load().cuda(0).exist:
        pytest.skip("this machine has a GPU")
    with pytest.raises(Unsupported, match="needs an NVIDIA GPU"):
        opened(copied)


def test_a_manifest_without_a_lock_is_refused(copied: Path) -> None:
    manifest = json.loads((copied / "edgevit.json").read_text())
    (copied / "edgevit.json").write_text(json.dumps(manifest | {"lock": {}}))
    with pytest.raises(BadArtifact, match="locks no"):
        opened(copied)


@pytest.mark.parametrize("content", [b"", b"no shared object", b"\x7fELF" + bytes(60)])
def test_a_broken_library_is_a_bad_artifact(copied: Path, content: bytes) -> None:
    (copied / "model.so").write_bytes(content)
    with pytest.raises(BadArtifact, match="cannot load"):
        opened(copied)


def test_providers_and_options_are_never_ignored(built: Path) -> None:
    assert opened(built, provider="CPU").provider == "cpu"
    with pytest.raises(Unsupported, match="built for the cpu provider"):
        opened(built, provider="cuda")
    with pytest.raises(UnknownName):
        opened(built, provider="vulkan")
    with pytest.raises(UnknownName):
        opened(built, fuse="yes")


def test_inputs_are_checked_against_the_manifest(built: Path) -> None:
    with opened(built) as session, pytest.raises(UsageError):
        session.infer({"image": np.zeros((1, 3), np.float32)})


def test_features_are_compared_only_where_the_kernel_lists_them() -> None:
    assert lock.lacking_features("avx2,fma", frozenset({"avx2"})) == ["fma"]
    assert lock.lacking_features("avx2,fma", frozenset()) == []
    assert lock.lacking_features("", frozenset({"avx2"})) == []


def test_here_names_this_cpu_without_importing_tvm() -> None:
    assert here().able
    assert cpu.arch() in here().sentence
    code = "import sys; from edgevit.runtimes.tvm.here import here; here(); print('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
