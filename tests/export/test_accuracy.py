from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edgevit.build import export
from edgevit.export.accuracy import measure_accuracy
from edgevit.export.asking import logits_of
from edgevit.images import Preprocess, decode
from edgevit.models.spec import ModelSpec, attach_spec
from edgevit.proof.verify import verify

STEPS = Preprocess(size=(4, 4), mean=(0.5,) * 3, std=(0.5,) * 3, crop="squash")


class Decoded(np.ndarray):
    """Pixels that a set can hold without keeping them."""

    __hash__ = object.__hash__


class Bright(nn.Module):
    """A perfect model of two classes: bright pictures are bees, its first class, dark ones ants."""

    def forward(self, image: Tensor) -> Tensor:
        light = image.mean(dim=(1, 2, 3))
        return torch.stack([light, -light], dim=1)


@pytest.fixture
def insects(tmp_path: Path) -> str:
    """folder:PATH of 40 ants and 40 bees."""
    for name, value in (("ant", 20), ("bee", 230)):
        folder = tmp_path / "insects" / name
        folder.mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (5, 5), (value, value, value - number // 2)).save(folder / f"{number}.png")
    return f"folder:{tmp_path / 'insects'}"


def test_a_perfect_model_is_perfect_whatever_the_order_of_its_classes(insects: str) -> None:
    found = measure_accuracy(logits_of(Bright()), insects, STEPS, 2, ("bee", "ant"))
    assert found is not None
    assert (found.top1, found.images) == (1.0, 16)
    wrong = measure_accuracy(logits_of(Bright()), insects, STEPS, 2, ("ant", "bee"))
    assert wrong is not None
    assert wrong.top1 == 0.0


class Heads(nn.Module):
    """The scores of ``Bright`` under a name of their own, beside features; no weights at all."""

    image_size = 4

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"features": image.flatten(2), "scores": Bright()(image)}


def test_a_classifier_that_says_no_number_of_classes_is_judged_by_those_it_has(insects: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"data": insects, "labels": ("bee", "ant"), "image_size": (4, 4), "preprocess": STEPS}
    for name, model in (("alone", Bright()), ("heads", Heads())):
        made = export(model, "onnx", out=tmp_path / name, task="classify", threads=1, **asked)
        assert made.manifest.model.classes == 2
        assert made.manifest.accuracy is not None
        assert made.manifest.accuracy.top1 == 1.0
        assert verify(made.path, data=insects, threads=1).accuracy.top1 == 1.0
    again = export(
        str(made.path / "model.onnx"), "onnx", out=tmp_path / "file", task="classify",
        data=insects, labels=("bee", "ant"), threads=1,
    )  # fmt: skip
    assert again.manifest.accuracy == made.manifest.accuracy


def test_export_records_the_accuracy_that_verify_measures(insects: str, tmp_path: Path) -> None:
    spec = ModelSpec("bright", "module", (4, 4), STEPS, 2, labels=("bee", "ant"))
    made = export(attach_spec(Bright(), spec), "onnx", out=tmp_path / "out", data=insects, threads=1)
    assert made.manifest.accuracy is not None
    found = verify(made.path, data=insects, threads=1)
    assert found.accuracy is not None
    assert made.manifest.accuracy.top1 == found.accuracy.recorded == found.accuracy.top1 == 1.0


def test_an_embedding_has_a_probe_and_no_accuracy_though_it_has_as_many_numbers_as_classes(
    insects: str, tmp_path: Path
) -> None:
    spec = ModelSpec("bright", "module", (4, 4), STEPS, 2, labels=("bee", "ant"))
    made = export(attach_spec(Bright(), spec), "onnx", out=tmp_path / "out", data=insects, task="embed", threads=1)
    assert made.manifest.accuracy is None
    assert made.manifest.quality is not None
    assert made.manifest.quality.metric == "linear probe"
    again = export(str(made.path / "model.onnx"), "onnx", out=tmp_path / "b", data=insects, task="embed", threads=1)
    assert again.manifest.accuracy is None
    assert again.manifest.quality == made.manifest.quality


def test_a_model_of_other_classes_has_no_accuracy_on_the_data(insects: str) -> None:
    assert measure_accuracy(logits_of(Bright()), insects, STEPS, 2, ("none of mine", "bee")) is None
    assert measure_accuracy(logits_of(Bright()), insects, STEPS, 3) is None


def test_photos_are_decoded_one_at_a_time(insects: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there: weakref.WeakSet[Decoded] = weakref.WeakSet()
    most = []

    def decoded(path: Path, *, channels: int | None) -> Decoded:
        found = decode(path, channels=channels).view(Decoded)
        there.add(found)
        most.append(len(there))
        return found

    monkeypatch.setattr("edgevit.data.labelled.decode", decoded)
    found = measure_accuracy(logits_of(Bright()), insects, STEPS, 2, ("bee", "ant"))
    assert (found.top1, len(most), max(most)) == (1.0, 16, 2)  # the one before goes when the next is there
