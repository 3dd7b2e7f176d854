from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from edgevit.errors import Unsupported
from edgevit.models.eager.wrappers import plain, unwrapped
from edgevit.models.spec import ModelSpec, attach_spec, spec_of


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def first(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    """The net with ``change`` made to its first layer."""

    def made() -> nn.Module:
        module = net()
        change(module[0])
        return module

    return made


def inside(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        module = net()
        module[0] = wrap(module[0])
        return module

    return made


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


@pytest.fixture
def alone(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPED = {
    "data parallel": lambda: nn.DataParallel(net()),
    "data parallel inside": inside(nn.DataParallel),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(net()),
    "compiled": lambda: compiled(net()),
    "compiled inside": inside(compiled),
    "compiled data parallel": lambda: compiled(nn.DataParallel(net())),
    "weight norm": first(parametrizations.weight_norm),
    "spectral norm": first(parametrizations.spectral_norm),
    "orthogonal": first(parametrizations.orthogonal),
    "old weight norm": first(old_weight_norm),
    "old spectral norm": first(old_spectral_norm),
    "pruned": first(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "pruned twice": first(
        lambda layer: [prune.random_unstructured(layer, name, 0.5) for name in ("weight", "weight", "bias")]
    ),
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_the_module_inside_is_plain_and_computes_the_same(make: Callable[[], nn.Module]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = make().eval()
        x = torch.randn(2, 8)
        expected = module(x)
    found = unwrapped(module)
    assert [type(each) for each in found.modules()] == [type(each) for each in net().modules()]
    assert set(found.state_dict()) == set(net().state_dict())
    torch.testing.assert_close(found(x), expected)
    torch.testing.assert_close(module(x), expected)  # the user's own is as it was


def test_a_distributed_model_is_the_model_inside(alone) -> None:
    module = net()
    assert type(unwrapped(nn.parallel.DistributedDataParallel(module))) is nn.Sequential


def test_a_plain_module_is_itself() -> None:
    module = net()
    assert plain(module) is module


def test_what_was_said_on_the_wrapper_goes_with_the_model() -> None:
    wrapper = nn.DataParallel(net())
    wrapper.image_size = 32
    spec = ModelSpec("tiny", "module", None, None, None)
    found = unwrapped(attach_spec(wrapper, spec))
    assert found.image_size == 32
    assert spec_of(found) == spec
    assert not hasattr(wrapper.module, "image_size")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_float32_in_a_copy(dtype: torch.dtype) -> None:
    module = net().to(dtype)
    assert {value.dtype for value in plain(module).parameters()} == {torch.float32}
    assert {value.dtype for value in module.parameters()} == {dtype}


def hooked() -> nn.Module:
    module = nn.DataParallel(net())
    module.register_forward_hook(lambda module, args, output: output * 2)
    return module


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.jit.script(net()), "the model is TorchScript"),
        (lambda: torch.jit.trace(net(), torch.zeros(1, 8)), "the model is TorchScript"),
        (lambda: nn.Sequential(torch.jit.script(net())), "0 is TorchScript"),
        (lambda: torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}), r"0 \(Linear\) is quantised"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), r"0 \(LazyLinear\) has no weights until it has seen an input"),
        (hooked, "the DataParallel around the model has a hook"),
    ],
    ids=["scripted", "traced", "scripted inside", "quantised", "lazy", "hook on the wrapper"],
)
def test_what_has_no_plain_module_inside_is_declined_by_name(make, said: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = make()
    with pytest.raises(Unsupported, match=said) as caught:
        unwrapped(module)
    assert caught.value.hint


def test_a_lazy_module_that_has_seen_an_input_is_plain() -> None:
    module = nn.Sequential(nn.LazyLinear(3))
    module(torch.zeros(1, 8))
    assert unwrapped(module) is module
