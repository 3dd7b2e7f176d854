"""No edit of a manifest ends in a plain "verified"."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgevit import signing
from edgevit.artifact.files import hash_tree, sha256_of
from edgevit.artifact.golden import write_golden
from edgevit.artifact.goodness import Accuracy
from edgevit.artifact.manifest import Parity
from edgevit.artifact.opened import Artifact
from edgevit.artifact.seal import sealed
from edgevit.errors import BadArtifact, EdgeVitError, ParityFailed
from edgevit.proof.accuracy import too_far
from edgevit.proof.golden import require_proof
from edgevit.proof.verify import verify, verify_in_worker
from edgevit.runtimes.base import open_session

Make = Callable[..., Path]
PARITY = Parity(status="verified", tolerance=1e-5, noise=1e-7, max_rel=1e-7, images=16, runtime="onnxruntime")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "edgevit.json").read_text())
    change(manifest)
    (folder / "edgevit.json").write_text(json.dumps(manifest))


def seal(folder: Path) -> None:
    (folder / "edgevit.json").write_text(sealed(Artifact.open(folder).manifest).model_dump_json(indent=2))


def asked(folder: Path) -> dict[str, Any]:
    """What the worker is asked, for a test that is its own worker."""
    absent = dict.fromkeys(("runtime", "data", "against", "provider"))
    return {"artifact": str(folder), "threads": 1, "trust": False, "options": {}, **absent}


def verified(folder: Path) -> bool:
    """Whether it is verified and nothing is left to doubt."""
    try:
        found = verify_in_worker(asked(folder))
    except EdgeVitError:
        return False
    return not found["problems"] and not found["unchecked"]


@pytest.fixture
def whole(make_artifact: Make) -> Path:
    """A sealed artifact about which nothing is in doubt."""
    folder = make_artifact(parity=PARITY)
    seal(folder)
    return folder


def test_no_flipped_bit_of_a_manifest_is_verified(whole: Path) -> None:
    """But for the e of an exponent, which may be a capital: that says the same."""
    assert verified(whole)
    data = (whole / "edgevit.json").read_bytes()
    meant = json.loads(data)
    random = np.random.default_rng(0)
    for _ in range(400):
        place, bit = int(random.integers(len(data))), int(random.integers(8))
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << bit
        (whole / "edgevit.json").write_bytes(spoiled)
        if verified(whole):
            assert json.loads(spoiled) == meant, (place, bit)


def test_a_manifest_whose_seal_was_taken_off_is_not_verified_without_a_word(whole: Path) -> None:
    edit(whole, lambda manifest: manifest.pop("seal"))
    found = verify(whole, threads=1)
    assert found.unchecked == ("edgevit.json has no seal: its labels, tolerance are what it claims",)
    assert ("not checked", found.unchecked[0]) in found.facts()
    assert found.record()["unchecked"] == list(found.unchecked)


def test_an_altered_manifest_alone_is_a_bad_artifact_and_a_wrong_graph_is_said_with_it(whole: Path) -> None:
    edit(whole, lambda manifest: manifest.update(labels=["dog", "cat", "bee", "ant"]))
    with pytest.raises(BadArtifact, match="was altered: its seal does not fit") as caught:
        verify(whole, threads=1)
    assert caught.value.verification.parity.status == "verified"  # type: ignore[attr-defined]
    edit(whole, lambda manifest: manifest["preprocess"].update(mean=[0.5, 0.5, 0.5]))
    with pytest.raises(ParityFailed, match=r"not the one the golden pair was made with.*seal does not fit"):
        verify(whole, threads=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["parity"].update(tolerance=1e-3, noise=1e-7), "allows an error of 1.0e-03; a noise of 1.0e-07"),
        (lambda m: m["parity"].update(tolerance=1e-3, noise=None), "no noise at all allows 1.0e-04"),
        (lambda m: m["parity"].update(max_rel=0.5), "verified with an error of 5.0e-01"),
        (lambda m: m.update(precision="fp16"), "says it is in fp16, and that fp32 was asked for"),
        (lambda m: m["model"].update(classes=7), "says there are 7 classes, and gives 4 logits"),
        (lambda m: m["files"].pop("golden.npz"), r"lists no golden\.npz"),
        (lambda m: [m["files"].pop(f"golden/{row}.png") for row in range(4)], r"lists no golden/0\.png"),
        (lambda m: m["files"].pop("golden/3.png"), r"lists no golden/3\.png"),
    ],
)
def test_what_cannot_be_true_is_refused_though_nothing_is_sealed(make_artifact: Make, change, said: str) -> None:
    folder = make_artifact(parity=PARITY)
    edit(folder, change)
    with pytest.raises(BadArtifact, match=said):
        verify_in_worker(asked(folder))


def own_words(folder: Path, **words: str) -> None:
    """Metadata in the model file, as the exporter writes it."""
    model = onnx.load(folder / "model.onnx")
    onnx.helper.set_model_props(model, {"edgevit": "0", **words})
    onnx.save(model, folder / "model.onnx")
    edit(folder, lambda manifest: manifest["files"].update({"model.onnx": sha256_of(folder / "model.onnx")}))


@pytest.mark.parametrize(
    "labels", [["dog", "cat", "bee", "ant"], ["ant"] * 4, ["ant", "bee", "cat", "emu"], None], ids=str
)
def test_labels_are_held_against_those_in_the_model_file(make_artifact: Make, labels: list[str] | None) -> None:
    folder = make_artifact(parity=PARITY)
    preprocess = Artifact.open(folder).manifest.preprocess.model_dump_json()
    own_words(folder, labels=json.dumps(["ant", "bee", "cat", "dog"]), preprocess=preprocess)
    assert not verify(folder, threads=1).problems
    edit(folder, lambda manifest: manifest.update(labels=labels))
    with pytest.raises(ParityFailed, match="names the classes otherwise than the model file does"):
        verify(folder, threads=1)


def test_labels_of_one_name_that_nothing_bears_out_are_said(make_artifact: Make) -> None:
    found = verify(make_artifact(labels=("ant", "ant", "ant", "dog")), threads=1)
    assert "3 classes are called 'ant'" in found.unchecked


def test_golden_pictures_that_prove_no_crop_are_said(make_artifact: Make) -> None:
    folder = make_artifact(parity=PARITY)
    manifest = Artifact.open(folder).manifest
    preprocess = manifest.preprocess.model_copy(update={"crop": "center", "crop_pct": 1.0})
    square = list(np.random.default_rng(1).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8))
    with open_session(folder, threads=1) as session:
        images = preprocess.batch(square)
        logits = np.concatenate([session.infer({"image": row[None]})["logits"] for row in images])
    shutil.rmtree(folder / "golden")
    write_golden(folder, {"image": images, "logits": logits}, square)
    manifest = manifest.model_copy(update={"preprocess": preprocess, "files": hash_tree(folder)})
    (folder / "edgevit.json").write_text(sealed(manifest).model_dump_json())
    (said,) = verify(folder, threads=1).unchecked
    assert said == "the golden pictures are of a size that tells no crop from another: center is what it claims"


def test_who_signed_is_said_and_a_signature_of_something_else_is_refused(whole: Path) -> None:
    assert "nobody signed it" in verify(whole, threads=1).checks[4]
    signing.sign(whole)
    assert verify(whole, threads=1).checks[4] == "the manifest has its seal and the signature of this user"
    edit(whole, lambda manifest: manifest.update(notes=["an afterthought"]))
    seal(whole)
    with pytest.raises(BadArtifact, match="does not fit its manifest"):
        verify(whole, threads=1)


@pytest.mark.parametrize(
    ("recorded", "images", "found", "exceeded"),
    [(0.9, 100, 0.895, None), (0.9, 100, 0.8, 0.01), (0.0, 100, 0.98, 0.01), (0.5, 8, 0.75, None)],
)
def test_a_record_that_is_too_low_is_as_wrong_as_one_that_is_too_high(recorded, images, found, exceeded) -> None:
    assert too_far(Accuracy(data="digits", top1=recorded, images=images), found, images) == exceeded


def spoil(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, folder / "model.onnx")
    edit(folder, lambda manifest: manifest["files"].update({"model.onnx": sha256_of(folder / "model.onnx")}))


@pytest.mark.parametrize("change", [np.negative, lambda values: values * np.float32("nan")], ids=["negated", "NaN"])
def test_a_model_that_computes_something_else_is_not_served(make_artifact: Make, change) -> None:
    folder = make_artifact()
    with open_session(folder, threads=1) as session:
        require_proof(session)
    spoil(folder, change)
    with open_session(folder, threads=1) as session, pytest.raises(ParityFailed, match="does not compute its model"):
        require_proof(session)
