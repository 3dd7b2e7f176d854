"""Single artifacts of every task on a real node, and what a fleet does not answer."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from fleet.fleet_nodes import nodes, wait_live
from PIL import Image
from task_models import all_exported

import edgevit
from edgevit.errors import Unsupported
from edgevit.fleet.asking.infer import infer_images
from edgevit.fleet.asking.where import reach
from edgevit.fleet.bus.link import Link
from edgevit.fleet.gateway.answering import FleetModel
from edgevit.fleet.operating.deploy import deploy

ONE_OUTPUT = ("segment", "restore", "depth", "embed")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Path]]:
    """On one node, those that give one output."""
    folder = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVIT_HOME", str(folder / "home"))
        found = all_exported(folder)
        with nodes(folder / "home", "one"):
            wait_live(Link(), "one")
            for task in ONE_OUTPUT:
                deploy(found[task], Link(), replace_after_s=3600)
            yield found


def png() -> bytes:
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[:, 24:] = (250, 240, 230)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("task", ONE_OUTPUT)
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
    assert (model.task, model.draws) == (task, task != "embed")
    assert looked.answer is not None
    assert looked.answer.words() == expected.answer.words()
    drawn = expected.drawn()
    if drawn is not None and looked.pixels is not None:
        assert (looked.answer.drawn(looked.pixels) == drawn).all()
    with edgevit.open_session(artifacts[task], threads=1) as session:
        for name, array in session.infer({"image": rows}).items():
            np.testing.assert_allclose(outputs[name], array, atol=1e-6)


def test_infer_names_classes_and_refuses_what_has_none(artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    for where in ("fleet", "embedded"):
        with pytest.raises(Unsupported, match="no classifier"):
            list(infer_images(artifacts["depth"], [tmp_path / "photo.png"], where=where))


@pytest.mark.parametrize("task", ["detect", "tensors"])
def test_several_outputs_are_refused_before_anything_is_placed(artifacts: Mapping[str, Path], task: str) -> None:
    with pytest.raises(Unsupported, match="outputs; a fleet takes one and gives one"):
        deploy(artifacts[task], Link(), replace_after_s=3600)
