"""The program that coremltools is given holds only what it translates well."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("coremltools")

from edgevit.artifact.manifest import BatchRange
from edgevit.export.capture import capture
from edgevit.export.coreml.program import prepare
from edgevit.export.legalise import calls_of


class Mask(nn.Module):
    """Booleans of both signs, and windows."""

    def forward(self, image: Tensor) -> Tensor:
        mask = (image > 0) & ~(image > 1).all(1, keepdim=True)
        return F.unfold(image.masked_fill(mask, 0.0), 3)


def test_booleans_are_logic_and_windows_are_no_convolution() -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    captured = capture(Mask().eval(), {"image": images}, BatchRange(min=2, max=2))
    program = prepare(captured).program
    called = {str(node.target) for node in calls_of(program)}
    assert not {"aten.__and__.Tensor", "aten.bitwise_and.Tensor", "aten.im2col.default", "aten.all.dim"} & called
    assert "aten.logical_and.default" in called
    given = torch.from_numpy(images)
    assert torch.equal(program.module(check_guards=False)(given), Mask()(given))
