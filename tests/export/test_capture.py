from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.artifact.manifest import BatchRange
from edgevit.errors import ExportFailed, Unsupported, UsageError
from edgevit.export.capture import Baked, bake_preprocess, capture, program_module, unbaked
from edgevit.images import Preprocess

ONE, RANGE = BatchRange(min=1, max=1), BatchRange(min=1, max=8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(image).mean((2, 3)))


class Returns(nn.Module):
    """Returns what ``make`` makes of its input."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor):
        return self.make(x)


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor | None


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Own(OrderedDict):
    """A dict that torch's tree knows nothing of."""


def images(rows: int = 4) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).standard_normal((rows, 3, 8, 8)).astype(np.float32)}


def vectors(rows: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((rows, 6)).astype(np.float32)}


def test_a_classifier_is_image_to_logits() -> None:
    captured = capture(Net(), images(), ONE, alone="logits")
    assert [(spec.name, spec.role, spec.shape) for spec in captured.inputs] == [("image", "image", (1, 3, 8, 8))]
    assert [(spec.name, spec.role, spec.shape) for spec in captured.outputs] == [("logits", "logits", (1, 5))]


def test_a_dynamic_batch_is_an_axis_called_batch_and_runs_at_any_size() -> None:
    captured = capture(Net(), images(1), RANGE, alone="logits")
    assert captured.inputs[0].shape[0] == captured.outputs[0].shape[0] == "batch"
    program = program_module(captured.program)
    for rows in (1, 3, 8):
        feed = torch.from_numpy(images(rows)["image"])
        torch.testing.assert_close(program(feed), captured.module(feed))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: x + 1, ["output"]),
        (lambda x: (x + 1, x * 2), ["output_0", "output_1"]),
        (lambda x: {"mask": x > 0, "sum": x.sum(1)}, ["mask", "sum"]),
        (lambda x: (x + 1, None), ["output_0"]),
        (lambda x: (x + 1, [x * 2, {"deep": x * 3}]), ["output_0", "output_1_0", "output_1_1_deep"]),
        (lambda x: {"pyramid": [x + 1, x * 2], "pyramid_0": x * 3}, ["pyramid_0", "pyramid_1", "pyramid_0_"]),
        (lambda x: Answer(x + 1, None), ["logits"]),
        (lambda x: Pair(x + 1, x * 2), ["first", "second"]),
        (lambda x: OrderedDict(a=x + 1), ["a"]),
        (lambda x: Own(a=x + 1), ["a"]),
        (lambda x: (x, x), ["output_0", "output_1"]),
    ],
)
def test_outputs_are_named_after_what_is_returned(make, names: list[str]) -> None:
    assert [spec.name for spec in capture(Returns(make), vectors(), ONE).outputs] == names


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: None, "output of the model is None"),
        (lambda x: (None, ()), "the model returns nothing"),
        (lambda x: (x, 3), "output_1 of the model is of type int"),
        (lambda x: {"a": [x, x.numpy()]}, "output a_1 of the model is of type ndarray"),
        (lambda x: {"a": x.to_sparse()}, "output a of the model is a sparse tensor"),
        (lambda x: x.double(), "float64"),
        (lambda x: x.sum(), "not the batch"),
        (lambda x: x[:, :0], "empty"),
        (lambda x: {"x": x}, "the name of an input, x"),
        (lambda x: {"a": x, "b": x[:, : x[0].argmax() + 1]}, "output b has as many values as its input makes it"),
        (lambda x: x[x > 0][None], "output output has as many values as its input makes it"),
    ],
)
def test_anything_but_tensors_is_declined_by_name(make, said: str) -> None:
    with pytest.raises(Unsupported, match=said) as caught:
        capture(Returns(make), vectors(), ONE)
    assert caught.value.hint


def test_the_next_step_fits_what_was_returned_and_what_was_not_given() -> None:
    with pytest.raises(Unsupported, match="complex64") as caught:
        capture(Returns(lambda x: torch.complex(x, x)), vectors(), ONE)
    assert "view_as_real" in str(caught.value.hint)
    with pytest.raises(ExportFailed, match="missing 1 required positional argument: 'second'") as failed:
        capture(Returns(lambda x, second: x), vectors(), ONE)
    assert "--inputs" in str(failed.value.hint)
    with pytest.raises(ExportFailed, match=r"forward ends the process \(exit 3\)"):
        capture(Returns(lambda x: sys.exit(3)), vectors(), ONE)


def test_a_model_that_fixes_its_batch_is_declined_with_the_way_out() -> None:
    fixed = Returns(lambda x: x.reshape(2, 6) if x.shape[0] == 2 else x)
    with pytest.raises(Unsupported, match="cannot take a dynamic batch") as caught:
        capture(fixed, vectors(), RANGE)
    assert caught.value.hint == "export with --batch 1"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x if x.sum() > 0 else -x, "asks what a tensor holds"),
        (lambda x: x[:, : int(x[0, 0] > 0) + 1], "asks what a tensor holds"),
        (lambda x: x + torch.from_numpy(x.numpy() * 2), "leaves torch for numpy"),
    ],
    ids=["branch", "slice", "numpy"],
)
def test_what_no_graph_can_hold_is_declined_in_one_line_that_names_its_line(make, said: str) -> None:
    with pytest.raises(Unsupported, match=rf"{said}.* \(test_capture\.py:{make.__code__.co_firstlineno}\)") as caught:
        capture(Returns(make), vectors(), ONE)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_layers_of_pytorch_trace_as_what_they_are_made_of_inside_a_condition_too() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = Returns(lambda x: torch.cond(x.sum() > 0, lambda v: layer(v), lambda v: -v, (x[:, None].repeat(1, 1, 2),)))
    model.layer = layer
    fast = torch.backends.mha.get_fastpath_enabled()
    graphs = capture(model, {"x": np.ones((1, 2), np.float32)}, ONE).program.graph_module.modules()
    targets = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    assert "aten.linear.default" in targets
    assert "aten._transformer_encoder_layer_fwd.default" not in targets
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_inputs_that_do_not_fit_are_said_with_their_shape() -> None:
    with pytest.raises(ExportFailed, match=r"shape \(1, 6\) float32"):
        capture(Net(), vectors(), ONE)


def test_ragged_inputs_are_refused() -> None:
    with pytest.raises(UsageError, match="same number of rows"):
        capture(Net(), {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}, ONE)


def test_baked_preprocessing_equals_normalising_outside() -> None:
    preprocess = Preprocess(size=(8, 8), mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    pixels = np.random.default_rng(2).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    net = Net().eval()
    baked = bake_preprocess(net, preprocess)
    outside = torch.from_numpy(preprocess.normalise(pixels).transpose(0, 3, 1, 2).copy())
    torch.testing.assert_close(baked(torch.from_numpy(pixels)), net(outside))
    captured = capture(baked, {"image": pixels}, ONE, alone="logits")
    assert captured.inputs[0].dtype == "uint8"
    assert captured.inputs[0].shape == (1, 8, 8, 3)


def test_paths_inside_a_baked_model_are_those_of_the_model() -> None:
    baked = Baked(Net(), Preprocess(size=(8, 8)))
    assert {unbaked(path) for path, _ in baked.named_modules()} == {"", "normalise", "conv", "head"}
