from __future__ import annotations

import json
import os
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from edgevit.artifact.golden import read_golden
from edgevit.artifact.manifest import TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact
from edgevit.registry import newer_line

LOGITS = TensorSpec(name="logits", dtype="float32", shape=(1, 3), role="logits")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (("labels",), ["x"], "1 labels for 4 classes"),
        (("labels",), [str(index) for index in range(10_000)], "10000 labels for 4 classes"),
        (("labels",), ["a", "b", " ", "d"], "a label is empty"),
        (("parity", "tolerance"), -1.0, "tolerance"),
        (("parity", "max_rel"), -1.0, "max_rel"),
        (("accuracy",), {"data": "digits", "top1": 1.5, "images": 9}, "top1"),
        (("accuracy",), {"data": "digits", "top1": 0.5, "images": 0}, "images"),
        (("inputs", 0, "shape"), [1, 3, 10**6, 10**6], "more than"),
        (("inputs", 0, "shape"), [1, 3, "batch", 8], "only the first side"),
        (("inputs", 0, "shape"), [1, 3, 0, 8], "shape"),
        (("inputs", 0, "name"), "logits", "a name of its own"),
        (("outputs",), [], "inputs and outputs"),
        (("batch", "max"), 10**9, "batch"),
        (("batch",), {"min": 8, "max": 1}, "holds none"),
        (("schema_version",), True, "True, no number of a schema"),
        (("schema_version",), 1.0, "no number of a schema"),
        (("preprocess", "size"), [0, 0], "size"),
        (("preprocess", "size"), [200_000, 200_000], "size"),
        (("preprocess", "std"), [0.0, 0.2, 0.2], "std"),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_one_sentence(make_artifact, field, value, said) -> None:
    folder = make_artifact()
    manifest = json.loads((folder / "edgevit.json").read_text())
    inner = manifest
    for step in field[:-1]:
        inner = inner[step]
    inner[field[-1]] = value
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match=said):
        Artifact.open(folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"tolerance":0.00001', '"tolerance":NaN', "NaN is not a number of JSON"),
        ('"tolerance":0.00001', '"tolerance":1e999', "1e999 is too large"),
        ('"precision":', '"precision":"fp16","precision":', "'precision' is given twice"),
        ('"notes":[]', f'"notes":{"[" * 100_000}', "nested too deeply"),
    ],
)
def test_a_manifest_that_another_reader_would_take_otherwise_is_refused(make_artifact, old, new, said) -> None:
    folder = make_artifact()
    text = (folder / "edgevit.json").read_text().replace("1e-5", "0.00001").replace("1e-05", "0.00001")
    assert old in text
    (folder / "edgevit.json").write_text(text.replace(old, new, 1))
    with pytest.raises(BadArtifact, match=said):
        Artifact.open(folder)


@pytest.mark.parametrize("place", ["", "parity"], ids=["at the top", "below"])
def test_a_field_that_nobody_here_knows_may_be_a_newer_edgevit_s(make_artifact, place: str) -> None:
    folder = make_artifact()
    manifest = json.loads((folder / "edgevit.json").read_text())
    (manifest[place] if place else manifest)["weather"] = "fine"
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    with pytest.raises(
        BadArtifact, match=r"weather is nothing that this edgevit knows: a newer one wrote it"
    ) as caught:
        Artifact.open(folder)
    assert caught.value.hint == newer_line()


def test_a_manifest_that_is_no_file_is_never_waited_for(make_artifact, tmp_path: Path) -> None:
    folder = make_artifact()
    (folder / "edgevit.json").unlink()
    os.mkfifo(folder / "edgevit.json")
    with pytest.raises(BadArtifact, match="a named pipe, not a manifest"):
        Artifact.open(folder)


def archive(name: str, data: bytes) -> bytes:
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as stored:
        stored.writestr(name, data)
    return made.getvalue()


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    made = BytesIO()
    np.lib.format.write_array_header_1_0(made, {"descr": dtype, "fortran_order": False, "shape": shape})  # type: ignore[attr-defined]
    return made.getvalue()


@pytest.mark.parametrize(
    ("shape", "dtype"), [((10**9, 3), "<f4"), ((4, 3), "<c16"), ((4, 3), "<f8"), ((3, 3), "<f4"), ((4, 1, 3), "<f4")]
)
def test_a_golden_array_of_another_shape_or_type_is_refused_before_memory_is_taken(shape, dtype) -> None:
    with pytest.raises(ValueError, match="does not hold 4 rows of logits"):
        read_golden(archive("logits.npy", header(shape, dtype)), [LOGITS])


def test_a_golden_archive_that_unpacks_to_gigabytes_is_refused() -> None:
    with pytest.raises(ValueError, match="does not hold 4 rows of logits"):
        read_golden(archive("logits.npy", header((4, 3), "<f4") + bytes(50_000_000)), [LOGITS])
