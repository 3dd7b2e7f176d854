"""A device: a second virtual environment with `pip install .` and no extras."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgevit

ROOT = Path(__file__).parents[1]
BRIEF = Path(__file__).parent / "brief.py"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment that holds edgevit and its base dependencies only."""
    folder = tmp_path_factory.mktemp("device")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder), str(ROOT)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv/bin/python"), "install", "--no-compile"]
    subprocess.run([*pip, "--quiet", str(wheel)], check=True)
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = edgevit.create_model("vit_nano", weights="digits")
    return edgevit.export(model, "onnx", out=tmp_path_factory.mktemp("built") / "vit", threads=1).path


def on_device(device: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command there; its quick tier is a brief one."""
    edgevit = [device / "python", BRIEF] if arguments[0] == "profile" else [device / "edgevit"]
    command = [str(part) for part in (*edgevit, *arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=device, timeout=120)
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran


def test_a_device_has_no_torch(device: Path) -> None:
    ran = subprocess.run([str(device / "python"), "-c", "import torch"], capture_output=True, check=False)
    assert ran.returncode == 1


def test_a_device_verifies_predicts_and_profiles_without_torch(device: Path, artifact: Path) -> None:
    verified = on_device(device, "verify", artifact, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["parity"]["status"] == "verified"
    predicted = on_device(device, "predict", artifact, artifact / "golden/0.png", "--json")
    assert predicted.returncode == 0, predicted.stderr
    assert json.loads(predicted.stdout)[0]["top"][0]["probability"] > 0.2
    profiled = on_device(device, "profile", artifact, "--json")
    assert profiled.returncode == 0, profiled.stderr
    assert json.loads(profiled.stdout)[0]["p50_ms"] > 0
    assert on_device(device, "info", artifact).returncode == 0
    assert "fmvit_nano" in on_device(device, "models").stdout


def test_building_on_a_device_ends_with_3_and_the_pip_line(device: Path) -> None:
    ran = on_device(device, "export", "fmvit_nano", "-t", "onnx")
    assert ran.returncode == 3
    assert "pip install 'edgevit[export]'" in ran.stderr
    assert on_device(device, "quickstart").returncode == 3


def test_targets_on_a_device_says_what_is_missing(device: Path) -> None:
    records = {
        (record["name"], record["kind"]): record for record in json.loads(on_device(device, "targets", "--json").stdout)
    }
    assert records["onnxruntime", "runtime"]["can_run"]
    assert not records["onnx", "exporter"]["can_build"]
    assert records["onnx", "exporter"]["install"] == "pip install 'edgevit[export]'"
