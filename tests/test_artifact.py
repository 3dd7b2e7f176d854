from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgevit.artifact.files import sha256_of
from edgevit.artifact.golden import write_golden
from edgevit.artifact.manifest import Parity
from edgevit.artifact.opened import Artifact
from edgevit.artifact.staging import check_vacant, publish, staged
from edgevit.errors import BadArtifact, UsageError
from edgevit.registry import newer_line


def edit(folder: Path, **fields: object) -> None:
    manifest = json.loads((folder / "edgevit.json").read_text())
    (folder / "edgevit.json").write_text(json.dumps({**manifest, **fields}))


def test_a_sound_artifact_opens_and_its_hashes_hold(make_artifact) -> None:
    artifact = Artifact.open(make_artifact())
    artifact.check_files()
    inputs, outputs = artifact.golden()
    assert inputs["image"].shape == (4, 3, 8, 8)
    assert outputs["logits"].shape == (4, 4)
    assert [path.name for path in artifact.golden_images()] == ["0.png", "1.png", "2.png", "3.png"]


def test_the_model_s_size_leaves_the_golden_pair_out(make_artifact) -> None:
    folder = make_artifact()
    assert Artifact.open(folder).size_bytes() == (folder / "model.onnx").stat().st_size


@pytest.mark.parametrize("damage", ["flip", "truncate", "append"])
def test_an_altered_file_is_named(make_artifact, damage: str) -> None:
    folder = make_artifact()
    data = (folder / "model.onnx").read_bytes()
    spoiled = {"flip": bytes([data[0] ^ 1]) + data[1:], "truncate": data[:-1], "append": data + b"\0"}[damage]
    (folder / "model.onnx").write_bytes(spoiled)
    with pytest.raises(BadArtifact, match=r"model\.onnx in .* was altered"):
        Artifact.open(folder).check_files()


def test_a_missing_file_is_named(make_artifact) -> None:
    folder = make_artifact()
    (folder / "golden.npz").unlink()
    with pytest.raises(BadArtifact, match=r"lacks golden\.npz"):
        Artifact.open(folder).check_files()


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "a\\b", ""])
def test_a_manifest_cannot_point_outside_its_folder(make_artifact, path: str) -> None:
    folder = make_artifact()
    edit(folder, entry=path)
    with pytest.raises(BadArtifact, match="entry"):
        Artifact.open(folder)


def test_a_link_out_of_the_folder_is_refused(make_artifact, tmp_path: Path) -> None:
    folder = make_artifact()
    moved = tmp_path / "elsewhere.onnx"
    (folder / "model.onnx").rename(moved)
    (folder / "model.onnx").symlink_to(moved)
    with pytest.raises(BadArtifact, match="points outside"):
        Artifact.open(folder).check_files()


def test_a_newer_schema_is_refused_with_the_upgrade_line(make_artifact) -> None:
    folder = make_artifact()
    edit(folder, schema_version=3, something_new={})
    with pytest.raises(BadArtifact, match="schema 3") as caught:
        Artifact.open(folder)
    assert caught.value.hint == newer_line()


def test_an_unknown_field_is_named(make_artifact) -> None:
    folder = make_artifact()
    edit(folder, tolerence=1)
    with pytest.raises(BadArtifact, match="tolerence"):
        Artifact.open(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_version": "1"}'])
def test_a_broken_manifest_is_one_sentence(make_artifact, text: str) -> None:
    folder = make_artifact()
    (folder / "edgevit.json").write_text(text)
    with pytest.raises(BadArtifact):
        Artifact.open(folder)


def test_the_parity_record_is_replaced_in_place(make_artifact) -> None:
    folder = make_artifact(parity=Parity(status="unverified", reason="needs a device", tolerance=1e-5))
    Artifact.open(folder).update_parity(Parity(status="verified", tolerance=1e-5, max_rel=0.0))
    assert Artifact.open(folder).manifest.parity.status == "verified"
    assert not list(folder.glob(".*"))


def test_a_failed_build_leaves_neither_the_folder_nor_the_scratch(tmp_path: Path) -> None:
    def build() -> None:
        with staged(tmp_path / "out") as scratch:
            (scratch / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build()
    assert list(tmp_path.iterdir()) == []


def test_publishing_replaces_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content in ("old", "new"):
        with staged(out) as scratch:
            (scratch / "file").write_text(content)
            publish(scratch, out)
    assert (out / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_replaces_an_artifact_but_nothing_else(make_artifact, tmp_path: Path) -> None:
    folder = make_artifact()
    with pytest.raises(UsageError, match="exists already"):
        check_vacant(folder, force=False)
    check_vacant(folder, force=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    with pytest.raises(UsageError, match="not an edgevit artifact"):
        check_vacant(tmp_path / "notes", force=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="not an edgevit artifact"):
        check_vacant(tmp_path / "file", force=True)


def test_a_golden_pair_that_is_no_archive_is_one_sentence(make_artifact) -> None:
    folder = make_artifact()
    whole = (folder / "golden.npz").read_bytes()
    for data in (b"", b"PK\x03\x04 but no more", whole[: len(whole) // 2], whole.replace(b"image", b"imagf")):
        (folder / "golden.npz").write_bytes(data)
        with pytest.raises(BadArtifact, match="cannot be read"):
            Artifact.open(folder).golden()


def test_arrays_of_any_name_are_stored_and_two_equal_pairs_are_equal_files(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3), "allow_pickle": np.eye(2, dtype=np.float32), "args": np.array([True])}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_golden(tmp_path / name, arrays, [])
    assert sha256_of(tmp_path / "a/golden.npz") == sha256_of(tmp_path / "b/golden.npz")
    with np.load(tmp_path / "a/golden.npz", allow_pickle=False) as stored:
        assert {name: stored[name].tolist() for name in stored.files} == {k: v.tolist() for k, v in arrays.items()}


def test_the_scratch_of_a_killed_build_is_swept_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    left, busy = (tmp_path / f".out.building-{pid}-abc" for pid in (dead.pid, os.getpid()))
    left.mkdir()
    busy.mkdir()
    with staged(tmp_path / "out"):
        assert not left.exists()
        assert busy.exists()
