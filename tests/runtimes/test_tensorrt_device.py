"""The session's own work on a paper GPU: memory is the host's, and nothing queued happens before a synchronise.

It stands in for hardware that no test machine has. It shows that what the session queues is right and complete, not
that TensorRT or CUDA take it.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cuda.bindings import runtime as real_cuda

from edgevit.artifact.files import sha256_of
from edgevit.engines.nvidia import Gpu
from edgevit.errors import BadArtifact, EdgeVitError, Unsupported
from edgevit.runtimes.base import open_session
from edgevit.runtimes.tensorrt import cuda as calls
from edgevit.runtimes.tensorrt import device
from edgevit.runtimes.tensorrt.lock import Machine

OK = real_cuda.cudaError_t.cudaSuccess


class PaperCuda:
    """cuda.bindings.runtime over host memory: one stream whose work is done when it is synchronised."""

    cudaError_t = real_cuda.cudaError_t  # noqa: N815
    cudaMemcpyKind = real_cuda.cudaMemcpyKind  # noqa: N815
    cudaStreamCaptureMode = real_cuda.cudaStreamCaptureMode  # noqa: N815

    def __init__(self) -> None:
        self.blocks: dict[int, ctypes.Array] = {}
        self.queue: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.counts = dict.fromkeys(("malloc", "synchronise", "launch", "instantiate"), 0)
        self.streams = 0

    def do(self, work: Callable[[], None]) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def cudaMalloc(self, nbytes: int):  # noqa: N802
        self.counts["malloc"] += 1
        block = (ctypes.c_uint8 * nbytes)()
        self.blocks[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc  # noqa: N815

    def cudaFree(self, address: int):  # noqa: N802
        del self.blocks[address]
        return (OK,)

    cudaFreeHost = cudaFree  # noqa: N815

    def cudaMemcpyAsync(self, to: int, source: int, nbytes: int, kind, stream):  # noqa: N802
        self.do(lambda: ctypes.memmove(to, source, nbytes))
        return (OK,)

    def cudaStreamCreate(self):  # noqa: N802
        self.streams += 1
        return OK, 7

    def cudaStreamDestroy(self, stream):  # noqa: N802
        self.streams -= 1
        return (OK,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        self.counts["synchronise"] += 1
        for work in self.queue:
            work()
        self.queue.clear()
        return (OK,)

    def cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        self.recording = []
        return (OK,)

    def cudaStreamEndCapture(self, stream):  # noqa: N802
        recorded, self.recording = self.recording, None
        return OK, recorded

    def cudaGraphInstantiate(self, graph, flags):  # noqa: N802
        self.counts["instantiate"] += 1
        return OK, graph

    def cudaGraphLaunch(self, graph, stream):  # noqa: N802
        self.counts["launch"] += 1
        self.queue.extend(graph)
        return (OK,)

    def cudaGraphDestroy(self, graph):  # noqa: N802
        return (OK,)

    def cudaGraphExecDestroy(self, graph):  # noqa: N802
        return (OK,)


class PaperContext:
    """logits = twice the first four numbers of every image, read and written at the addresses that were set."""

    active_optimization_profile = 0
    profiler = None

    def __init__(self, cuda: PaperCuda) -> None:
        self.cuda, self.addresses, self.shape = cuda, dict[str, int](), (0,)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return name == "image"

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        shape, addresses = self.shape, dict(self.addresses)
        self.cuda.do(lambda: self.compute(shape, addresses))
        return stream == 7

    def compute(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        image = np.ctypeslib.as_array((ctypes.c_float * math.prod(shape)).from_address(addresses["image"]))
        logits = np.ctypeslib.as_array((ctypes.c_float * (shape[0] * 4)).from_address(addresses["logits"]))
        logits[:] = expected(image.reshape(shape)).ravel()
        if self.profiler is not None:
            self.profiler.report_layer_time("conv", 0.25)


def paper_tensorrt(cuda: PaperCuda, *, dtype: str = "FLOAT", opens: bool = True, valid: bool = True) -> SimpleNamespace:
    class Engine:
        num_io_tensors, num_optimization_profiles = 2, 1

        def get_tensor_name(self, index: int) -> str:
            return ("image", "logits")[index]

        def get_tensor_dtype(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(name=dtype if name == "logits" else "FLOAT")

        def get_tensor_profile_shape(self, name: str, index: int):
            return (1, 3, 8, 8), (4, 3, 8, 8), (4, 3, 8, 8)

        def create_execution_context(self) -> PaperContext:
            return PaperContext(cuda)

    class Runtime:
        def __init__(self, logger) -> None:
            self.logger = logger

        def get_engine_validity(self, plan: bytes):
            return ("VALID", 0) if valid else ("INVALID", 4)

        def deserialize_cuda_engine(self, plan: bytes):
            if not opens:
                self.logger.log("ERROR", "bad magic\nnumber")
            return Engine() if opens else None

    class Base:
        Severity = SimpleNamespace(ERROR="ERROR", INTERNAL_ERROR="INTERNAL_ERROR")

    return SimpleNamespace(
        __version__="10.13.0",
        ILogger=Base,
        IProfiler=Base,
        Runtime=Runtime,
        EngineValidity=SimpleNamespace(INVALID="INVALID"),
        EngineInvalidityDiagnostics=SimpleNamespace(__members__={"VERSION_MISMATCH": 1, "OLD_CUDA_DRIVER": 4}),
    )


@pytest.fixture
def folder(make_artifact, tmp_path: Path) -> Path:
    """A tensorrt artifact of 1 to 4 rows; what stands in for TensorRT does not read its model file."""
    path = make_artifact(batch=(1, 4))
    manifest = json.loads((path / "edgevit.json").read_text())
    manifest["target"] = "tensorrt"
    manifest["lock"] = {
        "flavor": "tensorrt",
        "version": "10.13.0",
        "accepts": "same",
        "sm": [89],
        "platform": "any",
        "cuda_driver": 12020,
        "driver": "r535",
        "sha256": sha256_of(path / "model.onnx"),
    }
    (path / "edgevit.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> PaperCuda:
    paper = PaperCuda()
    gpu = Gpu("Paper", 89, 13000)
    monkeypatch.setattr(calls, "cuda", paper)
    monkeypatch.setattr(device, "find_gpu", lambda: gpu)
    monkeypatch.setattr(device, "this_machine", lambda find: Machine(find(), {"tensorrt": "10.13.0"}, "Linux-x86_64"))
    monkeypatch.setattr(device, "import_module", lambda name: paper_tensorrt(paper))
    monkeypatch.setattr("edgevit.registry.version_of", lambda package: "10.13.0")  # as if tensorrt were installed
    return paper


def images(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 3, 8, 8)).astype(np.float32)


def expected(batch: np.ndarray) -> np.ndarray:
    return 2 * batch.reshape(len(batch), -1)[:, :4]


@pytest.mark.parametrize("options", [{}, {"cuda_graph": "true"}], ids=["plain", "graph"])
def test_every_batch_size_gives_its_own_rows_and_results_are_kept(folder: Path, cuda: PaperCuda, options) -> None:
    with open_session(folder, trust=True, options=options) as session:
        kept = []
        for turn, rows in enumerate((1, 4, 2, 2, 4, 1)):
            batch = images(rows, turn)
            kept.append((session.infer({"image": batch})["logits"], expected(batch)))
        for got, wanted in kept:
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("options", [{}, {"cuda_graph": "true"}], ids=["plain", "graph"])
def test_images_of_every_size_of_a_range_have_their_own_shape_and_place(folder: Path, cuda: PaperCuda, options) -> None:
    manifest = json.loads((folder / "edgevit.json").read_text())
    manifest["image_sizes"] = "8-16/8"
    manifest["inputs"][0]["sides"] = {"2": "height", "3": "width"}
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    with open_session(folder, trust=True, options=options) as session:
        for rows, size in ((1, (8, 8)), (2, (16, 8)), (2, (8, 16)), (4, (16, 16)), (1, (8, 8))):
            batch = np.random.default_rng(0).random((rows, 3, *size), np.float32)
            np.testing.assert_array_equal(session.infer({"image": batch})["logits"], expected(batch))
        assert len(cuda.blocks) == 2
    assert cuda.blocks == {}


def test_one_call_synchronises_once_and_allocates_nothing(folder: Path, cuda: PaperCuda) -> None:
    with open_session(folder, trust=True) as session:
        allocated = cuda.counts["malloc"]
        for rows in (1, 4, 4):
            session.infer({"image": images(rows)})
        assert cuda.counts["synchronise"] == 3
        assert cuda.counts["malloc"] == allocated == 2  # one block on the device, one pinned


def test_a_graph_is_recorded_once_per_batch_size_and_then_replayed(folder: Path, cuda: PaperCuda) -> None:
    with open_session(folder, trust=True, options={"cuda_graph": "true"}) as session:
        for seed in range(5):
            session.infer({"image": images(4, seed)})
        assert (cuda.counts["instantiate"], cuda.counts["launch"]) == (1, 5)
        before = cuda.counts["synchronise"]
        session.infer({"image": images(4)})
        assert cuda.counts["synchronise"] == before + 1
        session.infer({"image": images(2)})
        assert cuda.counts["instantiate"] == 2
        assert session.details["cuda_graph"] == "true"


def test_closing_frees_everything_and_a_closed_session_says_so(folder: Path, cuda: PaperCuda) -> None:
    session = open_session(folder, trust=True)
    session.infer({"image": images(1)})
    session.close()
    session.close()
    assert (cuda.blocks, cuda.streams) == ({}, 0)
    with pytest.raises(EdgeVitError, match="was closed"):
        session.infer({"image": images(1)})


def test_layers_are_timed_in_a_context_of_their_own(folder: Path, cuda: PaperCuda) -> None:
    with open_session(folder, trust=True) as session:
        (layer,) = session.layers([{"image": images(2)}], 3)
        assert (layer.name, layer.ms, layer.unit) == ("conv", 0.25, "Paper (SM 8.9)")
        np.testing.assert_array_equal(session.infer({"image": images(2)})["logits"], expected(images(2)))


def test_the_session_says_what_it_runs_on(folder: Path, cuda: PaperCuda) -> None:
    with open_session(folder, trust=True) as session:
        assert session.provider == "Paper (SM 8.9)"
        assert session.details["tensorrt"] == "10.13.0"
        assert session.details["cuda_driver"] == "13000"


@pytest.mark.parametrize(
    ("engine", "error", "sentence"),
    [
        ({"dtype": "HALF"}, BadArtifact, "'logits': 'HALF'.*the manifest says"),
        ({"opens": False}, EdgeVitError, "could not open .*: bad magic number"),
        ({"valid": False}, Unsupported, "refuses this engine here \\(old cuda driver\\)"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused(
    folder: Path, cuda: PaperCuda, monkeypatch, engine, error, sentence
) -> None:
    monkeypatch.setattr(device, "import_module", lambda name: paper_tensorrt(cuda, **engine))
    with pytest.raises(error, match=sentence):
        open_session(folder, trust=True)


def test_memory_that_cuda_refuses_is_one_sentence(folder: Path, cuda: PaperCuda, monkeypatch) -> None:
    refusal = (real_cuda.cudaError_t.cudaErrorMemoryAllocation, None)
    monkeypatch.setattr(cuda, "cudaMallocHost", lambda nbytes: refusal, raising=False)
    monkeypatch.setattr(cuda, "cudaGetErrorString", real_cuda.cudaGetErrorString, raising=False)
    with pytest.raises(EdgeVitError, match=r"CUDA could not pin [0-9]+ bytes of host memory: out of memory"):
        open_session(folder, trust=True)
    assert not cuda.blocks
