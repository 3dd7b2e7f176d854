from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from edgevit.errors import Unsupported
from edgevit.models.eager.copying import copied


class Features(nn.Module):
    """Reads back what a hook wrote into its dict: the hook closes over the module."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.seen = nn.Linear(3, 3), {}
        self.body.register_forward_hook(lambda module, args, output: self.seen.__setitem__("body", output))

    def forward(self, x: Tensor) -> Tensor:
        self.body(x)
        return self.seen["body"]


def test_a_tensor_with_a_history_is_copied_without_it() -> None:
    module = nn.Linear(3, 3)
    module.last = {"seen": [module(torch.ones(1, 3))]}
    found = copied(module)
    assert torch.equal(found.last["seen"][0], module.last["seen"][0])
    assert found.last["seen"][0].is_leaf


def test_what_a_tracer_left_behind_is_no_reason_not_to_have_a_copy() -> None:
    module = nn.Linear(3, 3)
    with FakeTensorMode():
        module.last = torch.ones(3)
    assert copied(module).last is module.last


def test_a_hook_of_the_copy_writes_into_the_copy() -> None:
    module = Features()
    found = copied(module)
    x = torch.ones(2, 3)
    assert torch.equal(found(x), module.body(x))
    found.body.weight.data.zero_()
    assert torch.equal(found(x), found.body.bias.expand(2, 3))


def test_a_forward_put_on_the_module_is_the_copy_s_own() -> None:
    module = nn.Linear(3, 3)
    before = module.forward
    module.forward = lambda x: before(x) * 2
    found = copied(module)
    found.weight.data.zero_()
    found.bias.data.fill_(1)
    assert found(torch.ones(1, 3)).tolist() == [[2, 2, 2]]


def test_plain_attributes_are_widened_with_the_rest() -> None:
    module = nn.Linear(3, 3)
    module.tables = {4: torch.ones(2), "whole": torch.ones(2, dtype=torch.int32)}
    found = copied(module, widen=True)
    assert (found.tables[4].dtype, found.tables["whole"].dtype) == (torch.float64, torch.int32)
    assert module.tables[4].dtype is torch.float32


def test_a_compiled_call_stays_with_the_original() -> None:
    module = nn.Linear(3, 3)
    module.compile(backend="eager")
    assert copied(module)._compiled_call_impl is None
    assert module._compiled_call_impl is not None


def test_modules_nested_hundreds_of_levels_deep_are_copied() -> None:
    module: nn.Module = nn.Identity()
    for _ in range(900):
        module = nn.Sequential(module)
    assert sum(1 for _ in copied(module).modules()) == 901


def test_what_cannot_be_copied_is_one_sentence() -> None:
    module = nn.Linear(3, 3)
    module.lock = threading.Lock()
    with pytest.raises(Unsupported, match=r"cannot be copied.*lock") as caught:
        copied(module)
    assert "from outside" in str(caught.value.hint)
