from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from coreml_tiny import ONE, RANGE, Vit, build, captured, description, eager, images, kinds, layers, run
from torch import nn

import edgevit
from edgevit.artifact.manifest import Array
from edgevit.export.base import Context
from edgevit.export.capture import bake_preprocess, capture
from edgevit.export.noise import noise
from edgevit.export.prepare import prepare
from edgevit.images import Preprocess
from edgevit.precisions import tolerance_for
from edgevit.request import ExportRequest, ModelChoice

COREMLTOOLS_IOS = {"16": 7, "17": 8, "18": 9}  # iOS -> version of the specification


def worst(got: Array, wanted: Array) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def test_a_convolutional_transformer_in_fp16_computes_its_model_at_every_batch_size(tmp_path):
    model = edgevit.create_model("efficientformer_nano", weights="digits")
    prepared = prepare(ExportRequest(ModelChoice(model), ("coreml",), batch=RANGE, threads=1))
    built = build(prepared.capture, tmp_path, "fp16")
    assert built.entry == "model.mlpackage"
    assert built.precision.layers.keys() == {"float16"}
    rows, exact = prepared.rows.inputs, prepared.reference.whole.outputs["logits"]
    levels = noise(prepared.capture.module, rows, prepared.reference, "fp16", built.precision.kept_fp32)
    level = levels.outputs["logits"]
    for size in (1, 3, 4):
        assert worst(run(tmp_path, rows["image"][:size]), exact[:size]) < tolerance_for(level.error, "fp16")


def test_names_and_types_are_the_manifests_and_the_batch_is_a_range(tmp_path):
    build(captured(batch=RANGE), tmp_path, "fp16")
    about = description(tmp_path).description
    (taken,), (given,) = about.input, about.output
    assert (taken.name, given.name) == ("image", "logits")
    float32 = taken.type.multiArrayType.FLOAT32
    assert taken.type.multiArrayType.dataType == given.type.multiArrayType.dataType == float32
    sizes = taken.type.multiArrayType.shapeRange.sizeRanges
    assert [(side.lowerBound, side.upperBound) for side in sizes] == [(1, 4), (3, 3), (16, 16), (16, 16)]
    assert run(tmp_path, images(3)).dtype == np.float32


def test_fp32_equals_the_model_to_rounding(tmp_path):
    built = build(captured(), tmp_path)
    assert built.precision.layers == {"float32": len([kind for kind in kinds(tmp_path) if kind in _COMPUTE])}
    assert worst(run(tmp_path, images(1)), eager(Vit(), images(1))) < 1e-6


_COMPUTE = ("conv", "linear", "matmul", "scaled_dot_product_attention")


class Tanh(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(image, approximate="tanh").mean((2, 3))


def test_the_tanh_form_of_gelu_is_kept(tmp_path):
    build(captured(Tanh()), tmp_path)
    exact = nn.functional.gelu(torch.from_numpy(images(1))).mean((2, 3)).numpy()
    assert worst(eager(Tanh(), images(1)), exact) > 1e-5
    assert worst(run(tmp_path, images(1)), eager(Tanh(), images(1))) < 1e-6


class Halved(nn.Module):
    """Places divided as a detector's tail divides queries by classes, and used as places again."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        flat = image.flatten(1)
        places = flat.argmax(1, keepdim=True)
        halves = torch.cat([places // 2, torch.div(places, 3, rounding_mode="floor")], 1)
        return flat.gather(1, halves)


def test_integers_divided_by_integers_stay_places(tmp_path):
    build(captured(Halved()), tmp_path)
    assert worst(run(tmp_path, images(1)), eager(Halved(), images(1))) == 0


@pytest.mark.parametrize("ios", ["16", "17", "18"])
def test_the_deployment_target_is_what_was_asked_for_and_attention_is_whole_from_18_on(tmp_path, ios):
    build(captured(), tmp_path, ios=ios)
    assert description(tmp_path).specificationVersion == COREMLTOOLS_IOS[ios]
    assert ("scaled_dot_product_attention" in kinds(tmp_path)) is (ios == "18")
    assert worst(run(tmp_path, images(1)), eager(Vit(), images(1))) < 1e-6


def test_fp16_leaves_only_those_modules_in_float32_whose_activations_overflow(tmp_path):
    module = Vit(gain=2e5)
    found = captured(module)
    built = build(found, tmp_path, "fp16")
    assert set(built.precision.kept_fp32) == {"act"}
    assert "activations reach" in built.precision.kept_fp32["act"]
    assert {row["module"] for row in layers(tmp_path) if row["dtype"] == "float32" and row["op"] != "cast"} == {"act"}
    assert worst(run(tmp_path, images(1)), eager(module, images(1))) < 1e-2


class Sums(nn.Module):
    """A mean over 4,096 values: each is harmless, their sum is not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(image.mean((2, 3)))


def test_a_mean_whose_sum_overflows_fp16_stays_in_float32(tmp_path):
    pixels = np.full((16, 3, 64, 64), 50.0, np.float32) + np.random.default_rng(0).random((16, 3, 64, 64), np.float32)
    built = build(captured(Sums(), inputs={"image": pixels}), tmp_path, "fp16")
    assert set(built.precision.kept_fp32) == {"model (mean)"}
    kept = {row["op"]: row["dtype"] for row in layers(tmp_path) if row["op"] != "cast"}
    assert kept == {"reduce_mean": "float32", "linear": "float16"}


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The tiny model's package in fp16."""
    folder = tmp_path_factory.mktemp("half")
    build(captured(), folder, "fp16")
    return folder


def test_every_operation_leads_to_its_module(half):
    found = {(row["op"], row["module"]) for row in layers(half)}
    assert {("conv", "patches"), ("linear", "attn.q"), ("layer_norm", "norm2"), ("linear", "head")} <= found
    assert {module for _, module in found} <= {path for path, _ in Vit().named_modules()}


def test_metadata_says_who_made_it_and_what_the_classes_are(tmp_path):
    build(captured(), tmp_path, author="Ada", license="MIT", compute_units="cpu_and_ne")
    about = description(tmp_path).description.metadata
    assert (about.author, about.license, about.versionString) == ("Ada", "MIT", "edgevit 1.2.3")
    assert "tiny" in about.shortDescription
    assert about.userDefined["edgevit.labels"] == '["a", "b", "c", "d", "e"]'
    assert about.userDefined["edgevit.compute_units"] == "cpu_and_ne"


def digests(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_nothing_is_printed_progress_only_grows_and_the_same_model_gives_the_same_bytes(tmp_path, half, capfd):
    told: list[float] = []
    build(captured(), tmp_path, "fp16", Context(progress=lambda _, done: told.append(done or 0.0)))
    assert capfd.readouterr() == ("", "")
    shares = [done for done in told if done]
    assert shares == sorted(shares)
    assert 0.9 < shares[-1] <= 1.0
    assert digests(tmp_path) == digests(half)
    assert {path.name for path in digests(half)} == {"model.mlmodel", "weight.bin", "Manifest.json", "layers.json"}


@pytest.mark.parametrize("whole", [True, False], ids=["fused attention", "written out"])
def test_the_neural_engine_layout_has_convolutions_for_linear_layers_and_the_same_outputs(tmp_path, whole):
    module = Vit(whole=whole)
    built = build(captured(module, RANGE), tmp_path, ane_layout=True)
    found = kinds(tmp_path)
    assert found.count("linear") == 1  # the head: one row per image is no stream of tokens
    assert found.count("conv") == 1 + 6
    for rows in (1, 3):
        assert worst(run(tmp_path, images(rows)), eager(module, images(rows))) < 1e-6
    assert any(note.startswith("ane_layout: ") and "linear 7 -> 1" in note for note in built.notes)


def test_the_neural_engine_layout_keeps_the_islands_of_fp16(tmp_path):
    module = Vit(gain=2e5)
    built = build(captured(module), tmp_path, "fp16", ane_layout=True)
    assert set(built.precision.kept_fp32) == {"act"}
    assert worst(run(tmp_path, images(1)), eager(module, images(1))) < 1e-2


def baked(batch=ONE):
    preprocess = Preprocess(size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    module = bake_preprocess(Vit(), preprocess)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
    return capture(module, {"image": pixels}, batch, alone="logits"), pixels


def test_a_picture_input_is_an_rgb_image_with_the_normalisation_inside(tmp_path):
    found, pixels = baked()
    build(found, tmp_path, image_input=True)
    kind = description(tmp_path).description.input[0].type.imageType
    assert (kind.width, kind.height, kind.colorSpace) == (16, 16, kind.RGB)
    assert worst(run(tmp_path, pixels[:1]), eager(found.module, pixels[:1])) < 1e-6


def test_pixels_are_taken_as_float32_where_no_picture_is_asked_for(tmp_path):
    found, pixels = baked(RANGE)
    built = build(found, tmp_path, "fp16")
    assert any("no uint8" in note for note in built.notes)
    assert "normalise" in built.precision.kept_fp32
    assert worst(run(tmp_path, pixels[:3]), eager(found.module, pixels[:3])) < 5e-3
