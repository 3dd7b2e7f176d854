from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from edgevit.artifact.files import sha256_of
from edgevit.artifact.goodness import RecordedAccuracy
from edgevit.artifact.manifest import Parity
from edgevit.artifact.opened import Artifact
from edgevit.data.content import content_of
from edgevit.data.source import open_data
from edgevit.errors import BadArtifact, ParityFailed, Unsupported, UsageError
from edgevit.proof.verify import Verification, verify


def rewrite(folder: Path, model: onnx.ModelProto) -> None:
    onnx.save(model, folder / "model.onnx")
    manifest = json.loads((folder / "edgevit.json").read_text())
    manifest["files"]["model.onnx"] = sha256_of(folder / "model.onnx")
    (folder / "edgevit.json").write_text(json.dumps(manifest))


def front(folder: Path, *nodes: tuple[str, np.ndarray]) -> None:
    """Put elementwise operators with a constant between the input and the graph."""
    model = onnx.load(folder / "model.onnx")
    last = "image"
    made = []
    for index, (op, constant) in enumerate(nodes):
        model.graph.initializer.append(numpy_helper.from_array(constant.astype(np.float32), f"c{index}"))
        made.append(helper.make_node(op, [last, f"c{index}"], [f"front{index}"]))
        last = f"front{index}"
    model.graph.node[0].input[0] = last
    for index, node in enumerate(made):
        model.graph.node.insert(index, node)
    rewrite(folder, model)


MEAN, STD = (np.reshape(values, (1, 3, 1, 1)) for values in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))


def test_a_sound_artifact_is_verified_in_words(make_artifact) -> None:
    found = verify(make_artifact(), threads=1)
    assert found.parity.status == "verified"
    assert not found.problems
    assert "have the manifest's hashes" in found.checks[0]
    assert found.checks[-1] == "the weights are random: its speed and size are real, its answers mean nothing"
    assert "golden pair: error" in found.checks[1]
    assert found.checks[2] == "preprocessing turns 4 golden images into the golden input"


def test_an_unverified_artifact_becomes_verified_on_the_device(make_artifact) -> None:
    folder = make_artifact(parity=Parity(status="unverified", reason="needs a device", tolerance=1e-5))
    verify(folder, threads=1)
    assert Artifact.open(folder).manifest.parity.status == "verified"


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda folder: front(folder, ("Sub", MEAN), ("Div", STD)), "preprocessing was applied twice"),
        (lambda folder: front(folder, ("Mul", 1 / (255 * STD)), ("Sub", MEAN / STD)), "applied twice"),
        (lambda folder: front(folder, ("Mul", STD), ("Add", MEAN)), "mean and std were not applied"),
    ],
    ids=["normalises itself", "takes 0 to 255", "never normalised"],
)
def test_a_preprocessing_mistake_in_the_graph_is_named(make_artifact, spoil, cause) -> None:
    folder = make_artifact()
    spoil(folder)
    with pytest.raises(ParityFailed, match=cause) as caught:
        verify(folder, threads=1)
    assert "tolerance" in str(caught.value)
    assert caught.value.verification.parity.status == "failed"


def edit_graph(folder: Path, name: str, change) -> None:
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), name))
    rewrite(folder, model)


@pytest.mark.parametrize(
    ("name", "change", "cause"),
    [
        ("kernel", lambda kernel: kernel[:, ::-1], "BGR"),
        ("kernel", lambda kernel: kernel.swapaxes(2, 3), "height and width are swapped"),
        ("kernel", np.zeros_like, "the same for every input"),
        ("bias", lambda bias: bias * np.nan, "NaN or infinity"),
    ],
)
def test_other_likely_causes_are_named(make_artifact, name, change, cause) -> None:
    folder = make_artifact()
    edit_graph(folder, name, change)
    with pytest.raises(ParityFailed, match=cause):
        verify(folder, threads=1)


def test_permuted_classes_are_named(make_artifact) -> None:
    folder = make_artifact()
    edit_graph(folder, "weight", lambda weight: weight[::-1])
    edit_graph(folder, "bias", lambda bias: bias[::-1])
    with pytest.raises(ParityFailed, match="permuted"):
        verify(folder, threads=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("mean", [0.5, 0.5, 0.5]), ("std", [0.5, 0.5, 0.5]), ("interpolation", "nearest"), ("crop", "center")],
)
def test_a_manifest_whose_preprocessing_was_edited_is_caught(make_artifact, field, value) -> None:
    folder = make_artifact()
    manifest = json.loads((folder / "edgevit.json").read_text())
    manifest["preprocess"][field] = value
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    with pytest.raises(ParityFailed, match="not the one the golden pair was made with"):
        verify(folder, threads=1)


def labelled(tmp_path: Path, folder: Path, wrong: int = 0) -> str:
    """40 images in an .npz whose labels are what the artifact says, but for ``wrong`` of them."""
    from edgevit.runtimes.base import open_session

    pixels = np.random.default_rng(3).integers(0, 256, (40, 12, 10, 3), dtype=np.uint8)
    with open_session(folder, threads=1) as session:
        rows = session.artifact.manifest.preprocess.batch(list(pixels))
        labels = np.concatenate([session.infer({"image": row[None]})["logits"].argmax(axis=1) for row in rows])
    labels[:wrong] = (labels[:wrong] + 1) % 4
    path = tmp_path / "data.npz"
    np.savez(path, images=pixels, labels=labels, classes=np.array(["ant", "bee", "cat", "dog"]))
    return f"npz:{path}"


def test_labelled_data_gives_accuracy(make_artifact, tmp_path: Path) -> None:
    folder = make_artifact()
    found = verify(folder, data=labelled(tmp_path, folder, wrong=10), threads=1)
    assert found.accuracy.top1 == pytest.approx(0.75)
    assert found.accuracy.recorded is None


def test_an_accuracy_below_the_recorded_one_fails(make_artifact, tmp_path: Path) -> None:
    folder = make_artifact()
    data = labelled(tmp_path, folder, wrong=10)
    manifest = Artifact.open(folder).manifest
    for recorded, fails in ((0.5, False), (1.0, True)):
        updated = manifest.model_copy(update={"accuracy": RecordedAccuracy(data=data, top1=recorded, images=8)})
        (folder / "edgevit.json").write_text(updated.model_dump_json())
        if fails:
            with pytest.raises(ParityFailed, match=r"the source model had 100\.00%"):
                verify(folder, data=data, threads=1)
        else:
            assert verify(folder, data=data, threads=1).accuracy.recorded == 0.5


def test_another_artifact_is_compared_on_the_same_images(make_artifact) -> None:
    folder, same, other = make_artifact("a"), make_artifact("b", batch=(1, 4)), make_artifact("c", seed=1)
    assert verify(folder, against=same, threads=1).against.max_rel < 1e-6
    with pytest.raises(ParityFailed, match="against"):
        verify(folder, against=other, threads=1)


def test_a_module_from_memory_cannot_be_compared_with_its_source(make_artifact) -> None:
    with pytest.raises(Unsupported, match="cannot be rebuilt"):
        verify(make_artifact(), against="source", threads=1)


def test_a_graph_that_onnxruntime_refuses_is_one_sentence(make_artifact) -> None:
    folder = make_artifact()
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    rewrite(folder, model)
    with pytest.raises(BadArtifact, match="cannot open") as caught:
        verify(folder, threads=1)
    assert "\n" not in str(caught.value)


def test_a_failed_artifact_is_not_cleared_by_four_rows(make_artifact) -> None:
    folder = make_artifact(parity=Parity(status="failed", reason="row 7 is wrong", tolerance=1e-5))
    with pytest.raises(ParityFailed, match="row 7 is wrong"):
        verify(folder, threads=1)
    assert Artifact.open(folder).manifest.parity.status == "failed"


@pytest.mark.parametrize("tolerance", [0.5, float("nan"), 0.0])
def test_a_loosened_tolerance_is_refused(make_artifact, tolerance: float) -> None:
    folder = make_artifact()
    text = (folder / "edgevit.json").read_text()
    shown = json.dumps(tolerance)
    (folder / "edgevit.json").write_text(
        text.replace('"tolerance":0.00001', f'"tolerance":{shown}')
        .replace('"tolerance":1e-5', f'"tolerance":{shown}')
        .replace('"tolerance":1e-05', f'"tolerance":{shown}')
    )
    with pytest.raises(BadArtifact):
        verify(folder, threads=1)


def test_a_shortened_golden_pair_is_refused(make_artifact) -> None:
    folder = make_artifact()
    with np.load(folder / "golden.npz") as stored:
        np.savez(folder / "golden.npz", **{name: stored[name][:1] for name in stored.files})
    manifest = json.loads((folder / "edgevit.json").read_text())
    manifest["files"]["golden.npz"] = sha256_of(folder / "golden.npz")
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match="does not hold 4 rows of image"):
        verify(folder, threads=1)


def relabelled(tmp_path: Path, data: str, order: list[str]) -> str:
    """The same data with its classes listed in another order."""
    with np.load(data.removeprefix("npz:")) as stored:
        old, images, labels = list(stored["classes"]), stored["images"], stored["labels"]
    moved = np.asarray([order.index(name) if name in order else 0 for name in old])[labels]
    np.savez(tmp_path / "moved.npz", images=images, labels=moved, classes=np.array(order))
    return f"npz:{tmp_path / 'moved.npz'}"


def test_classes_are_matched_by_name_and_not_by_position(make_artifact, tmp_path: Path) -> None:
    folder = make_artifact()
    data = relabelled(tmp_path, labelled(tmp_path, folder), ["dog", "cat", "bee", "ant"])
    assert verify(folder, data=data, threads=1).accuracy.top1 == 1.0


def test_a_class_the_artifact_does_not_know_is_named(make_artifact, tmp_path: Path) -> None:
    folder = make_artifact()
    data = relabelled(tmp_path, labelled(tmp_path, folder), ["ant", "bee", "cat", "eel"])
    with pytest.raises(UsageError, match="'eel'"):
        verify(folder, data=data, threads=1)


def test_data_of_another_number_of_classes_is_refused(make_artifact) -> None:
    with pytest.raises(UsageError, match="has 10 classes, the artifact 4"):
        verify(make_artifact(), data="digits", threads=1)


def test_images_without_labels_prove_nothing_and_the_report_says_so(make_artifact, tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", images=np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8))
    found = verify(make_artifact(), data=f"npz:{tmp_path / 'bare.npz'}", threads=1)
    assert found.accuracy is None
    assert "nothing says whether the outputs are right" in found.checks[-2]


def test_two_artifacts_of_other_weights_are_said_to_be_so(make_artifact, tmp_path: Path) -> None:
    folder, other = make_artifact("a"), make_artifact("b", seed=1)
    manifest = json.loads((other / "edgevit.json").read_text())
    manifest["model"]["weights"]["state_sha256"] = "1" * 64
    (other / "edgevit.json").write_text(json.dumps(manifest))
    with pytest.raises(ParityFailed, match="made from different weights"):
        verify(folder, against=other, threads=1)


def photos(folder: Path, artifact: Path, *, wrong: int = 0) -> Path:
    """100 pictures in the folders of the classes that the artifact sees in them, ``wrong`` of them in another."""
    from edgevit.prediction.predictor import predict

    pixels = list(np.random.default_rng(4).integers(0, 256, (100, 9, 9, 3), dtype=np.uint8))
    for index, (picture, found) in enumerate(zip(pixels, predict(artifact, pixels, threads=1), strict=True)):
        label = ("ant", "bee", "cat", "dog")[(found.top[0].index + (index < wrong)) % 4]
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / label / f"{index}.png")
    return folder


def record(artifact: Path, folder: Path, top1: float) -> None:
    held = open_data(f"folder:{folder}", split="held-out")
    accuracy = RecordedAccuracy(data=f"folder:{folder}", top1=top1, images=len(held), content=content_of(held))
    manifest = Artifact.open(artifact).manifest.model_copy(update={"accuracy": accuracy})
    (artifact / "edgevit.json").write_text(manifest.model_dump_json())


def said(found: Verification) -> str:
    return next(check for check in found.checks if check.startswith("accuracy"))


def test_the_data_of_the_export_is_known_at_another_path_and_judged_there(make_artifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    here = photos(tmp_path / "here", artifact)
    there = Path(shutil.copytree(here, tmp_path / "device" / "there"))
    count = len(open_data(f"folder:{here}", split="held-out"))
    record(artifact, here, 1.0)
    found = verify(artifact, data=f"folder:{there}", threads=1)
    assert (found.accuracy.recorded, found.accuracy.top1, found.accuracy.images) == (1.0, 1.0, count)
    assert f"(the same {count} images as at export); the source model had 100.00%" in said(found)
    record(artifact, here, 0.5)
    with pytest.raises(ParityFailed, match=rf"the same {count} images as at export\); the source model had 50\.00%"):
        verify(artifact, data=f"folder:{there}", threads=1)


def test_the_held_out_images_alone_are_known_as_well(make_artifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    here = photos(tmp_path / "here", artifact)
    record(artifact, here, 1.0)
    held = open_data(f"folder:{here}", split="held-out")
    for index, picture in enumerate(held.images):
        match = next(path for path in here.rglob("*.png") if np.array_equal(np.asarray(Image.open(path)), picture))
        goal = tmp_path / "only" / held.classes[held.labels[index]] / match.name
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(match, goal)
    assert f"the same {len(held)} images" in said(verify(artifact, data=f"folder:{tmp_path / 'only'}", threads=1))


def test_other_images_under_the_old_name_are_told_apart_and_judged_by_what_is_the_same(
    make_artifact, tmp_path: Path
) -> None:
    artifact = make_artifact()
    here = photos(tmp_path / "here", artifact)
    record(artifact, here, 1.0)
    held = open_data(f"folder:{here}", split="held-out")
    count = len(held)
    for path in sorted(here.rglob("*.png")):
        if np.array_equal(np.asarray(Image.open(path)), held.images[0]):
            picture = np.asarray(Image.open(path)).copy()
            picture[0, 0] ^= 1
            Image.fromarray(picture).save(path)
    found = verify(artifact, data=f"folder:{here}", threads=1)
    assert f"(other images than at export: 1 of {count} differ); the source model had 100.00%" in said(found)
    shutil.rmtree(here)
    photos(here, make_artifact("other", seed=5))
    for path in here.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    found = verify(artifact, data=f"folder:{here}", threads=1)
    assert found.accuracy.recorded is None
    assert f"of {found.accuracy.images} differ); at export 100.00% on folder:{here}" in said(found)


def test_a_manifest_without_a_content_is_judged_by_the_name_as_before(make_artifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    here = photos(tmp_path / "here", artifact)
    record(artifact, here, 1.0)
    old = json.loads((artifact / "edgevit.json").read_text())
    del old["accuracy"]["content"]
    (artifact / "edgevit.json").write_text(json.dumps(old))
    found = verify(artifact, data=f"folder:{here}", threads=1)
    assert found.accuracy.recorded == 1.0
    assert "as at export" not in said(found)
