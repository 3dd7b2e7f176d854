"""Every verb that takes a path, on paths that are nothing it can read: one sentence and a next step, never a traceback
or a wait."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevit import cli
from edgevit.artifact.opened import Artifact

INPUTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": Path.touch,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "bytes of no text": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "a web page": lambda path: path.write_text("<!DOCTYPE html><html><body>404</body></html>"),
    "deep JSON": lambda path: path.write_text("[" * 100_000),
    "a huge number": lambda path: path.write_text('{"schema_version": ' + "9" * 5000 + "}"),
    "a list": lambda path: path.write_text("[1, null, {}]"),
    "sparse and endless": lambda path: (path.touch(), os.truncate(path, 1 << 42)),
    "below a file": lambda path: path.parent.touch(),
}

# BAD is the path; ART a sound artifact and PIC a sound picture, so that nothing else is wrong.
VERBS = {
    "info": "info BAD",
    "verify": "verify BAD",
    "verify --against": "verify ART --against BAD",
    "verify --data folder": "verify ART --data folder:BAD",
    "verify --data npz": "verify ART --data npz:BAD",
    "verify --data cifar": "verify ART --data cifar10:BAD",
    "predict": "predict BAD PIC",
    "predict an image": "predict ART BAD",
    "predict --labels": "predict ART PIC --labels BAD",
    "predict --labels, JSON": "predict ART PIC --labels BAD.json",
    "profile": "profile BAD",
    "compare": "compare ART BAD",
    "report": "report BAD",
    "export --weights": "export vit_nano -t onnx -o OUT --weights BAD",
    "export --labels": "export vit_nano -t onnx -o OUT --weights digits --labels BAD",
    "export --data": "export vit_nano -t onnx -o OUT --weights digits --data npz:BAD",
    "export a file": "export BAD.py:make -t onnx -o OUT",
    "train": "train vit_nano -o OUT.safetensors --data folder:BAD",
    "split --partition": "split vit_nano --weights digits --parts 2 -o OUT --partition BAD.json",
    "split --weights": "split vit_edvit --parts 2 -o OUT --weights BAD",
    "assign": "assign BAD --fleet BAD",
    "deploy": "deploy BAD",
    "infer": "infer BAD PIC",
    "serve": "serve BAD",
    "fleet up": "fleet up BAD",
    "fleet simulate": "fleet simulate BAD",
    "fleet nodes --identity": "fleet nodes --identity BAD --connect tls/127.0.0.1:1",
}


Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def edgevit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """``edgevit(*arguments)`` -> (exit code, stdout, stderr), in this process."""

    def run(*arguments: str) -> tuple[object, str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["edgevit", *arguments])
            for name in ("stdout", "stderr"):
                patch.setattr(sys, name, getattr(sys, name))
            with pytest.raises(SystemExit) as ended:
                cli.main()
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return run


# Of verbs that start a process or load a model first, kinds enough to see which way they read.
SLOW = ("verify --", "export", "train", "split")
FEW = ("missing", "a folder", "a pipe", "a link to itself", "bytes of no text", "below a file")
CASES = [(verb, kind) for verb in VERBS for kind in (FEW if verb.startswith(SLOW) else INPUTS)]


@pytest.mark.parametrize(("verb", "kind"), CASES)
def test_a_path_that_is_nothing_to_read_is_one_sentence(verb: str, kind: str, edgevit, make_artifact, tmp_path) -> None:
    artifact = make_artifact()
    name = next((word for word in VERBS[verb].split() if "BAD" in word), "BAD")
    suffix = name.partition("BAD")[2].partition(":")[0]
    bad = tmp_path / "x" / f"bad{suffix}" if kind == "below a file" else tmp_path / f"bad{suffix}"
    INPUTS[kind](bad)
    words = {"ART": str(artifact), "PIC": str(artifact / "golden/0.png"), "OUT": str(tmp_path / "out")}
    command = VERBS[verb].replace(f"BAD{suffix}", str(bad))
    for word, path in words.items():
        command = command.replace(word, path)
    code, _, said = edgevit(*command.split())
    assert code in (1, 2, 6, 9), said
    assert "internal error" not in said
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert not (tmp_path / "out").exists()


def without_privileges() -> None:
    """Root obeys permissions as others do: the next program begins without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; nothing happens where one is not root


def test_what_another_user_may_not_read_is_one_sentence(make_artifact, tmp_path: Path) -> None:
    artifact, closed = make_artifact(), tmp_path / "closed"
    (closed / "class").mkdir(parents=True)
    shutil.copy(artifact / "golden/0.png", closed / "x.png")
    (tmp_path / "file").touch()
    for path in (closed, tmp_path / "file"):
        path.chmod(0)
    for arguments, code in (
        (("info", closed), 6),
        (("info", closed / "below"), 6),
        (("predict", artifact, closed / "x.png"), 1),
        (("predict", artifact, artifact / "golden/0.png", "--labels", tmp_path / "file"), 2),
        (("verify", artifact, "--data", f"folder:{closed}"), 2),
        (("verify", artifact, "--data", f"cifar10:{closed}"), 2),
        (("verify", artifact, "--data", f"npz:{tmp_path / 'file'}"), 2),
        (("report", closed), 2),
        (("assign", artifact, "--fleet", tmp_path / "file"), 2),
        (("train", "vit_nano", "-o", closed / "a.safetensors"), 2),
        (("report", artifact, "--format", "md", "-o", closed / "a.md"), 2),
    ):
        command = [sys.executable, "-P", "-m", "edgevit.cli", *map(str, arguments)]
        ran = subprocess.run(command, capture_output=True, text=True, preexec_fn=without_privileges)
        assert ran.returncode == code, (arguments, ran.stderr)
        assert sum(line.lower().startswith("error: ") for line in ran.stderr.splitlines()) == 1, ran.stderr
        assert "internal error" not in ran.stderr
    closed.chmod(0o755)
    assert Artifact.open(artifact)
