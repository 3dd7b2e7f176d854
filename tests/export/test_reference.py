from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.errors import Unsupported
from edgevit.export.reference import float64_outputs, max_rel, noise, reference


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 8)).eval()


def rows(count: int = 19) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((count, 32)).astype(np.float32)}


def test_the_reference_is_the_model_in_float64_on_every_row() -> None:
    module = net()
    (found,) = float64_outputs(module, rows())
    expected = module.double()(torch.from_numpy(rows()["x"]).double()).detach().numpy()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_module_is_never_edited() -> None:
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    reference(module, rows(), "fp16")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module._forward_hooks
    assert not module[0]._forward_pre_hooks


def test_float32_noise_is_about_its_epsilon_and_fp16_noise_about_its_own() -> None:
    _, single = reference(net(), rows(), "fp32")
    _, half = reference(net(), rows(), "fp16")
    assert 1e-9 < single < 1e-6
    assert 1e-4 < half < 5e-3


def test_emulated_half_is_as_noisy_as_torch_half() -> None:
    module = net()
    (exact,) = float64_outputs(module, rows())
    emulated = noise(module, rows(), [exact], "fp16")
    real = max_rel(module.half()(torch.from_numpy(rows()["x"]).half()).float().detach().numpy(), exact)
    assert real / 4 < emulated < real * 4


def test_keeping_every_module_leaves_only_float32_noise() -> None:
    module = net()
    everything = [path for path, _ in module.named_modules()]
    _, kept = reference(module, rows(), "fp16", everything)
    assert kept < 1e-6


def test_in_place_operators_are_rounded_too() -> None:
    module = nn.Sequential(nn.Linear(32, 16), nn.ReLU(inplace=True))
    with torch.no_grad():
        (exact,) = float64_outputs(module, rows())
    assert noise(module, rows(), [exact], "fp16") > 1e-5


def test_an_unknown_precision_has_no_eager_noise() -> None:
    with pytest.raises(Unsupported, match="int4"):
        reference(net(), rows(), "int4")
