"""What waits to be compared lies on the disk where it is large, and says the same there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgevit.artifact.shelf import ROW_BYTES
from edgevit.models.reparam import reparameterize
from edgevit.models.reparam.aside import Aside, cloned, set_aside
from edgevit.models.reparam.proof import capture, finite, in_float64, relative_error, run

WIDE = ROW_BYTES // 8 + 3


def large() -> torch.Tensor:
    return torch.arange(WIDE * 2, dtype=torch.float64).reshape(2, WIDE)


def test_large_tensors_are_set_aside_and_come_back_as_they_were() -> None:
    small, labels = torch.ones(3, dtype=torch.float64), torch.zeros(WIDE * 2, dtype=torch.int64)
    aside = set_aside({"large": large().T, "small": small, "labels": labels, "name": "map"})
    assert isinstance(aside["large"], Aside)
    assert aside["large"].shape == (WIDE, 2)
    back = cloned(aside)
    assert torch.equal(back["large"], large().T)
    assert (back["name"], back["labels"].equal(labels), back["small"].equal(small)) == ("map", True, True)
    assert aside["small"] is not small


def test_a_folder_goes_with_the_tensor_that_lies_in_it() -> None:
    aside = set_aside(large())
    folder = Path(aside.path).parent
    assert folder.is_dir()
    del aside
    assert not folder.exists()


@pytest.mark.parametrize("place", [0, WIDE * 2 - 1])
def test_what_is_aside_is_compared_to_its_last_value(place: int) -> None:
    moved = large()
    moved.view(-1)[place] += 3.0
    assert relative_error(set_aside(large()), large()) == 0.0
    assert relative_error(set_aside(large()), moved) == pytest.approx(3 / (2 * WIDE - 1))
    assert relative_error(set_aside(large()), large().T) == float("inf")
    moved.view(-1)[place] = float("nan")
    assert relative_error(set_aside(large()), moved) == float("inf")
    assert (finite(set_aside(large())), finite(set_aside(moved))) == (True, False)


class Widens(nn.Module):
    """A map that is far larger than the model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 40, 1), nn.BatchNorm2d(40)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(image)).relu_()


def test_a_proof_holds_one_large_answer_and_no_second(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Widens().eval()
    image = torch.randn(1, 3, 160, 160)
    assert isinstance(in_float64(model, [image.double()]), Aside)
    seen = []
    monkeypatch.setattr(
        "edgevit.models.reparam.relative_error",
        lambda expected, found: seen.append((type(expected), type(found))) or relative_error(expected, found),
    )
    folded = reparameterize(model, example_inputs=image)
    assert seen == [(Aside, torch.Tensor)] * 2
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.testing.assert_close(folded(image), model(image))


def test_what_modules_received_and_returned_is_set_aside_before_they_edit_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 40, 1), nn.ReLU(inplace=True)).double().eval()
    image = torch.randn(1, 3, 160, 160, dtype=torch.float64)
    (call,) = capture(model, ["1"], [image])["1"]
    assert all(isinstance(one, Aside) for one in (*call.args, call.output))
    with torch.no_grad():
        assert torch.equal(cloned(call.args)[0], model[0](image))
    assert relative_error(call.output, run(model[1], call.args, call.kwargs)) == 0.0
