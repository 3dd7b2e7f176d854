from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgevit.export.cache import content
from edgevit.export.cache.content import Undescribed, digest_of, surroundings
from edgevit.models.families.vit import vit_nano
from edgevit.models.loading.source import create_model
from edgevit.models.threads import torch_threads


class Own(nn.Module):
    """A user's own: nothing says what its code does."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def own(self: nn.Module, x: Tensor) -> Tensor:
    return x


def test_the_same_model_made_twice_has_the_same_hash() -> None:
    assert digest_of(create_model("fmvit_nano")) == digest_of(create_model("fmvit_nano"))


def test_a_hash_is_the_same_in_another_process() -> None:
    """Not held against this process: other tests have imported what replaces methods of ``nn.Module``."""
    program = (
        "from edgevit.export.cache.content import digest_of\n"
        "from edgevit.models.loading.source import create_model\n"
        "print(digest_of(create_model('fmvit_nano'), {'b', 'a', 'c'}))"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("7", "8")
    ]
    assert len(found[0]) == 64
    assert found[0] == found[1]


def one_bit(model: nn.Module) -> None:
    next(model.parameters()).data.view(torch.int32).reshape(-1)[0] ^= 1


def negative_zero(model: nn.Module) -> None:
    next(model.parameters()).data.reshape(-1)[0] *= -0.0


def strides(model: nn.Module) -> None:
    value = next(value for value in model.parameters() if value.ndim == 2)
    value.data = value.data.t().contiguous().t()


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "one bit of a weight": one_bit,
    "the sign of a zero": negative_zero,
    "a buffer that no state dict holds": lambda model: model.register_buffer("more", torch.ones(1), persistent=False),
    "a plain number": lambda model: setattr(model, "scale", 0.5),
    "a table in a list": lambda model: setattr(model, "tables", [torch.ones(2)]),
    "train mode": lambda model: model.train(),
    "a layer's own number": lambda model: setattr(next(m for m in model.modules() if hasattr(m, "eps")), "eps", 1e-3),
    "a hook of torch's": lambda model: model.register_forward_hook(torch.nn.functional.relu),
    "a layer in place of another": lambda model: setattr(model, "norm", nn.Identity()),
    "strides": strides,
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_an_answer_changes_the_hash(change: str) -> None:
    model = create_model("vit_nano")
    zeroed = next(model.parameters())
    zeroed.data.reshape(-1)[0] = 0.0
    before = digest_of(model)
    CHANGES[change](model)
    assert digest_of(model) != before


def test_two_layers_that_share_a_weight_are_not_two_with_equal_weights() -> None:
    shared, apart = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    apart.load_state_dict(shared.state_dict())
    apart[1].load_state_dict(shared[0].state_dict())
    shared[1].weight, shared[1].bias = shared[0].weight, shared[0].bias
    apart[0].load_state_dict(shared[0].state_dict())
    assert digest_of(shared) != digest_of(apart)


class Listed(list[int]):
    """A list that may know more than its numbers."""


UNSEEN: dict[str, Callable[[nn.Module], object]] = {
    "a layer of the user's": lambda model: setattr(model, "norm", Own()),
    "a forward of the user's": lambda model: setattr(model, "forward", functools.partial(own, model)),
    "a hook of the user's": lambda model: model.register_forward_hook(lambda *_: None),
    "a generator": lambda model: setattr(model, "random", torch.Generator()),
    "a lock": lambda model: setattr(model, "lock", threading.Lock()),
    "a list of another kind": lambda model: setattr(model, "numbers", Listed([1])),
    "a sparse tensor": lambda model: setattr(model, "table", torch.eye(2).to_sparse()),
    "a tensor without data": lambda model: setattr(model, "table", torch.ones(2, device="meta")),
    "a script": lambda model: setattr(model, "norm", torch.jit.script(nn.Identity())),
}


@pytest.mark.parametrize("thing", UNSEEN)
def test_what_cannot_be_seen_has_no_hash(thing: str) -> None:
    model = create_model("vit_nano")
    UNSEEN[thing](model)
    with pytest.raises(Undescribed):
        digest_of(model)


def test_a_class_whose_method_was_exchanged_has_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("vit_nano")
    monkeypatch.setattr(nn.LayerNorm, "forward", own)
    with pytest.raises(Undescribed):
        digest_of(model)


def test_a_function_has_the_hash_of_what_it_closes_over() -> None:
    one, other = vit_nano(), vit_nano()
    assert digest_of(functools.partial(vit_nano, one)) != digest_of(functools.partial(vit_nano, [other]))


def test_threads_and_settings_of_kernels_are_part_of_the_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch_threads(1):
        before = surroundings()
        assert surroundings() == before
        monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
        assert surroundings() != before
        monkeypatch.delenv("MKL_CBWR")
        with torch_threads(2):
            assert surroundings() != before
        assert surroundings() == before


def test_code_that_was_changed_while_it_runs_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = max(path.stat().st_mtime for path in Path(content.__file__).parents[2].rglob("*.py"))
    monkeypatch.setattr(content, "_IMPORTED", newest - 1)
    with pytest.raises(Undescribed, match="was changed while this program ran"):
        content.own_code.__wrapped__()
