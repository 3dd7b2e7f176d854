from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx_files import classifier, saved, two_inputs

from edgevit.errors import Unsupported, UsageError
from edgevit.export.from_onnx.facts import labels_of
from edgevit.export.from_onnx.source import Source, read_source
from edgevit.images import Preprocess
from edgevit.request import ExportRequest, ModelChoice, parse_batch
from edgevit.steps import Steps


def source(model: ModelProto, folder: Path, *, batch: str = "1", inputs=None, **chosen) -> Source:
    path = saved(model, folder / "model.onnx")
    choice = ModelChoice(str(path), **chosen)
    return read_source(ExportRequest(choice, ("onnx",), batch=parse_batch(batch), inputs=inputs))


def test_an_open_batch_takes_any_and_a_fixed_one_only_itself(tmp_path: Path) -> None:
    assert source(classifier(), tmp_path, batch="1-8").image is not None
    assert source(classifier(sides=(4, 3, 16, 16)), tmp_path, batch="4").image is not None
    for batch in ("1", "1-4", "8"):
        with pytest.raises(Unsupported, match=f"fixed batch of 4, so it cannot be built for --batch {batch}") as caught:
            source(classifier(sides=(4, 3, 16, 16)), tmp_path, batch=batch)
        assert str(caught.value.hint).startswith("use --batch 4")


def test_open_sides_are_pinned_and_fixed_ones_are_not_changed(tmp_path: Path) -> None:
    both, one = ("N", 3, "H", "W"), ("N", 3, 16, "W")
    found = source(classifier(sides=both), tmp_path, image_size=(24, 16))
    assert found.preprocess is not None
    assert found.preprocess.size == (24, 16)
    assumed = source(classifier(sides=both), tmp_path)
    assert assumed.preprocess is not None
    assert assumed.preprocess.size == (224, 224)
    assert any("224×224 is assumed" in note for note in assumed.notes)
    half = source(classifier(sides=one), tmp_path, image_size=(16, 32))
    assert half.preprocess is not None
    assert half.preprocess.size == (16, 32)
    with pytest.raises(Unsupported, match="takes images of 16×any only, not of 32×32"):
        source(classifier(sides=one), tmp_path, image_size=(32, 32))
    with pytest.raises(Unsupported, match="takes images of 16×16 only"):
        source(classifier(), tmp_path, image_size=(16, 8))


@pytest.mark.parametrize(
    ("sides", "name", "layout"),
    [
        (("N", 3, 16, 16), "images", "NCHW"),
        (("N", 16, 16, 3), "images", "NHWC"),
        ((1, 3, 8, 3), "x", "NCHW"),
        ((1, 3, 8, 3), "x_nhwc", "NHWC"),
        (("N", "C", "H", "W"), "x", "NCHW"),
    ],
    ids=["first", "last", "both", "named", "open"],
)
def test_where_the_channels_are_is_seen(tmp_path: Path, sides: tuple, name: str, layout: str) -> None:
    found = source(classifier(sides=sides, name=name), tmp_path)
    assert found.preprocess is not None
    assert found.preprocess.layout == layout


def test_other_inputs_than_one_image_are_listed_with_the_way_from_python(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"left \(float32 \?×4\), ids \(int64 \?×2\)") as caught:
        source(two_inputs(), tmp_path)
    assert "inputs=" in str(caught.value.hint)
    with pytest.raises(UsageError, match="does not take one image"):
        source(classifier(sides=("N", 3, 16), name="x"), tmp_path)


def test_images_of_other_channels_and_byte_planes_are_refused(tmp_path: Path) -> None:
    for channels in (2, 5):
        with pytest.raises(Unsupported, match=f"images of {channels} channels; pictures have 1, 3 or 4"):
            source(classifier(sides=("N", channels, 16, 16)), tmp_path)
    with pytest.raises(Unsupported, match="uint8 images with the channels first"):
        source(classifier(elem=TensorProto.UINT8), tmp_path)
    with pytest.raises(Unsupported, match="is float64, which no artifact can hold"):
        source(classifier(elem=TensorProto.DOUBLE), tmp_path)


def test_one_and_four_channels_are_grey_and_alpha(tmp_path: Path) -> None:
    for channels, color in ((1, "GRAY"), (4, "RGBA")):
        for sides, layout in ((("N", channels, 16, 16), "NCHW"), (("N", 16, 16, channels), "NHWC")):
            found = source(classifier(sides=sides), tmp_path)
            assert found.preprocess is not None
            assert (found.preprocess.color, found.preprocess.layout) == (color, layout)
    with pytest.raises(UsageError, match="--color RGB makes 3 channels; the model takes 1"):
        source(classifier(sides=("N", 1, 16, 16)), tmp_path, steps=Steps(color="RGB"))


def test_bytes_with_the_channels_last_are_pixels(tmp_path: Path) -> None:
    found = source(classifier(sides=("N", 16, 16, 3), elem=TensorProto.UINT8), tmp_path)
    assert found.preprocess is not None
    assert found.preprocess.baked


def test_steps_that_are_said_go_before_what_is_assumed(tmp_path: Path) -> None:
    steps = Steps(mean=(0.5,), std=(0.25,), crop="squash", interpolation="bilinear")
    found = source(classifier(), tmp_path, steps=steps)
    assert found.preprocess is not None
    assert (found.preprocess.mean, found.preprocess.std, found.preprocess.crop) == ((0.5,) * 3, (0.25,) * 3, "squash")
    assert found.notes == ()
    assert any("assumed of its pictures" in note for note in source(classifier(), tmp_path).notes)


def test_what_takes_pixels_as_they_are_has_no_mean(tmp_path: Path) -> None:
    bytes_in = classifier(sides=("N", 16, 16, 3), elem=TensorProto.UINT8)
    assert any("takes pixels as they are" in note for note in source(bytes_in, tmp_path).notes)
    with pytest.raises(UsageError, match="with no mean or std before it"):
        source(bytes_in, tmp_path, steps=Steps(mean=(0.5,)))


def test_initialisers_listed_among_the_inputs_are_not_asked_for(tmp_path: Path) -> None:
    def listed(model: ModelProto) -> None:
        for tensor in model.graph.initializer:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))

    found = source(classifier(change=listed), tmp_path)
    assert [port.name for port in found.ports] == ["images"]


def test_arrays_must_fit_the_inputs(tmp_path: Path) -> None:
    left, ids = np.zeros((16, 4), np.float32), np.zeros((16, 2), np.int64)
    found = source(two_inputs(), tmp_path, inputs={"ids": ids, "left": left}).rows()
    assert list(found.inputs) == ["left", "ids"]
    for wrong, said in (
        ({"left": left}, "inputs are left; the file takes left"),
        ({"left": left, "ids": ids.astype(np.int32)}, "ids is int32"),
        ({"left": left[:, :3], "ids": ids}, r"left is float32 of \(16, 3\)"),
        ({"left": left[:3], "ids": ids[:3]}, "needs 16 real ones"),
        ({"left": left, "ids": ids[:15]}, "needs 16 real ones"),
    ):
        with pytest.raises(UsageError, match=said):
            source(two_inputs(), tmp_path, inputs=wrong).rows()


def test_our_own_words_in_the_file_say_all(tmp_path: Path) -> None:
    steps = Preprocess(size=(20, 12), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), crop="squash")
    words = {"edgevit": "0.1.0", "preprocess": steps.model_dump_json(), "labels": json.dumps(list("abcde"))}
    found = source(classifier(sides=("N", 3, "H", "W"), metadata=words), tmp_path)
    assert found.preprocess == steps
    assert found.facts.labels == tuple("abcde")
    assert found.notes == ()


def test_ultralytics_words_give_labels_size_and_pixels_of_0_to_1(tmp_path: Path) -> None:
    names = "{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: \"e's\"}"
    words = {"author": "Ultralytics", "names": names, "imgsz": "[32, 64]", "task": "classify"}
    found = source(classifier(sides=("N", 3, "H", "W"), metadata=words), tmp_path)
    assert found.preprocess is not None
    assert (found.preprocess.size, found.preprocess.mean, found.preprocess.crop_pct) == ((32, 64), (0, 0, 0), 1.0)
    assert found.facts.labels == ("a", "b", "c", "d", "e's")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('["a", "b"]', ("a", "b")),
        ('{"1": "b", "0": "a"}', ("a", "b")),
        ("{0: 'a', 2: 'c'}", None),
        ("{0: 'a', 1: 7}", None),
        ("['a', '']", None),
        ("__import__('os').system('true')", None),
        ("(" * 5000, None),
        ("", None),
    ],
    ids=["list", "json", "gap", "number", "blank", "code", "deep", "none"],
)
def test_class_names_are_read_and_nothing_is_run(text: str, labels: tuple[str, ...] | None) -> None:
    assert labels_of(text) == labels


def test_a_last_softmax_is_left_off_and_said(tmp_path: Path) -> None:
    tail = [helper.make_node("Softmax", ["scores"], ["p"], "soft"), helper.make_node("Identity", ["p"], ["output0"])]
    found = source(classifier(tail=tail), tmp_path)
    assert found.cut == "scores"
    assert any("Softmax" in note for note in found.notes)
