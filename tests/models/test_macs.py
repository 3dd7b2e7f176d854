"""Counting work and size, on models small enough to count by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgevit.models.macs import count_macs, count_params, hollow_copy


def test_a_convolution_is_counted_by_hand():
    conv = nn.Conv2d(3, 8, 3, padding=1, groups=1)
    assert count_macs(conv, (4, 6)) == 4 * 6 * 8 * 3 * 9
    assert count_macs(nn.Conv2d(6, 8, 3, padding=1, groups=2), 5, in_chans=6) == 25 * 8 * 3 * 9
    assert count_params(conv) == 8 * 27 + 8


def test_linear_layers_and_matrix_products_are_counted():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 7)

        def forward(self, x, y):
            return self.linear(x) @ y, torch.einsum("bij,bjk->bik", x, x.transpose(1, 2))

    inputs = [torch.randn(2, 3, 5), torch.randn(2, 7, 4)]
    assert count_macs(Products(), inputs=inputs) == 2 * (3 * 5 * 7 + 3 * 7 * 4 + 3 * 5 * 3)


def test_scaled_dot_product_attention_is_counted():
    class Attention(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x)

    assert count_macs(Attention(), inputs=[torch.randn(1, 2, 9, 4)]) == 2 * (2 * 9 * 9 * 4)


def test_counting_is_free_of_side_effects():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, 8)
    assert model.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_model_that_needs_values_is_counted_on_a_real_run():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(x) if x.sum().item() == 0 else x

    assert count_macs(Branches(), inputs=[torch.zeros(3, 4)]) == 3 * 4 * 2


def test_a_hollow_copy_keeps_shapes_shared_parameters_and_no_data():
    model = nn.ModuleList([nn.Linear(3, 3), nn.BatchNorm1d(3)])
    model.append(model[0])
    hollow = hollow_copy(model)
    assert {value.device.type for value in hollow.state_dict().values()} == {"meta"}
    assert hollow[0] is hollow[2]
    assert count_params(hollow) == count_params(model) == 12 + 6
    assert model[0].weight.device.type == "cpu"


def test_a_size_is_needed():
    with pytest.raises(ValueError, match="image_size or inputs"):
        count_macs(nn.Identity())
