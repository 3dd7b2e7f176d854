"""Places to write to: one writer at a time; what a disk refuses is said before the work, or in one sentence after."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from edgevit.artifact.claim import LEAST_FREE, beside, claimed
from edgevit.artifact.files import write_atomically
from edgevit.artifact.staging import check_vacant, failed_name, publish, staged
from edgevit.cli import app
from edgevit.disk import filling
from edgevit.errors import EdgeVitError, UsageError

HOLD = """
import sys, time
from pathlib import Path
from edgevit.artifact.claim import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(out: Path) -> subprocess.Popen[str]:
    """Another process that writes to ``out``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_of_two_writers_is_refused_and_the_place_is_free_again_when_the_first_is_killed(
    tmp_path: Path,
) -> None:
    out = tmp_path / "new" / "out"
    with holder(out) as first:
        for same in (out, tmp_path / "new" / "." / "out", Path(os.path.relpath(out))):
            with pytest.raises(UsageError, match="another edgevit is writing to") as caught, claimed(same):
                pass
            assert caught.value.exit_code == 2
        with claimed(tmp_path / "new" / "other"):
            pass
        first.send_signal(signal.SIGKILL)
    with claimed(out):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["new"], "which the killed one had made"


def test_what_another_process_writes_to_is_refused_by_every_verb_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    verbs = (
        ("export", "vit_nano", "-t", "onnx", "-o"),
        ("export", "vit_nano", "-t", "onnx", "--force", "-o"),
        ("train", "vit_nano", "-o"),
        ("split", "vit_edvit", "--parts", 2, "-o"),
        ("benchmark", "vit_nano", "-t", "onnx", "-o"),
    )
    with holder(out) as first:
        for verb in verbs:
            ran = CliRunner().invoke(app, [*map(str, verb), str(out)])
            said = str(ran.exception) if isinstance(ran.exception, UsageError) else ran.stderr
            assert f"another edgevit is writing to {out}" in said, verb
            assert isinstance(ran.exception, UsageError) or ran.exit_code == 2
        first.kill()


def test_folders_made_for_a_claim_that_came_to_nothing_are_gone(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "kept" / "a" / "b" / "out"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = {
        tmp_path / "file" / "out": "not a directory|file exists",
        tmp_path / "file" / "deep" / "out": "not a directory",
        tmp_path / ("n" * 300): "file name too long",
        tmp_path / ("n" * 300) / "out": "file name too long",
        tmp_path / "nowhere" / "out": "file exists|no such file",
        tmp_path / "nowhere": "is a link that leads nowhere",
        tmp_path / "loop": "is a link that leads nowhere",
        Path("/sys/kernel/edgevit/out"): "not permitted|read-only|permission denied",
        Path("/proc/edgevit/out"): "no such file",
    }
    for place, said in places.items():
        with pytest.raises(UsageError, match=said) as caught, claimed(place):
            check_vacant(place, force=False)
        assert caught.value.hint


def test_a_full_disk_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=LEAST_FREE - 1))
    with (
        pytest.raises(UsageError, match="no space left: 1,048,575 bytes are free") as caught,
        claimed(tmp_path / "out"),
    ):
        pass
    assert caught.value.hint == "free some space, or choose another disk"
    with claimed(tmp_path / "plan.json", least=0):
        pass


FILL = """
import resource, sys
from pathlib import Path
from edgevit.artifact.files import write_atomically
from edgevit.artifact.staging import staged
from edgevit.disk import filling
from edgevit.errors import EdgeVitError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
out = Path(sys.argv[1])
try:
    with filling(out), staged(out) as scratch:
        (scratch / "model.onnx").write_bytes(bytes(2000))
except EdgeVitError as error:
    print(error)
try:
    write_atomically(out, "x" * 2000)
except OSError as error:
    print(error.strerror)
"""


def test_a_disk_that_fills_during_the_work_is_one_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", FILL, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{tmp_path}/out cannot be written: file too large\nFile too large\n"
    assert not list(tmp_path.iterdir())


def test_an_error_that_is_no_disk_s_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), filling(tmp_path / "out"):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(EdgeVitError, match="cannot be written: no space left on device"), filling(tmp_path / "out"):
        raise OSError(28, os.strerror(28), "anywhere")


@pytest.mark.parametrize("name", ["n" * 250, "ü" * 125, "short"])
def test_a_name_as_long_as_the_system_takes_is_taken(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    with claimed(out), staged(out) as scratch:
        (scratch / "x").touch()
        publish(scratch, out, force=False)
    with staged(failed_name(out)) as scratch:
        publish(scratch, failed_name(out))
    write_atomically(tmp_path / f"{name}.json", "{}") if name == "short" else write_atomically(beside(out, "x"), "{}")
    assert (out / "x").exists()


def test_what_appeared_during_the_work_is_replaced_only_with_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged(out) as scratch:
        out.mkdir()
        (out / "theirs").touch()
        with pytest.raises(UsageError, match="it was made meanwhile"):
            publish(scratch, out, force=False)
        assert (out / "theirs").exists()
        publish(scratch, out)
    assert not (out / "theirs").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_of_its_own_is_not_replaced() -> None:
    with pytest.raises(UsageError, match="is a disk of its own"):
        check_vacant(Path("/proc"), force=True)
