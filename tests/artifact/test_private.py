from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgevit.artifact import private
from edgevit.artifact.files import hash_tree
from edgevit.artifact.opened import Artifact
from edgevit.artifact.private import private_copy
from edgevit.errors import BadArtifact, EdgeVitError
from edgevit.runtimes.base import open_session


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "deep/model.bin").write_bytes(b"weights" * 300_000)
    (made / "model.so").write_bytes(b"code")
    return made


def test_the_copy_is_this_users_alone_holds_what_was_listed_and_is_gone_afterwards(folder: Path) -> None:
    listed = hash_tree(folder)
    (folder / "unlisted").touch()
    with private_copy(folder, listed) as copy:
        assert stat.S_IMODE(copy.stat().st_mode) == 0o700
        assert hash_tree(copy) == listed
    assert not copy.exists()


def test_bytes_of_another_hash_are_never_handed_out(folder: Path) -> None:
    listed = hash_tree(folder)
    (folder / "model.so").write_bytes(b"evil")
    with pytest.raises(BadArtifact, match=r"model\.so in .* was altered"), private_copy(folder, listed):
        pytest.fail("handed out")


def test_a_pipe_in_the_place_of_a_model_is_refused_at_once(folder: Path) -> None:
    listed = hash_tree(folder)
    (folder / "model.so").unlink()
    os.mkfifo(folder / "model.so")
    with pytest.raises(BadArtifact, match="a named pipe"), private_copy(folder, listed):
        pytest.fail("handed out")


def test_where_one_disk_is_full_another_place_is_taken_and_no_place_is_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, usage = tmp_path / "full", shutil.disk_usage
    full.mkdir()
    monkeypatch.setattr(private.tempfile, "tempdir", str(full))
    free = usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(private.shutil, "disk_usage", lambda at: free if Path(at) == full else usage(at))
    with private_copy(folder, hash_tree(folder)) as copy:
        assert not copy.is_relative_to(full)

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a disk that is full, a write then ends with an error
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(EdgeVitError, match="file too large") as caught, private_copy(folder, hash_tree(folder)):
            pytest.fail("handed out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.hint == "set TMPDIR to a folder with room"


def test_a_model_that_is_exchanged_after_its_hash_was_checked_is_not_the_one_that_runs(
    make_artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, other = make_artifact("honest"), make_artifact("other", seed=1)
    inputs, _ = Artifact.open(honest).golden()
    feed = {"image": inputs["image"][:1]}
    with open_session(honest, threads=1) as session:
        expected = session.infer(feed)["logits"]
    started = onnxruntime.InferenceSession

    def exchanged(path: str, *args: object, **named: object) -> object:
        (other / "model.onnx").replace(honest / "model.onnx")  # by now the hash was checked
        return started(path, *args, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", exchanged)
    with open_session(honest, threads=1) as session:
        assert np.array_equal(session.infer(feed)["logits"], expected)
        assert session.artifact.path == honest


def test_a_file_that_nothing_lists_inside_an_entry_that_is_a_folder_is_refused(make_artifact) -> None:
    made = make_artifact(entry="package")
    (made / "package/Data").mkdir(parents=True)
    (made / "package/Manifest.json").write_text("{}")
    text = Artifact.open(made).manifest.model_copy(update={"files": hash_tree(made)}).model_dump_json()
    (made / "edgevit.json").write_text(text)
    Artifact.open(made).check_files()
    (made / "package/Data/extra.bin").write_bytes(b"evil")
    with pytest.raises(BadArtifact, match=r"package/Data/extra\.bin in .* was added"):
        Artifact.open(made).check_files()
    (made / "package/Data/extra.bin").unlink()
    (made / "package/linked").symlink_to(made)
    with pytest.raises(BadArtifact, match=r"package/linked in .* was added"):
        Artifact.open(made).check_files()
    (made / "package/linked").unlink()
    (made / "package/Manifest.json").write_text("{ }")
    with pytest.raises(BadArtifact, match=r"package/Manifest\.json in .* was altered"):
        Artifact.open(made).check_files()
