"""What a plan's layers alone are given and make, on real programs."""

from __future__ import annotations

import numpy as np
import torch
from integer_models import captured, rows_of
from torch import Tensor, nn

from edgevit.quantize.plan import INTEL
from edgevit.quantize.planning import plan_int8
from edgevit.quantize.trial import Trial


class _InPlace(nn.Module):
    """(B, 3, 8, 8) -> (B, 4): activations that write into what a convolution made, and into what the next was given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.first(image), inplace=True)
        y = nn.functional.silu(self.second(x), inplace=True)
        return self.third(y + x.add_(1.0)).mean((2, 3))


def test_what_a_layer_made_is_kept_before_what_follows_writes_into_it() -> None:
    module, rows = _InPlace().eval(), rows_of(16)
    trial = Trial(captured(module))
    plan = plan_int8(trial.capture, rows, "noise", "minmax", trial.sites).encoded(INTEL)
    x, y = trial.layers(plan, rows)["second.weight"]
    with torch.no_grad():
        given = nn.functional.hardswish(module.first(torch.from_numpy(rows["image"][:1])))
        made = module.second(given)
    np.testing.assert_allclose(x[:1], given.numpy(), atol=1e-6)
    assert np.abs(y[:1] - made.numpy()).max() < 0.02 * np.abs(made.numpy()).max()
