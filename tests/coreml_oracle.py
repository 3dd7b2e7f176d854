"""What the tests of the reference evaluator share: one operation by its MIL name, and a module through coremltools."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgevit.runtimes.coreml.ops import OPERATIONS
from edgevit.runtimes.coreml.program import Program, load


class Computes(nn.Module):
    """A module around a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def compute(name: str, *, dtype: Any = np.float32, **inputs: Any) -> np.ndarray:
    """The first output of a MIL operation."""
    return OPERATIONS[name].call(inputs, [np.dtype(dtype)])[0]


def values(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Normal float32 values; the scale moves them."""
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def error(got: np.ndarray, expected: torch.Tensor | np.ndarray) -> float:
    """Max abs error over max abs reference. A difference of shape is infinite."""
    wanted = np.asarray(expected, np.float64)
    if got.shape != wanted.shape:
        return np.inf
    return float(np.abs(got - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), 1e-30))


def exported(module: nn.Module, *example: torch.Tensor, batch: int | None = None) -> torch.export.ExportedProgram:
    """``module`` captured as the converter wants it; with ``batch``, for any number of rows up to that."""
    axes = None if batch is None else tuple({0: torch.export.Dim("batch", min=1, max=batch)} for _ in example)
    return torch.export.export(module.eval(), example, dynamic_shapes=axes).run_decompositions({})


def package(
    program: torch.export.ExportedProgram,
    saved: Path,
    *,
    precision: str = "fp32",
    ios: int = 17,
    output: str | None = None,
    image: dict[str, Any] | None = None,
) -> Path:
    """``program`` converted and saved at ``saved``. With ``image`` (ct.ImageType's keywords) its only input is one."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools as ct

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
            compute_precision={"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}[precision],
            inputs=None if image is None else [ct.ImageType(**image)],
            outputs=None if output is None else [ct.TensorType(name=output)],
            skip_model_load=True,
        )
    made.save(str(saved))
    return saved


def converted(program: torch.export.ExportedProgram, **options: Any) -> Program:
    """``program`` through coremltools, the disk and our loader. Options are those of ``package``."""
    with tempfile.TemporaryDirectory() as folder:
        return load(package(program, Path(folder) / "model.mlpackage", **options))


def evaluated(program: Program, *inputs: np.ndarray) -> np.ndarray:
    """The program's only output for inputs in order."""
    (output,) = program.run(dict(zip(program.inputs, inputs, strict=True))).values()
    return output
