"""The whole story, as `edgevit quickstart` tells it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from brief import BRIEF

from edgevit import quickstart
from edgevit.profiles import latency
from edgevit.profiles.interleave import Comparison
from edgevit.profiles.statistics import Ratio
from edgevit.profiles.verdict import Finding


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
        patch.setattr(quickstart, "COMPARE_S", 0.3)
        done = quickstart.run(out, threads=1, progress=lambda stage, fraction: stages.append(stage))
    assert len(stages) >= 7
    return done


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
    assert set(json.loads(json.dumps(story.record()))) == {"artifacts", "verify", "profile", "compare", "predict"}


def test_how_much_faster_the_deploy_form_is_was_measured_in_turns(story) -> None:
    found = story.difference
    assert [Path(side.artifact).name for side in (found.first, found.second)] == [
        "fmvit_nano-train",
        "fmvit_nano-deploy",
    ]
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert story.rows()[-1] == ("measured in turns", "1×", found.short())
    assert f"measured in turns: {found.sentence()}" in story.lines()


def told(story, ratio: Ratio, *rounds: Ratio, verdict: str = "UNSTABLE") -> list[str]:
    """The last line of the table and the story's end, had this been measured."""
    compared = tuple(Comparison("train", "deploy", one, 15) for one in rounds)
    doubts = (Finding(verdict, "two modes, 1 ms and 2 ms", "run again"),) if verdict != "STEADY" else ()
    profiles = {form: replace(measured, findings=doubts) for form, measured in story.profiles.items()}
    found = replace(story, difference=replace(story.difference, ratio=ratio, rounds=compared), profiles=profiles)
    return [
        found.rows()[-1][-1],
        *found.lines()[found.lines().index(f"measured in turns: {found.difference.sentence()}") :],
    ]


def test_a_ratio_that_repeats_is_claimed_though_no_absolute_figure_is_steady(story) -> None:
    half = Ratio(0.43, 0.42, 0.45)
    cell, sentence, unsteady = told(story, half, half, half)
    assert cell == "2.33× faster, 2.22–2.38"
    assert sentence.endswith("is 2.33× faster than fmvit_nano-train, 95 % CI 2.22–2.38")
    assert unsteady == (
        "p50 and p90 are of this moment on this machine (train form UNSTABLE: two modes, 1 ms and 2 ms; deploy form "
        "UNSTABLE: two modes, 1 ms and 2 ms); edgevit profile tells all and what to do"
    )


def test_where_all_is_steady_nothing_is_excused_and_what_does_not_repeat_is_not_claimed(story) -> None:
    cell, sentence = told(story, Ratio(1.0, 0.8, 1.3), Ratio(1.0, 0.8, 1.3), verdict="STEADY")
    assert cell == "1.00 of the time, 0.80–1.30"
    assert "no difference larger than 2 % can be claimed" in sentence


def test_a_second_run_replaces_the_first(story) -> None:
    assert [artifact.path.name for artifact in story.artifacts.values()] == ["fmvit_nano-train", "fmvit_nano-deploy"]
    assert not any((artifact.path / "earlier.onnx").exists() for artifact in story.artifacts.values())


def test_nothing_else_appears_in_the_folder(story) -> None:
    assert {path.name for path in Path(story.out).iterdir()} == {"digits", "fmvit_nano-deploy", "fmvit_nano-train"}
