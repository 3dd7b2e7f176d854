"""Single artifacts of every task on a real node: tensors, answers, pictures; and what a fleet does not answer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from fleet.fleet_nodes import nodes, wait_live
from PIL import Image
from task_models import SIDE, TASKS, Net, all_exported
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import edgevit
from edgevit.cli import app
from edgevit.errors import Unsupported, UsageError
from edgevit.fleet.agent import release
from edgevit.fleet.asking.where import reach
from edgevit.fleet.bus.link import Link
from edgevit.fleet.gateway.answering import FleetModel
from edgevit.fleet.operating.deploy import deploy
from edgevit.steps import Steps


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Path]]:
    """On one node."""
    folder = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVIT_HOME", str(folder / "home"))
        found = all_exported(folder)
        with nodes(folder / "home", "one"):
            wait_live(Link(), "one")
            for task in TASKS:
                deploy(found[task], Link(), replace_after_s=3600)
            yield found


def png() -> bytes:
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[:, 24:] = (250, 240, 230)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Scaled(nn.Module):
    """A class for each pixel that says whether it is brighter than its surroundings: of whatever size."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        grey = image.mean(1, keepdim=True)
        return torch.cat([grey, functional.avg_pool2d(grey, 5, 1, 2)], 1)


class Doubled(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(image, scale_factor=2, mode="bilinear")


@pytest.fixture(scope="module")
def ranged(artifacts: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Artifacts that take a range of sizes, on the same node."""
    folder, found = tmp_path_factory.mktemp("ranges"), {}
    for task, module in (("segment", Scaled()), ("restore", Doubled())):
        out = folder / f"ranged-{task}"
        steps = {"mean": 0, "std": 1, "crop": "pad"}
        edgevit.export(module, "onnx", out=out, image_size="16-48/8", task=task, preprocess=steps)
        found[task] = out
        deploy(out, Link(), replace_after_s=3600)
    return found


@pytest.mark.parametrize("task", ["segment", "restore"])
@pytest.mark.parametrize("size", [(24, 48), (20, 33), (70, 90)])
def test_a_fleet_sees_a_picture_at_its_own_size_as_this_process_does(
    ranged: Mapping[str, Path], task: str, size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    (expected,) = edgevit.predict(ranged[task], pixels, threads=1)
    reached = reach(ranged[task], link=Link(), where="fleet")
    assert reached is not None
    model = FleetModel(reached, task)
    try:
        looked = model.look(file.getvalue(), 20.0)
        rows = np.zeros((2, 3, 16, 40), np.float32)
        outputs = model.infer({"image": rows}, 20.0).outputs
        with pytest.raises(UsageError, match="takes images of 16-48/8, not 20x40"):
            model.infer({"image": np.zeros((1, 3, 20, 40), np.float32)}, 20.0)
    finally:
        model.close()
    assert looked.answer is not None
    assert looked.pixels is not None
    assert (looked.answer.drawn(looked.pixels) == expected.drawn()).all()
    assert [one.shape[2:] for one in outputs.values()] == [(16, 40) if task == "segment" else (32, 80)]


@pytest.mark.parametrize("task", TASKS)
def test_a_fleet_answers_as_this_process_does(artifacts: Mapping[str, Path], task: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    (expected,) = edgevit.predict(artifacts[task], tmp_path / "photo.png", threads=1)
    reached = reach(artifacts[task], link=Link(), where="fleet")
    assert reached is not None
    model = FleetModel(reached, task)
    try:
        looked = model.look(png(), 20.0)
        rows = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
        outputs = model.infer({"image": rows}, 20.0).outputs
    finally:
        model.close()
    assert (model.task, model.draws) == (task, task not in ("embed", "tensors"))
    assert looked.answer is not None
    assert looked.answer.words() == expected.answer.words()
    drawn = expected.drawn()
    if drawn is not None and looked.pixels is not None:
        assert (looked.answer.drawn(looked.pixels) == drawn).all()
    with edgevit.open_session(artifacts[task], threads=1) as session:
        for name, array in session.infer({"image": rows}).items():
            np.testing.assert_allclose(outputs[name], array, atol=1e-6)


def run(*args: object) -> tuple[int, str]:
    ran = CliRunner().invoke(app, ["infer", *map(str, args), "--deadline", "20s"])
    return ran.exit_code, ran.stdout


@pytest.mark.parametrize("where", ["fleet", "embedded"])
@pytest.mark.parametrize("task", TASKS)
def test_infer_says_and_draws_what_predict_does(
    artifacts: Mapping[str, Path], task: str, where: str, tmp_path: Path
) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    photo.write_bytes(png())
    (expected,) = edgevit.predict(artifacts[task], photo, threads=1)
    drawn = expected.drawn()
    code, said = run(artifacts[task], photo, "--where", where, "--json", *(() if drawn is None else ("-o", out)))
    assert code == 0
    (found,) = json.loads(said)
    record = json.loads(json.dumps(expected.record()))
    assert {name: found[name] for name in record} == record
    assert (found["where"], found["parts"], found["answered"], found["missing"]) == (where, 1, 1, [])
    if drawn is not None:
        assert (np.asarray(Image.open(out)) == drawn).all()


def test_a_table_of_infer_has_the_columns_of_the_task(artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    code, said = run(artifacts["detect"], tmp_path / "photo.png", "--where", "fleet", "--csv", "-")
    assert code == 0
    header, *lines = csv.reader(said.splitlines())
    assert header == [
        "image", "frame", "seconds", "label", "index", "score", "x0", "y0", "x1", "y1", "where", "parts", "answered",
        "degraded", "missing", "latency_ms", "error",
    ]  # fmt: skip
    assert [line[3] for line in lines] == ["bright", "dark"]


def test_answers_that_cannot_be_seen_are_not_drawn_by_infer_either(
    artifacts: Mapping[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    for task in ("embed", "tensors"):
        with pytest.raises(UsageError, match="cannot be drawn"):
            CliRunner().invoke(
                app, ["infer", str(artifacts[task]), str(tmp_path / "photo.png"), "-o", str(tmp_path / "out")],
                catch_exceptions=False,
            )  # fmt: skip


def test_a_picture_larger_than_its_model_is_restored_in_tiles_by_the_fleet(
    artifacts: Mapping[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    steps = Steps(mean=(0.0,) * 3, std=(1.0,) * 3, crop="pad", interpolation="bilinear")
    padded = tmp_path / "padded"
    edgevit.export(Net("restore").eval(), "onnx", out=padded, image_size=SIDE, task="restore", preprocess=steps)
    deploy(padded, Link(), replace_after_s=3600)
    (expected,) = edgevit.predict(padded, tmp_path / "photo.png", threads=1)
    reached = reach(padded, link=Link(), where="fleet")
    assert reached is not None
    model = FleetModel(reached, "padded")
    try:
        looked = model.look(png(), 20.0)
    finally:
        model.close()
    assert looked.answer is not None
    assert looked.answer.words() == "a picture of 96×48 pixels"
    assert looked.pixels is not None
    assert (looked.answer.drawn(looked.pixels) == expected.drawn()).all()


def test_answers_too_large_for_a_node_are_refused_before_anything_is_placed(
    artifacts: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "MAX_PAYLOAD", 100)
    with pytest.raises(Unsupported, match="2,048 bytes in 1 outputs; a node sends at most 100"):
        deploy(artifacts["segment"], Link(), replace_after_s=3600)
