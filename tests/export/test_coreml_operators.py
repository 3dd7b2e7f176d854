"""What coremltools translates wrongly, drops or cannot name: right in the package, or declined with the line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coreml_tiny import ONE, build, images, kinds
from torch import Tensor, nn

import edgevit
from edgevit.errors import Unsupported
from edgevit.export.capture import capture
from edgevit.export.coreml.convert import Asked
from edgevit.runtimes.coreml.program import load

Function = Callable[[Tensor], Any]
FOUR = torch.tensor([0, 2, 2, 5])
VALUES = torch.tensor([1.0, 2.0, 3.0, 4.0])


class Model(nn.Module):
    """Several functions of one picture, each an output."""

    def __init__(self, **functions: Function) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, image: Tensor) -> dict[str, Any]:
        return {name: function(image) for name, function in self.functions.items()}


WRONG: dict[str, Function] = {
    "one_over_small": lambda x: 1 / (x * 1e-5),
    "root_of_small": lambda x: (x.square() * 1e-8).rsqrt(),
    "log_of_nothing": lambda x: x.relu().log().exp(),
    "far_apart": lambda x: F.log_softmax(x * 500, 1),
    "times_two": lambda x: torch.add(x, x.flip(1), alpha=2.5) + torch.rsub(x, 3, alpha=2),
    "square": lambda x: F.rms_norm(x, (16, 16), eps=0.1),
    "smooth": lambda x: F.interpolate(x, (5, 7), mode="bilinear", antialias=True),
    "of_constants": lambda x: x + torch.zeros(16).scatter_add(0, FOUR, VALUES),
    "largest": lambda x: x.scatter_reduce(1, (x * 7).long().abs() % 3, x, "amax"),
    "behind_the_end": lambda x: F.avg_pool2d(x, (3, 2), (5, 7), ceil_mode=True),
    "choice": lambda x: torch.where(x.mean() > 0, x.amax(), x.amin()).expand(1, 2),
    "branch": lambda x: torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: -x, (x,)),
    "six_axes": lambda x: x.reshape(-1, 3, 2, 8, 4, 4).permute(0, 4, 2, 1, 5, 3).sum(1),
    "own": lambda x: x,
    "a_word": lambda x: torch.div(x.floor(), 0.7, rounding_mode="floor"),
    "view": lambda x: (x * 2).detach(),
}
WHOLE: dict[str, Function] = {
    "mask": lambda x: x > 0,
    "low_bits": lambda x: (x * 9).int() & 3,
    "bucket": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
}


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder, model = tmp_path_factory.mktemp("operators"), Model(**WRONG, **WHOLE)
    build(capture(model, {"image": images()}, ONE), folder)
    with torch.no_grad():
        exact = model(torch.from_numpy(images(1)).double())
    return load(folder / "model.mlpackage").run({"image": images(1)}), exact


@pytest.mark.parametrize("name", WRONG)
def test_a_function_that_coremltools_gets_wrong_is_right(name: str, computed) -> None:
    got, exact = (found[name] for found in computed)
    assert got.shape == tuple(exact.shape)
    assert np.abs(got - exact.numpy()).max() <= 1e-5 * np.abs(exact.numpy()).max()


@pytest.mark.parametrize("name", WHOLE)
def test_masks_and_integers_come_out_as_integers(name: str, computed) -> None:
    got, exact = (found[name] for found in computed)
    assert got.dtype == np.int32
    assert np.array_equal(got, exact.numpy())


def test_a_mask_is_boolean_for_the_user(tmp_path) -> None:
    rows = {"x": np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)}

    class Above(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"above": x > 0.3, "twice": 2 * x}

    artifact = edgevit.export(Above(), "coreml", out=tmp_path / "above", inputs=rows, threads=1)
    assert artifact.manifest.parity.status == "verified"
    with edgevit.open_session(artifact.path, "coreml-reference") as session:
        found = session.infer({"x": rows["x"][:1]})["above"]
    assert found.dtype == np.bool_
    assert np.array_equal(found, rows["x"][:1] > 0.3)


def test_a_root_mean_square_norm_is_one_layer_norm(tmp_path) -> None:
    build(capture(Model(out=lambda x: F.rms_norm(x, (16,))), {"image": images()}, ONE), tmp_path)
    assert "layer_norm" in kinds(tmp_path)
    assert not {"reduce_mean", "square", "sqrt", "rsqrt"} & set(kinds(tmp_path))


def test_what_a_translation_never_asks_for_is_told() -> None:
    given = Asked({"alpha": [2], "approximate": ["tanh"], "device": ["cpu"]})
    assert given.get("approximate") == ["tanh"]
    assert given.never() == ["alpha"]
    assert given["alpha"] == [2]
    assert given.never() == []


def test_a_refusal_of_the_converter_names_the_line(tmp_path) -> None:
    with pytest.raises(Unsupported, match=r"linalg_inv.*\(in the model, test_coreml_operators\.py:\d+\)"):
        build(capture(Model(out=lambda x: torch.linalg.inv(x)), {"image": images()}, ONE), tmp_path)
