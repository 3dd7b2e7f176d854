"""Whether a factory's weights are random is found by following what it draws, not by what it is called."""

from __future__ import annotations

import textwrap

import pytest
import torch

from edgevit.models import create_model
from edgevit.models.spec import spec_of

NET = """
import copy
import numpy as np
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def kept(name="w.pth"):
    return torch.load(FOLDER + "/" + name)
"""


@pytest.fixture
def of(tmp_path):
    """What is said of the weights of a factory with this body."""

    def of(body: str) -> tuple[str, tuple[str, ...]]:
        path = tmp_path / "mine.py"
        text = textwrap.indent(textwrap.dedent(body), "    ")
        path.write_text(f"FOLDER = {str(tmp_path)!r}\n{NET}\ndef build(image_size=16):\n{text}\n")
        scope: dict[str, object] = {"FOLDER": str(tmp_path)}
        exec(NET, scope)
        torch.save(scope["net"]().state_dict(), tmp_path / "w.pth")
        spec = spec_of(create_model(f"{path}:build"))
        return spec.origin, tuple(note for note in spec.notes if "at random" in note)

    return of


LOADING = {
    "copied": "model = net(); model.load_state_dict(kept()); return model",
    "assigned": "model = net(); model.load_state_dict(kept(), assign=True); return model",
    "half": "model = net(); model.load_state_dict({k: v.half() for k, v in kept().items()}); return model.half()",
    "a copy": "model = net(); model.load_state_dict(kept()); return copy.deepcopy(model)",
    "by hand": """
        model = net()
        for name, value in kept().items():
            model.state_dict()[name].copy_(value)
        return model
    """,
    "constants": """
        model = net()
        for value in model.parameters():
            nn.init.constant_(value, 0.1)
        return model
    """,
    "numpy": """
        model = net()
        for value in model.parameters():
            value.data = torch.from_numpy(np.full(tuple(value.shape), 0.5, np.float32))
        return model
    """,
}
DRAWING = {
    "nothing": "return net()",
    "a seed": "torch.manual_seed(7); return net()",
    "scaled": """
        model = net()
        model[0].weight = nn.Parameter(torch.randn(4, 3, 3, 3) * 0.02)
        return model
    """,
    "orthogonal": "model = net(); nn.init.orthogonal_(model[0].weight); return model",
    "in half": "return net().half()",
    "a copy": "return copy.deepcopy(net())",
    "loaded from itself": "model = net(); model.load_state_dict(net().state_dict()); return model",
}


@pytest.mark.parametrize("how", sorted(LOADING))
def test_weights_that_a_factory_loads_are_its_own(of, how):
    assert of(LOADING[how]) == ("its factory's own", ())


@pytest.mark.parametrize("how", sorted(DRAWING))
def test_weights_that_a_factory_draws_are_random(of, how):
    assert of(DRAWING[how])[0] == "random (seed 0)"


def test_a_new_head_on_loaded_weights_is_random_and_is_named(of):
    origin, (note,) = of("model = net(); model.load_state_dict(kept()); model[4] = nn.Linear(4, 3); return model")
    assert origin == "random (seed 0)"
    assert note == "the factory drew 4.weight, 4.bias at random, and loads nothing into them"
