"""Small modules through coremltools' converter, the disk and the evaluator, against PyTorch in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coreml_oracle import Computes, converted, error, evaluated, exported
from torch import Tensor, nn

SHAPES = {"image": (2, 6, 10, 12), "tokens": (2, 9, 16), "heads": (2, 3, 5, 8)}


def attention(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, 2 * x, x + 1)


def shifted_windows(x: Tensor) -> Tensor:
    """What Swin does to its map: roll, cut into windows, and back."""
    rows, channels, height, width = x.shape
    windows = torch.roll(x, (-2, -3), (2, 3)).reshape(rows, channels, 2, height // 2, 3, width // 3)
    windows = windows.permute(0, 2, 4, 3, 5, 1).reshape(rows * 6, -1, channels)
    windows = windows.softmax(1).reshape(rows, 2, 3, height // 2, width // 3, channels)
    return torch.roll(windows.permute(0, 5, 1, 3, 2, 4).reshape(x.shape), (2, 3), (2, 3))


CASES = {
    "conv same, even kernel, dilated": (nn.Conv2d(6, 4, (4, 3), padding="same", dilation=2), "image"),
    "conv other padding on each axis": (nn.Conv2d(6, 4, (3, 5), stride=(2, 1), padding=(1, 2)), "image"),
    "conv in groups": (nn.Conv2d(6, 9, 3, padding=1, groups=3), "image"),
    "conv depthwise, multiplier 2, stride 2": (nn.Conv2d(6, 12, 3, stride=2, padding=1, groups=6), "image"),
    "conv of reflected borders": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), "image"),
    "conv 1-d": (nn.Conv1d(9, 4, 3, padding=1), "tokens"),
    "batch norm": (nn.BatchNorm2d(6), "image"),
    "group norm": (nn.GroupNorm(3, 6), "image"),
    "instance norm": (nn.InstanceNorm2d(6, affine=True), "image"),
    "layer norm of two axes": (nn.LayerNorm((9, 16)), "tokens"),
    "average pool, ceil, padding counted": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), "image"),
    "average pool, ceil, padding not counted": (nn.AvgPool2d(3, 2, 1, True, count_include_pad=False), "image"),
    "max pool, ceil": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), "image"),
    "adaptive pool": (nn.AdaptiveAvgPool2d((5, 6)), "image"),
    "adaptive pool, uneven": (nn.AdaptiveAvgPool2d((3, 5)), "image"),
    "bilinear upsampling": (nn.Upsample(scale_factor=2, mode="bilinear"), "image"),
    "bilinear to a size, corners aligned": (nn.Upsample((13, 17), mode="bilinear", align_corners=True), "image"),
    "nearest to a size": (nn.Upsample((13, 17), mode="nearest"), "image"),
    "attention": (Computes(attention), "heads"),
    "encoder layer": (nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True), "tokens"),
    "shifted windows": (Computes(shifted_windows), "image"),
    "gelu, hardswish, silu": (nn.Sequential(nn.GELU(), nn.Hardswish(), nn.SiLU()), "tokens"),
    "prelu, relu6, hardsigmoid": (nn.Sequential(nn.PReLU(6), nn.ReLU6(), nn.Hardsigmoid()), "image"),
    "slices, steps and a pick": (Computes(lambda x: x[:, ::2, 1::3, -5:] * x[:, -1:, :1, :5]), "image"),
    "gather by a list": (Computes(lambda x: x[:, torch.tensor([2, 0, 5])] + 1), "image"),
    "chunks in another order": (Computes(lambda x: torch.cat(x.chunk(3, 1)[::-1], 1)), "image"),
    "normalize, variance, where": (
        Computes(lambda x: torch.where(x > 0, F.normalize(x, dim=1), x.var(1, keepdim=True))),
        "image",
    ),
    "pad by reflection and by value": (Computes(lambda x: F.pad(F.pad(x, (1, 2, 3, 0), "reflect"), (1, 0))), "image"),
}


class All(nn.Module):
    """Every case in one module, so that the converter runs once for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = nn.ModuleList(module for module, _ in CASES.values())

    def forward(self, image: Tensor, tokens: Tensor, heads: Tensor) -> tuple[Tensor, ...]:
        given = {"image": image, "tokens": tokens, "heads": heads}
        inputs = [given[name] for _, name in CASES.values()]
        return tuple(case(x) for case, x in zip(self.cases, inputs, strict=True))


def example(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def computed() -> dict[str, dict[str, np.ndarray]]:
    """Outputs by case: float64 PyTorch as "exact", and the evaluator's by precision."""
    torch.manual_seed(0)
    module, inputs = All().eval(), {name: example(shape) for name, shape in SHAPES.items()}
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(*(x.double() for x in inputs.values()))
    found = {"exact": dict(zip(CASES, (one.numpy() for one in exact), strict=True))}
    captured = exported(module, *inputs.values())
    for precision in ("fp32", "fp16"):
        outputs = converted(captured, precision=precision).run({name: x.numpy() for name, x in inputs.items()})
        found[precision] = dict(zip(CASES, outputs.values(), strict=True))
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_converted_module_is_computed_as_pytorch_does(name, computed) -> None:
    got = computed["fp32"][name]
    assert got.dtype == np.float32
    assert error(got, computed["exact"][name]) <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_a_half_module_is_as_near_as_halves_allow(name, computed) -> None:
    got = computed["fp16"][name]
    assert got.dtype == np.float16
    assert 1e-5 < error(got.astype(np.float64), computed["exact"][name]) <= 5e-3


@pytest.mark.parametrize("mask", [False, True])
def test_attention_stays_whole_on_ios_18(mask) -> None:
    added = torch.linspace(-1, 1, 25).reshape(5, 5) if mask else None
    module = Computes(lambda x: F.scaled_dot_product_attention(x, 2 * x, x + 1, attn_mask=added))
    x = example(SHAPES["heads"])
    program = converted(exported(module, x), ios=18)
    assert "scaled_dot_product_attention" in {step.operation.name for step in program.steps}
    expected = F.scaled_dot_product_attention(x, 2 * x, x + 1, attn_mask=added)
    assert error(evaluated(program, x.numpy()), expected) <= 1e-5


def test_a_batch_of_any_size_goes_through_shapes_computed_on_the_way() -> None:
    module = Computes(lambda x: torch.cat([x.mean(1, keepdim=True).expand(-1, 2, -1), x], 1).reshape(x.shape[0], -1, 8))
    program = converted(exported(module, example((2, 9, 16)), batch=8))
    for rows in (1, 3, 8):
        x = example((rows, 9, 16))
        assert error(evaluated(program, x.numpy()), module(x)) <= 1e-6


def test_a_mean_of_everything_is_a_scalar() -> None:
    x = example(SHAPES["tokens"])
    got = evaluated(converted(exported(Computes(lambda one: one.mean()), x)), x.numpy())
    assert got.shape == ()
    assert error(got, x.mean()) <= 1e-5
