"""The whole story, as `edgevit quickstart` tells it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from brief import BRIEF

from edgevit.profiles import latency
from edgevit.quickstart import run


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory):
    """Told in a folder that has the remains of an earlier run."""
    out, stages = tmp_path_factory.mktemp("quickstart"), list[str]()
    for folder in ("fmvit_nano-train", "fmvit_nano-deploy"):
        (out / folder).mkdir()
        for file in ("edgevit.json", "earlier.onnx"):
            (out / folder / file).write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(latency.TIERS, "quick", BRIEF)
        told = run(out, threads=1, progress=lambda stage, fraction: stages.append(stage))
    assert len(stages) >= 7
    return told


def test_the_artifacts_are_as_accurate_as_the_model(story) -> None:
    for form in ("train", "deploy"):
        accuracy = story.verified[form].accuracy
        assert accuracy.images == 360
        assert accuracy.top1 == accuracy.recorded == story.artifacts[form].manifest.accuracy.top1
        assert accuracy.top1 >= 0.975


def test_the_deploy_form_is_smaller_and_proved(story) -> None:
    train, deploy = (story.artifacts[form].manifest for form in ("train", "deploy"))
    assert deploy.model.params < train.model.params
    assert deploy.reparam.max_rel_error <= 1e-10
    assert deploy.reparam.left == {}
    assert train.reparam is None


def test_the_digits_are_real_pngs_and_most_are_read_right(story) -> None:
    assert len(list((story.out / "digits").glob("*.png"))) == 5
    right = sum(answer.top[0].label == truth for truth, answer in story.predictions)
    assert right >= 4


def test_the_table_has_both_forms_and_the_record_is_json(story) -> None:
    assert all(len(row) == 3 for row in story.rows())
    assert any("digits right" in line for line in story.lines())
    assert set(json.loads(json.dumps(story.record()))) == {"artifacts", "verify", "profile", "predict"}


def test_a_second_run_replaces_the_first(story) -> None:
    assert [artifact.path.name for artifact in story.artifacts.values()] == ["fmvit_nano-train", "fmvit_nano-deploy"]
    assert not any((artifact.path / "earlier.onnx").exists() for artifact in story.artifacts.values())


def test_nothing_else_appears_in_the_folder(story) -> None:
    assert {path.name for path in Path(story.out).iterdir()} == {"digits", "fmvit_nano-deploy", "fmvit_nano-train"}
