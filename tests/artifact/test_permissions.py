"""What is written may be read by whom the umask says, whatever library wrote it; secrets by nobody else."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgevit import signing
from edgevit.artifact.files import replaced, write_atomically
from edgevit.artifact.staging import publish, staged
from edgevit.models.loading.checkpoint import CheckpointMeta, save_checkpoint
from edgevit.train.state import save_state

META = CheckpointMeta.model_construct(model="x")


@pytest.fixture(params=[0o022, 0o002, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_checkpoint_may_be_read_as_any_file_of_its_user(name: str, umask: int, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / name, {"w": torch.ones(2)}, META)
    assert mode(tmp_path / name) == 0o666 & ~umask


def test_manifests_reports_and_states_too(umask: int, tmp_path: Path) -> None:
    write_atomically(tmp_path / "edgevit.json", "{}")
    save_state(tmp_path / "a.resume", {"epoch": 1}, {})
    assert {mode(path) for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_a_file_that_replaces_a_private_one_is_as_new(umask: int, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.touch(0o600)
    write_atomically(file, "{}")
    assert mode(file) == 0o666 & ~umask


def test_what_a_converter_hid_is_opened_when_it_is_published(umask: int, tmp_path: Path) -> None:
    with staged(tmp_path / "out") as scratch:
        hidden = Path(tempfile.mkdtemp(dir=scratch))
        handle, _ = tempfile.mkstemp(dir=hidden)
        os.close(handle)
        (scratch / "model.so").touch(0o755)
        publish(scratch, tmp_path / "out")
    assert mode(tmp_path / "out") == mode(tmp_path / "out" / hidden.name) == 0o777 & ~umask
    assert mode(next((tmp_path / "out" / hidden.name).iterdir())) == 0o666 & ~umask
    assert mode(tmp_path / "out" / "model.so") == 0o777 & ~umask


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fails() -> None:
        with replaced(tmp_path / "a") as scratch:
            scratch.write_text("half")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_who_is_trusted_is_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path))
    before = os.umask(0)
    try:
        signing.trust_key("0" * 64, "a builder")
    finally:
        os.umask(before)
    assert mode(tmp_path / "keys" / "trusted.json") == 0o600
