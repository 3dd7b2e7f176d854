"""How good a model is travels one way for every task: from export over profile and benchmark into the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import judged_models
import pytest
from brief import BRIEF
from judged_models import CASES
from typer.testing import CliRunner

from edgevit.artifact.opened import Artifact
from edgevit.cli import app
from edgevit.errors import GateMissed
from edgevit.profiles import latency
from edgevit.profiles.latency import profile
from edgevit.profiles.outcomes import Outcome, demands
from edgevit.profiles.ranking.entrants import Runner
from edgevit.profiles.ranking.record import Entrant
from edgevit.profiles.report import report
from edgevit.proof.accuracy import model_sha256

Exported = Callable[[str], tuple[Path, str]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return judged_models.exporter(tmp_path_factory)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency.TIERS, "quick", BRIEF)


@pytest.mark.parametrize("task", CASES)
def test_the_metric_of_the_file_that_was_timed_is_bound_to_its_hash(exported: Exported, task: str) -> None:
    path, data = exported(task)
    measured = profile(path, threads=1, data=data)
    stated = measured.record()["quality"]
    assert (stated["metric"], stated["data"]) == (CASES[task].metric, data)
    assert stated["value"] == pytest.approx(CASES[task].value, abs=1e-3)
    assert stated["sha256"] == model_sha256(Artifact.open(path).manifest)
    assert measured.record()["accuracy"] is None
    (line,) = (one for one in Outcome("it", measured.kept).lines() if CASES[task].metric in one)
    assert line.endswith(f"images of {data} (model sha256 {stated['sha256'][:12]}…)")


def test_a_gate_asks_for_the_quality_of_every_task(exported: Exported) -> None:
    path, data = exported("segment")
    outcome = Outcome("it", profile(path, threads=1, data=data).kept)
    assert demands(fail_if=("quality<0.7",)).judged(outcome).error is None
    missed = demands(fail_if=("quality<80%",)).judged(outcome).error
    assert isinstance(missed, GateMissed)
    assert str(missed) == "quality is 0.775: quality<80%"
    another = demands(fail_if=("accuracy<80%",)).judged(outcome).error
    assert "cannot be judged: it is judged by mIoU 0.775 (pixel accuracy 0.875), which quality is" in str(another)
    unjudged = Outcome("it", profile(path, threads=1).kept)
    assert "nothing said what is true" in str(demands(fail_if=("quality<1",)).judged(unjudged).error)


def test_data_that_says_nothing_of_the_task_is_timed_and_the_missing_figure_is_explained(exported: Exported) -> None:
    path, data = exported("depth")[0], exported("restore")[1]
    measured = profile(path, threads=1, data=data)
    assert measured.quality is None
    assert any("quality was not measured" in note and "says nothing that depth is judged by" in note
               for note in measured.notes)  # fmt: skip


def test_the_report_shows_whose_metric_it_is_and_ranks_none_against_another(exported: Exported, tmp_path: Path) -> None:
    folders = [exported(task)[0] for task in ("restore", "depth")]
    profile(folders[1], threads=1, data=exported("depth")[1])
    profile(folders[0], threads=1)
    rows = json.loads(str(report(folders, format="json")))["rows"]
    named = [(row["metric"], row["value_of"]) for row in rows]
    assert named == [("PSNR", "source model"), ("AbsRel", "artifact")]
    assert rows[0]["value"] == pytest.approx(CASES["restore"].value, abs=1e-3)
    (first, _) = csv.DictReader(str(report(folders, format="csv")).splitlines())
    assert (first["metric"], float(first["value"])) == ("PSNR", rows[0]["value"])
    assert f"PSNR {rows[0]['value']:.4g} dB" in str(report(folders, format="md"))
    page = Path(report(folders, tmp_path / "report.html")).read_text()
    assert f"PSNR {rows[0]['value']:.4g} dB" in page
    assert '"text":"PSNR, dB"' in page
    assert '"text":"AbsRel"' in page
    assert "AbsRel of the artifact on " in page


def test_a_benchmark_has_the_metric_in_its_table_and_its_json_and_keeps_it(exported: Exported, tmp_path: Path) -> None:
    source = tmp_path / "model.py"
    source.write_text(
        "import torch\n"
        "class Shade(torch.nn.Module):\n"
        "    def forward(self, image):\n"
        "        return image.mean(dim=1) + 1.0\n"
        "def shade():\n"
        "    return Shade()\n"
    )
    asked = [
        "benchmark", f"{source}:shade", "-t", "onnx", "--task", "depth", "--image-size", "16", "--threads", "1",
        "--data", exported("depth")[1], "-o", str(tmp_path / "out"), "--no-rank",
    ]  # fmt: skip
    ran = CliRunner().invoke(app, [*asked, "--json"])
    assert ran.exit_code == 0, ran.exception
    (row,) = json.loads(ran.stdout)
    found = row["quality"]
    assert (found["metric"], found["recorded"]) == ("AbsRel", pytest.approx(found["value"], abs=1e-5))
    assert (row["accuracy"], row["reused"]) == (None, False)
    (again,) = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert (again["reused"], again["quality"]) == (True, found)
    table = CliRunner().invoke(app, asked).stdout
    assert f"AbsRel {found['value']:.4g}" in table
    assert "quality" in table.splitlines()[1]


def test_a_ranking_names_the_metric_and_reads_the_top_1_of_older_files(exported: Exported) -> None:
    entrant = Runner(Artifact.open(exported("segment")[0]), "onnxruntime").entrant()
    assert entrant.quality is not None
    assert entrant.quality.metric == "mIoU"
    older = {**entrant.model_dump(mode="json", exclude={"quality"}), "top1": 0.98, "data": "digits", "images": 360}
    kept = Entrant.model_validate(older).quality
    assert kept is not None
    assert kept.sentence("model") == "top-1 98.00% of the model on 360 images of digits"
