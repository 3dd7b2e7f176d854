"""The report shows what an artifact answers beside its model: in pictures, in words, and where it cannot be run."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from PIL import Image
from task_models import all_exported

from edgevit.artifact.files import sha256_of
from edgevit.artifact.golden import GOLDEN, write_golden
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.artifact.seal import sealed
from edgevit.profiles.report import report
from edgevit.profiles.report.beside import section
from edgevit.profiles.report.collect import collect
from edgevit.proof.verify import verify
from edgevit.tasks.palette import MARK

DRAWN = ("segment", "restore", "depth", "detect")
SAYS = {
    "segment": "every pixel has the same label",
    "restore": "the same in every byte",
    "depth": "of the largest value apart",
    "detect": "2 of 2 objects found by both",
    "embed": "cosine 1.0000000",
    "tensors": "of the largest value apart",
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return all_exported(tmp_path_factory.mktemp("tasks"))


def shown(*folders: Path) -> str:
    return str(section(collect(list(folders)).rows))


def pictures_in(html: str) -> list[np.ndarray]:
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in data]


@pytest.mark.parametrize("task", SAYS)
def test_every_task_is_shown_as_model_artifact_and_difference(artifacts: Mapping[str, Path], task: str) -> None:
    html = shown(artifacts[task])
    assert f"{task}, golden picture" in html
    assert [html.count(f"<strong>{what}</strong>") for what in ("model", "artifact", "difference")] == [1, 1, 1]
    assert SAYS[task] in html
    assert len(pictures_in(html)) == (3 if task in DRAWN else 0)
    assert re.findall(r'alt="(\w+):', html) == (["model", "artifact", "difference"] if task in DRAWN else [])


def with_other_labels(path: Path, folder: Path) -> Path:
    """A copy of a segmenter whose golden outputs call the first row of the third picture bright."""
    shutil.copytree(path, folder)
    artifact = Artifact.open(folder)
    inputs, outputs = artifact.golden()
    ((name, scores),) = outputs.items()
    scores = scores.copy()
    scores[2, :, 0] = [[-9.0], [9.0]]
    shutil.rmtree(folder / "golden")
    write_golden(folder, {**inputs, name: scores}, Artifact.open(path).golden_pixels())
    files = {**artifact.manifest.files, GOLDEN: sha256_of(folder / GOLDEN)}
    files |= {name: sha256_of(folder / name) for name in files if name.startswith("golden/")}
    manifest = sealed(artifact.manifest.model_copy(update={"files": files}))
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    (folder / "edgevit.sig").unlink(missing_ok=True)
    return folder


def test_the_picture_that_differs_most_is_shown_and_where(artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    html = shown(with_other_labels(artifacts["segment"], tmp_path / "altered"))
    assert "golden picture 3 of 4" in html
    assert "labels differ at" in html
    model, artifact, difference = pictures_in(html)
    assert model.shape == artifact.shape == difference.shape
    yellow = (difference == MARK).all(axis=2)
    assert yellow[: len(yellow) // 16 - 1].any()
    assert not yellow[len(yellow) // 16 + 2 :].any()
    assert (model[0] != artifact[0]).any()


def test_an_artifact_that_cannot_be_run_here_is_said_and_its_model_is_shown(
    artifacts: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(artifacts["depth"], folder)
    artifact = Artifact.open(folder)
    manifest = sealed(artifact.manifest.model_copy(update={"target": "tensorrt"}))
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    html = shown(folder)
    assert "The artifact could not be run here: " in html
    assert len(pictures_in(html)) == 1
    assert "<strong>artifact</strong>" not in html


def test_verify_says_the_same_in_the_words_of_the_task(artifacts: Mapping[str, Path]) -> None:
    for task, said in SAYS.items():
        (sentence,) = (one for one in verify(artifacts[task], threads=1).checks if one.startswith(f"{task}, "))
        assert sentence.startswith(f"{task}, the worst of 4 golden pictures: ")
        assert said in sentence


def test_the_page_shows_its_pictures_in_the_light_and_in_the_dark(
    artifacts: Mapping[str, Path], tmp_path: Path
) -> None:
    page_file = Path(report([artifacts[task] for task in ("segment", "embed")], tmp_path / "report.html"))
    heard: list[str] = []
    with chromium() as browser:
        for theme in ("light", "dark"):
            page = browser.new_page(color_scheme=theme, viewport={"width": 400, "height": 800})
            page.on("console", lambda message: heard.append(message.text))
            page.goto(page_file.as_uri())
            assert page.locator("#beside img").count() == 3
            drawn = "all => all.every(one => one.complete && one.naturalWidth > 0 && one.clientWidth > 60)"
            assert page.locator("#beside img").evaluate_all(drawn)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert heard == []
