"""What outputs mean: as is said, as is known, or as they look."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import edgevit
from edgevit.artifact.manifest import Manifest
from edgevit.errors import UnknownName, Unsupported
from edgevit.models.eager.heads import ends_in_head

IMAGE = torch.zeros(1, 3, 16, 16)


class Net(nn.Module):
    def __init__(self, end: Callable[[Net, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.norm, self.head, self.proj = nn.LayerNorm(8), nn.Linear(8, 5), nn.Linear(8, 6)
        self.second, self.neck = nn.Linear(8, 5), nn.BatchNorm1d(8)
        self.map = nn.Conv2d(8, 4, 1)
        self.picture = nn.Conv2d(3, 12, 3, padding=1)
        self.end = end

    def forward(self, image: Tensor):
        return self.end(self, image)

    def pooled(self, image: Tensor) -> Tensor:
        return self.body(image).mean((2, 3))


ENDS: dict[str, tuple[Callable[[Net, Tensor], object], str, dict[str, str]]] = {
    "a head": (lambda net, x: net.head(net.pooled(x)), "classify", {"logits": "logits"}),
    "two heads that vote": (
        lambda net, x: (net.head(net.pooled(x)) + net.second(net.pooled(x))) / 2, "classify", {"logits": "logits"}
    ),
    "probabilities": (lambda net, x: net.head(net.pooled(x)).softmax(-1), "classify", {"logits": "logits"}),
    "a pooling": (lambda net, x: net.pooled(x), "embed", {"features": "features"}),
    "a norm": (lambda net, x: net.norm(net.pooled(x)), "embed", {"features": "features"}),
    "a projection": (lambda net, x: net.proj(net.pooled(x)), "embed", {"features": "features"}),
    "a neck": (lambda net, x: net.neck(net.pooled(x)), "embed", {"features": "features"}),
    "a map of labels": (lambda net, x: net.map(net.body(x)).argmax(1), "segment", {"masks": "labels"}),
    "a larger picture": (
        lambda net, x: nn.functional.pixel_shuffle(net.picture(x), 2), "restore", {"picture": "picture"}
    ),
    "boxes": (
        lambda net, x: {"boxes": x.flatten(2)[:, :, :4], "scores": x[:, :, 0, 0], "labels": x[:, :, 0, 0] > 0},
        "detect", {"boxes": "boxes", "scores": "scores", "labels": "labels"},
    ),
    "maps": (
        lambda net, x: [net.body(x), net.map(net.body(x))], "tensors", {"output_0": "tensor", "output_1": "tensor"}
    ),
    "a pyramid": (
        lambda net, x: [net.body(x), nn.functional.avg_pool2d(net.body(x).repeat(1, 2, 1, 1), 2)],
        "embed", {"output_0": "features", "output_1": "features"},
    ),
}  # fmt: skip


def exported(end: Callable[[Net, Tensor], object], tmp_path, **options) -> Manifest:
    return edgevit.export(Net(end), "onnx", out=tmp_path / "net", image_size=16, **options).manifest


@pytest.mark.parametrize("name", ENDS)
def test_a_model_is_taken_for_what_its_outputs_look_like(name: str, tmp_path) -> None:
    end, task, roles = ENDS[name]
    manifest = exported(end, tmp_path, verify=False)
    assert manifest.model.task == task
    assert {spec.name: spec.role for spec in manifest.outputs} == roles
    assert f"its outputs look like those of the task {task}; --task says otherwise" in manifest.notes


def test_what_is_said_needs_no_guess(tmp_path) -> None:
    manifest = exported(ENDS["maps"][0], tmp_path, task="embed")
    assert manifest.model.task == "embed"
    assert {spec.role for spec in manifest.outputs} == {"features"}
    assert not any("look like" in note for note in manifest.notes)


def test_labels_make_a_classifier(tmp_path) -> None:
    manifest = exported(ENDS["a pooling"][0], tmp_path, labels=list("abcdefgh"))
    assert (manifest.model.task, manifest.class_count()) == ("classify", 8)


def test_a_task_that_the_outputs_cannot_be_is_refused_with_what_they_are(tmp_path) -> None:
    with pytest.raises(Unsupported, match=r"segment needs .*; the model gives masks"):
        exported(ENDS["a head"][0], tmp_path, task="segment")


def test_an_unknown_task_is_named_with_the_nearest(tmp_path) -> None:
    with pytest.raises(UnknownName, match="segmnt") as caught:
        exported(ENDS["a head"][0], tmp_path, task="segmnt")
    assert "segment" in str(caught.value.hint)


def test_a_head_is_told_from_a_residual_sum(tmp_path) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mlp = nn.Linear(16, 8), nn.Linear(8, 8)

        def forward(self, image: Tensor) -> Tensor:
            tokens = self.stem(image[:, 0])
            return (tokens + self.mlp(tokens.relu())).mean(1)

    assert not ends_in_head(Residual().eval(), IMAGE)
    assert ends_in_head(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)).eval(), IMAGE)
