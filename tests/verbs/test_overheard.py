"""What torch and a model's own code print is neither data nor our words: seen with --verbose alone."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgevit import render
from edgevit.cli import app

CHATTY = """
import logging, sys, warnings
from torch import nn

class Chatty(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x):
        print("HELLO")
        print("HELLO", file=sys.stderr)
        logging.getLogger("mine").warning("HELLO")
        warnings.warn("HELLO")
        return self.head(x.flatten(1))

class Branching(Chatty):
    def forward(self, x):
        y = self.head(x.flatten(1))
        return y * 2 if float(y.sum()) > 0 else y

def chatty(image_size=8):
    return Chatty()

def branching(image_size=8):
    return Branching()
"""


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What ``edgevit export`` of one of these models to ONNX came to."""
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    (tmp_path / "mine.py").write_text(CHATTY)

    def run(name: str, *more: str):
        words = ["export", f"{tmp_path}/mine.py:{name}", "-t", "onnx", "-o", str(tmp_path / "out"), "--threads", "1"]
        return CliRunner().invoke(app, [*words, *more])

    yield run
    render.speak("")


def test_a_model_that_prints_leaves_the_data_whole(export) -> None:
    ran = export("chatty", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)[0]["parity"]["status"] == "verified"
    assert "HELLO" not in ran.stderr
    assert "prepare: trace" in ran.stderr


def test_nothing_is_dumped_before_an_error_unless_verbose(export) -> None:
    quiet, loud = export("branching"), export("branching", "-v")
    assert "asks what a tensor holds" in str(quiet.exception)
    assert "def forward" not in quiet.stdout + quiet.stderr
    assert all(" → prepare: " in line for line in quiet.stderr.splitlines() if line.strip())
    assert "def forward" in loud.stderr, "torch dumps no graph any more, so this test shows nothing"
    assert "def forward" not in loud.stdout


def everything_said(capsys: pytest.CaptureFixture[str]) -> str:
    handler = logging.StreamHandler(sys.stderr)  # keeps its stream, as torch's does
    logging.getLogger("theirs").addHandler(handler)
    try:
        with render.overheard():
            print("theirs")
            print("theirs", file=sys.stderr)
            logging.getLogger("theirs").warning("theirs")
            warnings.warn("theirs", stacklevel=1)
            render.say("ours")
        logging.getLogger("theirs").warning("afterwards")
    finally:
        logging.getLogger("theirs").removeHandler(handler)
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_our_own_words_go_on_and_logging_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    render.speak("")
    assert everything_said(capsys) == "ours\nafterwards\n"


def test_verbose_shows_all_of_it_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    render.speak("verbose")
    try:
        assert everything_said(capsys).count("theirs") >= 3
    finally:
        render.speak("")
