"""Paths that are nearly an artifact or a bundle: the error names the folder that was meant."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edgevit.artifact.opened import Artifact
from edgevit.bundle.opened import Bundle
from edgevit.errors import BadArtifact
from edgevit.prediction.predictor import predict


def told(path: Path) -> tuple[str, str | None]:
    with pytest.raises(BadArtifact) as caught:
        Artifact.open(path)
    said, _, what = str(caught.value).partition(" is not an edgevit artifact: ")
    assert said == str(path)
    return what, caught.value.hint


@pytest.mark.parametrize("name", ["model.onnx", "edgevit.json", "golden.npz", "golden/0.png", "golden", "golden/none"])
def test_what_lies_in_an_artifact_names_the_artifact(make_artifact, name: str) -> None:
    artifact = make_artifact()
    what, hint = told(artifact / name)
    assert str(artifact) in what
    assert hint == f"give that folder: {artifact}"


def test_predict_says_it_too_before_any_image(make_artifact) -> None:
    artifact = make_artifact()
    with pytest.raises(BadArtifact, match="inside the artifact"):
        predict(artifact / "model.onnx", [artifact / "golden/0.png"])


def test_an_archive_is_to_be_unpacked(make_artifact, tmp_path: Path) -> None:
    for form in ("zip", "gztar"):
        packed = Path(shutil.make_archive(str(tmp_path / "packed"), form, make_artifact(form)))
        assert told(packed) == ("it is an archive", "unpack it first, and give the folder")
    packed = packed.rename(tmp_path / "no-suffix")
    shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "zip")
    assert told((tmp_path / "zipped.zip").rename(tmp_path / "model"))[0] == "it is an archive"


def test_a_folder_of_artifacts_names_them(make_artifact, tmp_path: Path) -> None:
    for name in "ab":
        make_artifact(name)
    what, hint = told(tmp_path)
    assert what == "no edgevit.json in it"
    assert hint == f"give one of the folders in it: {tmp_path}/a, {tmp_path}/b"


def test_a_bundle_where_an_artifact_is_meant_and_the_other_way(make_artifact, tmp_path: Path) -> None:
    member = make_artifact("part-0")
    (tmp_path / "bundle.json").write_text("{}")
    assert told(tmp_path) == ("it is a bundle", f"give the folder of a member: {member}")
    with pytest.raises(BadArtifact, match="is not an edgevit bundle: it is an artifact"):
        Bundle.open(member)


def test_what_leads_nowhere_says_how(make_artifact, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "x.failed").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    assert told(tmp_path / "none") == ("no such folder", "edgevit export makes one")
    assert told(tmp_path / "link") == ("it is a link that leads nowhere", "check the link")
    assert told(tmp_path / "x") == (
        "no such folder", f"its build failed its proof and is kept as {tmp_path}/x.failed",
    )  # fmt: skip
    assert told(tmp_path / "file")[0] == "it is a file, and not a folder"
    assert told(tmp_path / "pipe")[0] == "it is a file, and not a folder"
    assert told(tmp_path / ("n" * 300))[0] == "file name too long"
    with pytest.raises(BadArtifact, match="https://host/a is not an edgevit artifact: it is an address"):
        Artifact.open(Path("https://host/a"))


@pytest.mark.parametrize("opened", [Artifact.open, Bundle.open])
def test_a_manifest_that_is_a_pipe_a_device_or_a_folder_is_never_waited_for(opened, tmp_path: Path) -> None:
    for name, make in (("pipe", os.mkfifo), ("zero", lambda at: at.symlink_to("/dev/zero")), ("dir", Path.mkdir)):
        folder = tmp_path / name
        folder.mkdir()
        make(folder / ("edgevit.json" if opened == Artifact.open else "bundle.json"))
        with pytest.raises(BadArtifact, match="not a manifest"):
            opened(folder)
