"""A device: an environment with the wheel and no extras, of this Python and of the oldest that edgevit takes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

import edgevit

ROOT = Path(__file__).parents[1]
BRIEF = Path(__file__).parent / "brief.py"
OLDEST = "python3.10"  # JetPack 6's
HOMES = (f"{os.environ.get('PYENV_ROOT', '~/.pyenv')}/versions", "~/.local/share/uv/python", "/opt")
AWAY = {**os.environ, "PYTHONPATH": ""}  # from this tree


def pythons() -> list[str]:
    """This Python, and the oldest where there is one that runs."""
    found = [path for home in HOMES for path in sorted(Path(home).expanduser().glob(f"*/bin/{OLDEST}"))]
    for candidate in (OLDEST, *map(str, found)):
        try:
            subprocess.run([candidate, "-c", "import ensurepip, ssl"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return [sys.executable, candidate]
    return [sys.executable]


def install(python: Path, what: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-compile", "--quiet"]
    subprocess.run([*pip, what], check=True, env=AWAY)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder), str(ROOT)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module", params=pythons(), ids=("this Python", "3.10")[: len(pythons())])
def device(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment that holds edgevit and its base dependencies only."""
    folder = tmp_path_factory.mktemp("device")
    subprocess.run([request.param, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    install(folder / "venv/bin/python", str(wheel))
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = edgevit.create_model("vit_nano", weights="digits")
    return edgevit.export(model, "onnx", out=tmp_path_factory.mktemp("built") / "vit", threads=1).path


def on_device(device: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command there; its quick tier is a brief one."""
    edgevit = [device / "python", BRIEF] if arguments[0] == "profile" else [device / "edgevit"]
    command = [str(part) for part in (*edgevit, *arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=device, env=AWAY, timeout=120)
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


def test_building_on_a_device_ends_with_3_and_the_line_for_the_wheel_it_came_from(device: Path, wheel: Path) -> None:
    ran = on_device(device, "export", "fmvit_nano", "-t", "onnx")
    assert ran.returncode == 3
    assert f"pip install 'edgevit[export] @ {wheel.as_uri()}'" in ran.stderr
    assert on_device(device, "quickstart").returncode == 3


def test_targets_on_a_device_says_what_is_missing(device: Path) -> None:
    records = {
        (record["name"], record["kind"]): record for record in json.loads(on_device(device, "targets", "--json").stdout)
    }
    assert records["onnxruntime", "runtime"]["can_run"]
    assert not records["onnx", "exporter"]["can_build"]
    assert records["onnx", "exporter"]["install"].startswith("pip install 'edgevit[export] @ file://")


def test_everything_that_git_tracks_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "edgevit"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with zipfile.ZipFile(wheel) as packed:
        assert set(listed.split()) <= set(packed.namelist())


def test_a_device_with_the_extra_of_the_fleet_serves_an_artifact(device: Path, wheel: Path, artifact: Path) -> None:
    install(device / "python", f"{wheel}[fleet]")
    command = [str(device / "edgevit"), "serve", str(artifact), "--port", "0"]
    with subprocess.Popen(
        command, cwd=device, env=AWAY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as serving:
        try:
            assert serving.stdout is not None
            address = next(found[0] for line in serving.stdout if (found := re.search(r"http://[\d.:]+", line)))
            image = (artifact / "golden/0.png").read_bytes()
            with urllib.request.urlopen(f"{address}/v2/models/{artifact.name}/classify", image, timeout=30) as answer:
                assert json.loads(answer.read())["top"][0]["probability"] > 0.2
        finally:
            serving.terminate()
