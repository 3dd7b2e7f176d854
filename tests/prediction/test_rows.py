"""From rows in an .npz to a proved artifact of several inputs, and to its answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import said

MINE = """
import torch
from torch import nn


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.word = nn.Linear(4, 2)

    def forward(self, x, scale):
        return {"low": self.word(x).mean(1), "high": (x * scale[:, :, None]).sum(2)}


def both():
    return Both()
"""
X, SCALE = (np.random.default_rng(0).random(shape).astype(np.float32) for shape in ((17, 3, 4), (17, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "mine.py").write_text(MINE)
    np.savez(folder / "rows.npz", x=X, scale=SCALE)
    args = ("--inputs", folder / "rows.npz", "-t", "onnx", "-o", folder / "a", "--threads", 1, "--batch", "1-8")
    ran = said("export", f"{folder}/mine.py:both", *args)
    assert ran.returncode == 0, ran.stderr
    return folder


def test_several_inputs_are_exported_proved_and_asked_about(folder: Path) -> None:
    manifest = json.loads((folder / "a/edgevit.json").read_text())
    assert [one["name"] for one in manifest["inputs"]] == ["x", "scale"]
    assert manifest["parity"]["status"] == "verified"
    ran = said("predict", folder / "a", "--inputs", folder / "rows.npz", "--json", "--threads", 1)
    assert ran.returncode == 0, ran.stderr
    answers = json.loads(ran.stdout)
    assert [one["image"] for one in answers] == [f"{folder}/rows.npz[{row}]" for row in range(17)]
    wanted = (X * SCALE[:, :, None]).sum(2)
    assert [one["outputs"]["high"]["max"] for one in answers] == pytest.approx(wanted.max(1), rel=1e-5)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": X}, "holds x; the artifact takes x, scale"),
        ({"x": X, "scale": SCALE[:, :2]}, "scale is float32 17×2; the artifact takes float32 rows×3"),
        ({"x": X.astype(np.float16), "scale": SCALE}, "x is float16 17×3×4; the artifact takes float32 rows×3×4"),
    ],
    ids=["missing", "shape", "type"],
)
def test_rows_that_do_not_fit_are_one_sentence(folder: Path, tmp_path: Path, arrays: dict, sentence: str) -> None:
    np.savez(tmp_path / "other.npz", **arrays)
    ran = said("predict", folder / "a", "--inputs", tmp_path / "other.npz", "--threads", 1)
    assert ran.returncode == 2
    assert sentence in " ".join(ran.stderr.split())


def test_rows_and_pictures_contradict_each_other_and_one_is_needed(folder: Path) -> None:
    for words in ((), ("x.png", "--inputs", folder / "rows.npz")):
        ran = said("predict", folder / "a", *words)
        assert ran.returncode == 2
        assert "predict takes pictures, or rows with --inputs" in ran.stderr


@pytest.mark.parametrize("more", [("--mean", "0.5"), ("--data", "digits"), ("--crop", "letterbox")], ids=lambda w: w[0])
def test_what_is_said_of_pictures_is_refused_beside_rows(folder: Path, more: tuple) -> None:
    args = ("--inputs", folder / "rows.npz", "-t", "onnx", "-o", folder / "b", *more)
    ran = said("export", f"{folder}/mine.py:both", *args)
    assert ran.returncode == 2
    assert f"{more[0]}: of images" in ran.stderr
