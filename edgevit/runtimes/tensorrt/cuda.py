"""The few calls of the CUDA runtime that a session makes. Every failure is one EdgeVitError with CUDA's own words."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda

from edgevit.artifact.manifest import Array
from edgevit.errors import EdgeVitError


def check(answer: Any, doing: str) -> Any:
    """What a call returned beside its error code; EdgeVitError when that is not success."""
    error, *values = answer
    if error != cuda.cudaError_t.cudaSuccess:
        _, words = cuda.cudaGetErrorString(error)
        raise EdgeVitError(f"CUDA could not {doing}: {bytes(words).decode()}", hint="nvidia-smi shows who uses the GPU")
    return values[0] if values else None


class Block:
    """Equal-sized blocks of device and pinned host memory, freed together."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.device = int(check(cuda.cudaMalloc(nbytes), f"allocate {nbytes} bytes on the GPU"))
        try:
            self.host = int(check(cuda.cudaMallocHost(nbytes), f"pin {nbytes} bytes of host memory"))
        except EdgeVitError:
            cuda.cudaFree(self.device)
            raise

    def host_view(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """A numpy array over pinned memory; valid until ``free``."""
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        raw = (ctypes.c_uint8 * count).from_address(self.host + offset)
        return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)

    def copy_in(self, offset: int, nbytes: int, stream: Any) -> None:
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        copied = cuda.cudaMemcpyAsync(self.device + offset, self.host + offset, nbytes, kind, stream)
        check(copied, "copy an input to the GPU")

    def copy_out(self, offset: int, nbytes: int, stream: Any) -> None:
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        copied = cuda.cudaMemcpyAsync(self.host + offset, self.device + offset, nbytes, kind, stream)
        check(copied, "copy an output from the GPU")

    def free(self) -> None:
        cuda.cudaFree(self.device)
        cuda.cudaFreeHost(self.host)


class Stream:
    """One CUDA stream, and the graph captured from it if there is one."""

    def __init__(self) -> None:
        self.handle = check(cuda.cudaStreamCreate(), "create a stream")
        self._graph: Any = None

    def synchronize(self) -> None:
        check(cuda.cudaStreamSynchronize(self.handle), "finish the inference")

    def begin_capture(self) -> None:
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cuda.cudaStreamBeginCapture(self.handle, mode), "begin capturing a graph")

    def end_capture(self) -> None:
        """Keep what was captured as the graph that ``launch`` runs."""
        self.drop_graph()
        captured = check(cuda.cudaStreamEndCapture(self.handle), "capture a graph")
        self._graph = check(cuda.cudaGraphInstantiate(captured, 0), "instantiate the captured graph")
        check(cuda.cudaGraphDestroy(captured), "free the captured graph")

    def launch(self) -> None:
        check(cuda.cudaGraphLaunch(self._graph, self.handle), "launch the captured graph")

    def drop_graph(self) -> None:
        if self._graph is not None:
            cuda.cudaGraphExecDestroy(self._graph)
            self._graph = None

    def destroy(self) -> None:
        self.drop_graph()
        cuda.cudaStreamDestroy(self.handle)
