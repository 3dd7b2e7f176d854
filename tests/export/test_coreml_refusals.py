from __future__ import annotations

import platform

import numpy as np
import pytest
import torch
from coreml_tiny import RANGE, build, captured, eager, images, kinds, run
from torch import Tensor, nn
from torch.nn import functional as F

import edgevit
from edgevit.errors import ExportFailed, UnknownName, Unsupported, UsageError
from edgevit.export.base import Context, parse_options
from edgevit.export.capture import capture
from edgevit.export.coreml.exporter import CoreMlExporter
from edgevit.export.coreml.here import here
from edgevit.export.coreml.precision import Islands, Layer, truthful_report


class Body(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Odd(nn.Module):
    """One operator of the caller's, in the module ``body``."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = Body(function), nn.Linear(3, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).mean((2, 3)))


def test_an_operator_without_translation_is_declined_by_name_and_module(tmp_path):
    with pytest.raises(Unsupported, match=r"special_bessel_j0.*\(in body, ") as caught:
        build(captured(Odd(torch.special.bessel_j0)), tmp_path)
    assert caught.value.exit_code == 4
    assert "onnx" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


def test_arguments_that_cannot_be_translated_are_declined_by_operator_and_module(tmp_path, capfd):
    with pytest.raises(Unsupported, match=r"max_pool2d.*\(in body, .*\).*dilation"):
        build(captured(Odd(lambda x: F.max_pool2d(x, 3, dilation=2, ceil_mode=True))), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_pytorch_can_decompose_is_decomposed(tmp_path):
    module = Odd(F.celu)
    build(captured(module), tmp_path)
    assert "celu" not in kinds(tmp_path)
    assert np.abs(run(tmp_path, images(1)) - eager(module, images(1))).max() < 1e-5


class Mask(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * mask


def test_a_bool_input_is_declined(tmp_path):
    given = {"x": np.ones((16, 4), np.float32), "mask": np.ones((16, 4), bool)}
    found = capture(Mask(), given, RANGE)
    with pytest.raises(Unsupported, match="mask is bool"):
        build(found, tmp_path)


def test_a_picture_input_needs_baked_preprocessing(tmp_path):
    with pytest.raises(Unsupported) as caught:
        build(captured(), tmp_path, image_input=True)
    assert "--bake-preprocess" in (caught.value.hint or "")


def test_a_picture_input_takes_one_image(tmp_path):
    class Pixels(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.float().mean((1, 2))

    pixels = np.zeros((16, 8, 8, 3), np.uint8)
    found = capture(Pixels(), {"image": pixels}, RANGE, alone="logits")
    with pytest.raises(Unsupported, match="one image per call") as caught:
        build(found, tmp_path, image_input=True)
    assert "--batch 1" in (caught.value.hint or "")


def test_a_build_past_its_deadline_fails(tmp_path):
    with pytest.raises(ExportFailed, match="did not finish within 0 s") as caught:
        build(captured(), tmp_path, context=Context(timeout_s=0.0))
    assert "--timeout" in (caught.value.hint or "")


def test_fewer_fp16_layers_than_planned_fail_the_build():
    islands = Islands(modules={"neck": "activations reach 1e6"}, means={})
    kept = Layer("a", "conv", "float32", "neck")
    assert truthful_report([kept], "fp16", islands).layers == {"float32": 1}
    with pytest.raises(ExportFailed, match=r"precision truth: linear b \(in head\)"):
        truthful_report([kept, Layer("b", "linear", "float32", "head")], "fp16", islands)


def test_what_coremltools_leaves_in_float32_is_reported():
    report = truthful_report([Layer("a", "pow", "float32", "head")], "fp16", Islands({}, {}))
    assert report.kept_fp32 == {"head (pow)": "coremltools leaves this operation in float32"}


@pytest.mark.parametrize("given", [{"ios": "15"}, {"compute_units": "npu"}, {"image_input": "perhaps"}])
def test_bad_options_are_usage_errors(given):
    with pytest.raises(UsageError):
        parse_options(CoreMlExporter(), given)


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="compute_unit") as caught:
        parse_options(CoreMlExporter(), {"compute_unit": "all"})
    assert caught.value.nearest[0] == "compute_units"


def test_packages_are_built_on_linux_and_macos_only(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert not here().able
    assert here().sentence.startswith("needs")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert here().able


def test_one_tensor_under_two_names_is_two_outputs(tmp_path):
    class Twice(nn.Module):
        def forward(self, x):
            y = x * 2
            return {"first": y, "again": y}

    rows = {"x": np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)}
    artifact = edgevit.export(Twice(), "coreml", out=tmp_path / "twice", inputs=rows, threads=1)
    assert artifact.manifest.parity.status == "verified"
    assert [spec.name for spec in artifact.manifest.outputs] == ["first", "again"]


class Views(nn.Module):
    """Six axes in the module ``shape``, with the caller's operator on them in ``body``."""

    def __init__(self, function) -> None:
        super().__init__()
        self.shape, self.body = Body(lambda x: x.reshape(-1, 3, 4, 4, 4, 4)), Body(function)

    def forward(self, image: Tensor) -> Tensor:
        return self.body(self.shape(image)).flatten(1)[:, :5]


def test_six_axes_become_fewer_and_an_operator_that_needs_them_is_declined_where_they_are_made(tmp_path):
    build(captured(Views(lambda x: x.permute(0, 5, 3, 1, 4, 2).softmax(2))), tmp_path)
    expected = eager(Views(lambda x: x.permute(0, 5, 3, 1, 4, 2).softmax(2)), images(1))
    assert np.abs(run(tmp_path, images(1)) - expected).max() < 1e-5
    with pytest.raises(Unsupported, match=r"5 axes at most, and view.* \(in shape, .*\) gives 6"):
        build(captured(Views(lambda x: x.flip(2))), tmp_path / "more")
