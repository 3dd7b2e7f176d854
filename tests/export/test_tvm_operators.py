"""TVM's importer drops arguments without a word: each that is left to it is tried, and no other is believed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("tvm")
import tvm
from tvm import relax
from tvm_operators import TABLE, Function, w

from edgevit.errors import Unsupported
from edgevit.export.tvm import building, targets
from edgevit.export.tvm import compile as compiling


class Theme(nn.Module):
    def __init__(self, functions: dict[str, Function]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, t: Tensor) -> dict[str, Tensor]:
        return {name: function(t) for name, function in self.functions.items()}


def example() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(3, 8, 6, 6)).astype(np.float32))


def exported(functions: dict[str, Function]) -> torch.export.ExportedProgram:
    Theme(functions)(example())  # constants are made outside of the trace
    return torch.export.export(Theme(functions), (example(),), strict=False)


@pytest.mark.parametrize("theme", TABLE)
def test_an_operator_means_to_tvm_what_it_means_to_pytorch(theme: str) -> None:
    target = targets.host(1)
    made = compiling.build(building.schedule(compiling.lower(exported(TABLE[theme])), target, "none")[0], target)
    found = relax.VirtualMachine(made, tvm.cpu())["main"](tvm.runtime.tensor(example().numpy()))
    for (name, wanted), got in zip(Theme(TABLE[theme])(example()).items(), found, strict=True):
        assert tuple(got.shape) == wanted.shape, name
        error = np.abs(got.numpy() - wanted.numpy()).max() / max(1e-9, wanted.abs().max().item())
        assert error < 5e-6, f"{name}: {error:.1e}"


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda t: t.bfloat16().float(), r"TVM cannot import _to_copy\.default \(in the model, test_tvm_\S+py:\d+\)"),
        (
            lambda t: F.conv2d(t.double(), w(4, 8, 1, 1).double()),
            r"TVM reads conv2d\.default .* as float32 \S+, and it is",
        ),
        (lambda t: t / 0, r"TVM has no kernel for this divide \(in the model, test_tvm_operators\.py:\d+\): .*by zero"),
        (lambda t: torch.randn_like(t), r"TVM cannot import randn_like\.default"),
    ],
    ids=["a rounding", "another type", "no kernel", "chance"],
)
def test_what_the_importer_gets_wrong_is_refused_by_name(function: Function, told: str) -> None:
    with pytest.raises(Unsupported, match=told):
        compiling.lower(exported({"one": function}))
