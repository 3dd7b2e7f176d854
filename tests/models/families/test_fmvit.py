"""FMViT: sizes as published, deploy form equal to train form, frequencies really mixed, any image size."""

from __future__ import annotations

import copy
from collections import Counter
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from edgevit.errors import UsageError
from edgevit.models.families import fmvit
from edgevit.models.families.fmvit import (
    CFB,
    CONFIGS,
    FMB,
    RLMHSA,
    FMViT,
    FMViTConfig,
    FusedCFB,
    FusedRLMHSA,
    fmvit_nano,
)
from edgevit.models.layers.blocks import ConvBN, MultiGroupConv
from edgevit.models.macs import count_macs, count_params
from edgevit.models.reparam import reparameterize
from edgevit.models.reparam.own import fold_own_blocks

# Parameters in millions and multiply-accumulates in 10⁹ at 224² (arXiv 2311.05707): bounds of what may be called that.
PUBLISHED = {
    "fmvit_t": ((1.96, 2.04), (0.25, 0.35)),
    "fmvit_s": ((6.272, 6.528), (0.75, 0.85)),
    "fmvit_m": ((12.544, 13.056), (1.96, 2.04)),
    "fmvit_b": ((23.814, 24.786), (4.116, 4.284)),
    "fmvit_l": ((34.594, 36.006), (6.958, 7.242)),
}
BLOCK = CONFIGS["fmvit_nano"]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode, float64; statistics, affine parameters, weights and biases all far from where they start."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.data.uniform_(low, high, generator=generator)

    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            draw(layer.weight, 0.3, 0.8)
            draw(layer.bias, -0.5, 0.5)
            draw(layer.running_mean, -0.5, 0.5)
            draw(layer.running_var, 0.5, 2.0)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            reach = (3.0 / layer.weight[0].numel()) ** 0.5
            draw(layer.weight, -reach, reach)
            if layer.bias is not None:
                draw(layer.bias, -0.5, 0.5)
    return module.double().eval()


def fold(module: nn.Module) -> nn.Module:
    return fold_own_blocks(copy.deepcopy(module), Counter())


@cache
def hollow_deploy_form(name: str) -> nn.Module:
    with torch.device("meta"):
        return fold(getattr(fmvit, name)().eval())


def relative_error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / a.abs().max()).detach())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_deploy_form_has_the_published_size(name):
    (least_params, most_params), (least_macs, most_macs) = PUBLISHED[name]
    model = hollow_deploy_form(name)
    params, macs = count_params(model) / 1e6, count_macs(model, 224) / 1e9
    assert least_params <= params <= most_params
    assert least_macs <= macs < most_macs


def test_nano_is_small_in_both_forms():
    model = fmvit_nano()
    assert count_params(model) < 0.3e6
    assert sum(t.numel() * t.element_size() for t in model.state_dict().values()) < 1.4e6
    assert count_macs(model, 32) < 20e6


def test_deploy_form_of_nano_equals_train_form_in_float64():
    model = randomised(fmvit_nano())
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    before, expected = copy.deepcopy(model.state_dict()), model(x)
    deploy = reparameterize(model, example_inputs=x)
    assert relative_error(expected, deploy(x)) <= 1e-10
    assert expected.std() > 0.05  # rows and classes differ, so that the equality means something
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not deploy.reparam_report.left


def test_deploy_form_of_t_equals_train_form_in_float64_at_a_small_size():
    model = randomised(fmvit.fmvit_t(num_classes=7, image_size=64))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert relative_error(model(x), fold(model)(x)) <= 1e-10


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_deploy_form_has_no_batch_norm_and_no_branch(name):
    kinds = {type(module) for module in hollow_deploy_form(name).modules()}
    assert not kinds & {nn.BatchNorm2d, nn.BatchNorm1d, MultiGroupConv, ConvBN, CFB, RLMHSA}
    assert {FusedCFB, FusedRLMHSA} <= kinds


@pytest.mark.parametrize("pool", [1, 2, 4])
def test_attention_deploys_with_merged_projections(pool):
    block = randomised(RLMHSA(32, 16, 8, pool))
    deploy, x = block.fused(), torch.randn(2, 32, 8, 12, dtype=torch.float64)
    assert sum(isinstance(m, nn.Conv2d) for m in deploy.modules()) == (1 if pool == 1 else 2)
    assert relative_error(block(x), deploy(x)) <= 1e-12


def test_attention_agrees_with_torch():
    q, k, v = (torch.randn(2, 16, *size) for size in ((4, 6), (2, 3), (2, 3)))
    heads = [t.flatten(2).unflatten(1, (2, 8)).transpose(-2, -1) for t in (q, k, v)]
    expected = nn.functional.scaled_dot_product_attention(*heads, scale=1.0)
    assert torch.allclose(fmvit.attend(q, k, v, 8), expected.transpose(-2, -1).reshape(2, 16, 4, 6), atol=1e-5)


@pytest.mark.parametrize("size", [64, 96, 160, 224, (64, 160)])
def test_any_size_divisible_by_32_works(size):
    height, width = (size, size) if isinstance(size, int) else size
    model = fmvit.fmvit_t(num_classes=5, image_size=size).eval()
    x = torch.randn(1, 3, height, width)
    with torch.no_grad():
        whole, deploy = model(x), fold(model)(x)
    assert whole.shape == (1, 5)
    assert torch.allclose(whole, deploy, atol=1e-4)


def test_a_size_not_divisible_by_the_stride_is_refused_with_a_size_that_works():
    with pytest.raises(UsageError, match="divisible by 32, not 200×224") as caught:
        fmvit.fmvit_t(image_size=(200, 224))
    assert caught.value.hint == "use --image-size 192x224"
    with pytest.raises(UsageError, match="divisible by 16"):
        fmvit_nano(image_size=40)


def block_and_input() -> tuple[FMB, Tensor]:
    torch.manual_seed(1)
    block = randomised(FMB(32, BLOCK, 2, 0.0))
    return block, torch.randn(1, 32, 12, 12, dtype=torch.float64, requires_grad=True)


def reached(path: nn.Module, x: Tensor) -> Tensor:
    """Which input pixels (12, 12) move the path's output at the pixel (6, 6)."""
    (gradient,) = torch.autograd.grad(path(x)[0, :, 6, 6].square().sum(), x)
    return gradient[0].abs().sum(dim=0) > 1e-14


def test_low_frequency_path_sees_the_whole_map_and_high_frequency_paths_their_neighbourhood():
    block, x = block_and_input()
    near, far = torch.zeros(12, 12, dtype=torch.bool), torch.zeros(12, 12, dtype=torch.bool)
    near[5:8, 5:8] = True
    far[4:9:2, 4:9:2] = True
    assert bool(reached(block.low, x).all())
    assert torch.equal(reached(block.near, x), near)
    assert torch.equal(reached(block.far, x), far)


def test_low_frequency_path_hears_of_other_pixels_only_their_window_averages():
    torch.manual_seed(2)
    path = randomised(RLMHSA(32, 16, 8, 2))
    x = torch.randn(1, 32, 8, 8, dtype=torch.float64)
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(4, 4)
    checkers[:, :2] = 0  # the query pixels stay as they were
    changed = x + checkers
    assert torch.allclose(path(x)[..., :2], path(changed)[..., :2], atol=1e-12)
    assert not torch.allclose(path(x)[..., 2:], path(changed)[..., 2:], atol=1e-3)


@pytest.mark.parametrize("path", ["low", "near", "far"])
def test_each_frequency_group_reaches_the_output(path):
    block, x = block_and_input()
    expected = block(x)
    getattr(block, path).register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    assert relative_error(expected, block(x)) > 1e-3


def test_channels_of_all_frequency_groups_are_concatenated():
    block, x = block_and_input()
    assert [p(x).shape[1] for p in (block.low, block.near, block.far)] == [16, 8, 8]


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_torch_export_takes_a_dynamic_batch(form):
    model = fmvit_nano().eval()
    model = model if form == "train" else fold(model)
    program = torch.export.export(
        model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},)
    )
    x = torch.randn(5, 3, 32, 32)
    assert torch.allclose(program.module()(x), model(x), atol=1e-5)


def test_blocks_are_stacked_as_in_next_vit():
    config = FMViTConfig((64, 128, 256, 512), (3, 4, 10, 3), CONFIGS["fmvit_l"].attention)
    mixed = [[b for b in range(depth) if config.is_fmb(stage, b)] for stage, depth in enumerate(config.depths)]
    assert mixed == [[], [3], [4, 9], [2]]


def test_stochastic_depth_grows_with_depth_and_is_off_in_nano():
    with torch.device("meta"):
        rates = [m.drop_path.rate for m in FMViT(CONFIGS["fmvit_l"]).modules() if isinstance(m, CFB | FMB)]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (0.0, pytest.approx(0.2))
    assert {m.drop_path.rate for m in fmvit_nano().modules() if isinstance(m, CFB | FMB)} == {0.0}


def test_gradients_reach_every_parameter():
    model = fmvit_nano().train()
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_other_channels_and_classes():
    assert fmvit_nano(num_classes=3, in_chans=1).eval()(torch.randn(2, 1, 32, 32)).shape == (2, 3)


def test_an_untrained_model_tells_inputs_apart_in_eval_mode():
    torch.manual_seed(0)
    with torch.no_grad():
        logits = fmvit.fmvit_s(image_size=64).eval()(torch.randn(8, 3, 64, 64))
    assert 0.01 < float(logits.std(dim=0).mean()) < 10.0
