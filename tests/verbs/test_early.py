"""What is wrong with a command's words is said before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import contextlib, io, json, sys
from edgevit.cli import main

for command in json.loads(sys.argv[1]):
    told, code = io.StringIO(), 0
    sys.argv = ["edgevit", *command.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        try:
            main()
        except SystemExit as end:
            code = end.code
        sys.stdout = io.StringIO()
    print(json.dumps([code, told.getvalue(), "torch" in sys.modules]), file=sys.__stdout__, flush=True)
"""

SAYS = {
    "export vit_nan -t onnx": "unknown model 'vit_nan'",
    "export vit_nano -t onx": "unknown target 'onx'",
    **{
        f"export vit_nano -t {target} {wrong}": sentence
        for target in ("onnx", "coreml", "tensorrt", "tvm")
        for wrong, sentence in {"--option no=1": f"unknown option of {target}",
                                "--precision fp15": f"unknown precision of {target}"}.items()
    },
    "export vit_nano -t onnx --option opset=x": "onnx.opset",
    "export vit_nano -t onnx --data digitz": "unknown data source 'digitz'",
    "export vit_nano -t onnx --data folder:nowhere": "nowhere",
    "export vit_nano -t onnx --weights nowhere.pt": "no weights at",
    "export mine.py:net -t onnx": "no file mine.py",
    "export vit_nano -t onnx -o taken": "taken exists already",
    "train vit_nan -o new.safetensors": "unknown model 'vit_nan'",
    "train vit_nano -o new.safetensors --data digitz": "unknown data source 'digitz'",
    "train vit_nano -o new.safetensors --weights nowhere.pt": "no weights at",
    "train vit_nano -o taken.safetensors": "taken.safetensors exists",
    "train vit_nano -o new.onnx": "not a kind of weights file",
    "split vit_nan --parts 2 -o new": "unknown model 'vit_nan'",
    "split vit_nano --parts 2 -o new -t onx": "unknown target 'onx'",
    "split vit_nano --parts 2 -o new --precision fp15": "unknown precision of onnx",
    "split vit_nano --parts 2 -o new --data digitz": "unknown data source 'digitz'",
    "split vit_nano --parts 2 -o new --fleet nowhere.toml": "nowhere.toml",
    "split vit_nano --parts 2 -o taken": "taken exists already",
    "benchmark vit_nan -t onnx -o bench": "unknown model 'vit_nan'",
    "benchmark vit_nano -t onx -o bench": "unknown target 'onx'",
    "benchmark vit_nano -t onnx -o bench --option no=1": "unknown option of onnx",
    "benchmark vit_nano -t onnx -o bench --precision fp15": "unknown precision of onnx",
    "benchmark vit_nano -t onnx -o bench --data digitz": "unknown data source 'digitz'",
    "quickstart -o taken.safetensors": "taken.safetensors is a file",
}  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, bool]]:
    """Command -> exit code, stderr, whether torch was imported by then: all in one process."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_text("years of work")
    (folder / "taken.safetensors").touch()
    command = [sys.executable, "-c", PROGRAM, json.dumps(list(SAYS))]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=folder, check=True, timeout=300)
    return dict(zip(SAYS, map(json.loads, ran.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", list(SAYS))
def test_a_slip_is_refused_before_torch_is_imported(command: str, answers: dict[str, tuple[int, str, bool]]) -> None:
    code, told, torch = answers[command]
    assert code == 2, told
    assert SAYS[command] in told
    assert not torch
