"""What TVM's importer lacks, or reads wrongly, is written out for it; what is left is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("tvm")
import tvm
from tvm import relax

from edgevit.artifact.manifest import BatchRange
from edgevit.errors import Unsupported
from edgevit.export.capture import capture
from edgevit.export.tvm import compile as compiling
from edgevit.export.tvm import schedules, targets
from edgevit.export.tvm.importing import imported
from edgevit.export.tvm.origins import bindings_of


class Maps(nn.Module):
    """A function of (B, 8, 6, 6) maps, and layers that it may need."""

    def __init__(self, function: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.layers = nn.Sequential(*layers)
        self.function = function

    def forward(self, image: Tensor) -> Tensor:
        return self.function(self.layers(self.patches(image)))


def error(model: nn.Module) -> float:
    torch.manual_seed(0)
    images = np.random.default_rng(0).normal(size=(3, 3, 12, 12)).astype(np.float32)
    for value in model.buffers():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.5)
    captured = capture(model.eval(), {"image": images}, BatchRange(min=1, max=4))
    target = targets.host(1)
    module = schedules.apply(compiling.lower(captured.program), target, {})
    got = relax.VirtualMachine(compiling.build(module, target), tvm.cpu())["main"](tvm.runtime.tensor(images)).numpy()
    with torch.no_grad():
        wanted = model.double()(torch.from_numpy(images).double()).numpy()
    return float(np.abs(got - wanted).max() / max(1e-9, np.abs(wanted).max()))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "grid_sample": lambda t: F.grid_sample(t, t.permute(0, 2, 3, 1)[..., :2], align_corners=False),
    "unfold": lambda t: F.unfold(t, 4, stride=2, padding=1),
    "scatter_": lambda t: torch.zeros_like(t).scatter_(1, t.argmax(1, keepdim=True), 1.0),
    "one_hot": lambda t: F.one_hot(t.argmax(1), 8).to(t.dtype),
    "all": lambda t: ((t > 0) & ~(t > 0).all(1, keepdim=True)).to(t.dtype),
    "masked_fill_": lambda t: (t * 2).masked_fill_(t > 0, float("-inf")).softmax(1),
    "pixel_shuffle": lambda t: F.pixel_shuffle(t, 2),
    "rsub": lambda t: 1 - t,
    "argmax of a masked row": lambda t: t.masked_fill(t[:, :1] > 0, float("-inf")).argmax(1).to(t.dtype),
    "argmin of a masked row": lambda t: t.masked_fill(t[:, :1] > 0, float("inf")).argmin(1).to(t.dtype),
    "max and where it is": lambda t: t.max(1).values + t.max(1).indices.to(t.dtype),
    "bicubic by a scale": lambda t: F.interpolate(t, scale_factor=1.9, mode="bicubic"),
    "bilinear by a scale": lambda t: F.interpolate(t, scale_factor=1.9, mode="bilinear"),
    "nearest by a scale": lambda t: F.interpolate(t, scale_factor=1.9),
    "nearest to a size": lambda t: F.interpolate(t, size=(11, 9)),
    "bilinear to a size": lambda t: F.interpolate(t, size=(11, 9), mode="bilinear"),
    "antialiased": lambda t: F.interpolate(t, size=(4, 3), mode="bilinear", antialias=True),
    "adaptive maximum": lambda t: F.adaptive_max_pool2d(t, (4, 5)),
    "last of a line": lambda t: t[:, -1],
    "bare_layer_norm": lambda t: F.layer_norm(t, (6,)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operator_that_the_importer_lacks_is_written_out(name: str) -> None:
    assert error(Maps(FUNCTIONS[name])) < 5e-6


def unbound(maps: Tensor) -> Tensor:
    """Several tuples of values in one group."""
    pairs = [(maps[:, 2 * k : 2 * k + 2] * k).exp().unbind(1) for k in range(4)]
    return torch.stack([a * pairs[k - 2][1] + b for k, (a, b) in enumerate(pairs)], 1)


@pytest.mark.parametrize("function", [unbound, FUNCTIONS["bicubic by a scale"]], ids=["unbound", "constants"])
def test_no_tuple_whose_values_are_known_is_left_for_fusion(function: Callable[[Tensor], Tensor]) -> None:
    """FuseOps takes one for another by the order in which they lie in memory: FuseTIR then fails, now and then."""
    images = np.zeros((2, 3, 12, 12), np.float32)
    captured = capture(Maps(function).eval(), {"image": images}, BatchRange(min=1, max=1))
    module, _ = imported(captured.program, baked=False)
    legalized, _, _ = compiling.fused_kernels(module)
    assert not [each for each in bindings_of(legalized["main"]) if isinstance(each.value, relax.Tuple)]


def test_values_of_several_tuples_in_one_group_stay_apart() -> None:
    assert error(Maps(unbound)) < 2e-6


@pytest.mark.parametrize("axes", [1, 3], ids=["1d", "3d"])
def test_a_normalisation_that_is_left_has_its_own_epsilon(axes: int) -> None:
    """TVM reads the momentum, 0.1, as the epsilon of an undecomposed one."""
    norm = (nn.Flatten(2), nn.BatchNorm1d(8)) if axes == 1 else (nn.Unflatten(1, (2, 4)), nn.BatchNorm3d(2))
    assert error(Maps(lambda t: t, *norm)) < 2e-6


def lowered(function: Callable[[Tensor], Tensor]) -> None:
    images = np.zeros((2, 3, 12, 12), np.float32)
    captured = capture(Maps(function).eval(), {"image": images}, BatchRange(min=1, max=1))
    compiling.lower(captured.program)


def test_an_operator_that_nobody_knows_is_refused_with_its_module_and_line() -> None:
    with pytest.raises(
        Unsupported, match=r"TVM cannot import \S*lgamma\S* \(in the model, test_tvm_importing\.py:\d+\)"
    ):
        lowered(torch.lgamma)


def test_a_failed_import_says_at_which_call_it_was() -> None:
    with pytest.raises(Unsupported, match=r"TVM cannot import \S+ \(in the model, test_tvm_importing\.py:\d+\): \w+"):
        lowered(lambda t: F.conv_transpose3d(t[:, None], torch.ones(1, 1, 2, 2, 2)))
