"""Benchmarks with real exports and workers, beside a target that crashes and others that cannot be done here."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from brief import BRIEF

from edgevit import benchmark, worker
from edgevit.benchmark import COLUMNS, BenchmarkJob, Row, failures, target_names
from edgevit.benchmark.exports import export_in_worker
from edgevit.benchmark.ledger import FILE, Ledger
from edgevit.errors import (
    BadArtifact,
    ExportFailed,
    GateMissed,
    Interrupted,
    MissingDependency,
    UnknownName,
    Unsupported,
    UsageError,
    WorkerFailed,
)
from edgevit.profiles import latency
from edgevit.profiles.gates import Figure
from edgevit.registry import pip_line
from edgevit.request import ExportRequest, ModelChoice, parse_batch, split_options

PLUGIN = Path(__file__).parent / "plugins" / "bench"
TARGETS = ("absent", "onnx", "crashing")


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Any:
    """What it offers is registered here and in workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLUGIN))
        patch.setenv("PYTHONPATH", str(PLUGIN), prepend=os.pathsep)
        patch.setitem(latency.TIERS, "quick", BRIEF)
        yield


def silent(_subject: str) -> Any:
    return lambda stage, fraction: None


def job(out: Path, **options: Any) -> BenchmarkJob:
    """Options of the export and of the measurement, as the command line gives them."""
    models, targets = options.pop("models", ("vit_nano",)), target_names(options.pop("targets", ("onnx",)))
    asked = {name: options.pop(name) for name in ("threads", "force", "batch") if name in options}
    model = ModelChoice(models[0] if models else "", weights="digits")
    given = split_options(options.pop("options", ()), targets)
    export = ExportRequest(model, targets, options=given, out=out, **{"threads": 1, **asked})
    return BenchmarkJob(models, export, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    """vit_nano on three targets and all runtimes, measured once."""
    named = ("onnxruntime", "twin", "dying", "lunar")
    return benchmark.run(job(folder, targets=TARGETS, runtimes=named), silent)


def by(rows: list[Row], target: str, runtime: str | None = None) -> Row:
    (found,) = (row for row in rows if (row.target, row.runtime) == (target, runtime))
    return found


def no_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on an export, or a measurement, in a worker is an error."""

    def refused(target: str, payload: Any, **options: Any) -> Any:
        raise AssertionError(f"{target} was called again")

    monkeypatch.setattr(worker, "call", refused)


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports in this process, which has torch already: in tests where none of them crashes."""
    real = worker.call

    def call(target: str, payload: Any, **options: Any) -> Any:
        if target == "edgevit.benchmark.exports:export_in_worker":
            return json.loads(json.dumps(export_in_worker(json.loads(json.dumps(payload)))))
        return real(target, payload, **options)

    monkeypatch.setattr(worker, "call", call)


def test_a_row_holds_everything_that_was_found(rows: list[Row]) -> None:
    record = json.loads(json.dumps(by(rows, "onnx", "onnxruntime").record()))
    assert record["exit_code"] == 0
    assert record["parity"]["status"] == "verified"
    assert record["accuracy"]["top1"] >= 0.97  # on the digits that its checkpoint was held out from
    assert record["accuracy"]["data"] == "digits"
    assert record["bytes"] > 100_000
    assert record["p50_ms"] > 0
    assert record["throughput"] > 0
    assert record["verdict"] in ("STEADY", "UNSTABLE", "DRIFTING", "THROTTLED", "TOO_SHORT")
    assert Path(record["profile"]).is_file()
    assert record["key_fields"]["threads"] == 1
    assert record["files"]["model.onnx"]


def test_every_runtime_that_was_named_has_its_row(rows: list[Row]) -> None:
    assert [row.runtime for row in rows if row.target == "onnx"] == ["onnxruntime", "twin", "dying", "lunar"]
    assert by(rows, "onnx", "twin").error is None


def test_failures_are_rows_with_their_reason_and_the_others_go_on(rows: list[Row]) -> None:
    absent = by(rows, "absent").error
    assert isinstance(absent, MissingDependency)
    assert absent.hint == pip_line("edgevit[absent]")
    crashed = by(rows, "crashing").error
    assert isinstance(crashed, ExportFailed)
    assert "SIGSEGV" in str(crashed)
    died = by(rows, "onnx", "dying").error
    assert isinstance(died, WorkerFailed)
    assert "SIGSEGV" in str(died)
    away = by(rows, "onnx", "lunar").error
    assert isinstance(away, Unsupported)
    assert str(away) == "needs a moon base"


def test_the_exit_code_is_that_of_the_first_failure(rows: list[Row]) -> None:
    codes = [row.error.exit_code for row in failures(rows) if row.error]
    assert codes == [3, 1, 4, 5]


def test_a_line_of_the_table_has_every_column(rows: list[Row]) -> None:
    for row in rows:
        assert len(row.cells()) == len(COLUMNS)
    line = by(rows, "onnx", "dying").cells()
    assert line[:3] == ("vit_nano", "onnx", "dying")
    assert line[-1].endswith("(exit 1)")
    assert by(rows, "absent").cells()[3:-1] == ("—",) * 8


def test_what_was_measured_is_not_measured_again(
    folder: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_exports(monkeypatch)
    again = benchmark.run(job(folder, runtimes=("onnxruntime", "twin")), silent)
    assert [row.reused for row in again] == [True, True]
    first = by(rows, "onnx", "twin")
    assert again[1].record() == {**first.record(), "reused": True}
    assert again[1].cells() == first.cells()


def test_another_request_measures_the_same_artifact_again(folder: Path, rows: list[Row]) -> None:
    stages: list[str] = []
    (row,) = benchmark.run(
        job(folder, provider="cpu"), lambda subject: lambda stage, fraction: stages.append(f"{subject}: {stage}")
    )
    assert not row.reused
    assert row.artifact == by(rows, "onnx", "onnxruntime").artifact
    assert not any(stage.startswith("vit_nano: ") for stage in stages)  # no export
    assert "vit_nano → onnx on onnxruntime: verify" in stages
    assert row.record()["accuracy"]["images"] == 360


def test_a_gate_that_is_missed_fails_with_10_and_keeps_the_measurement(
    folder: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_exports(monkeypatch)
    asked = job(folder, runtimes=("twin",), fail_if=("p50>1us", "size>1GB", "p99>1s"))
    (row,) = benchmark.run(asked, silent)
    assert isinstance(row.error, GateMissed)
    assert row.error.exit_code == 10
    missed, *unjudged = str(row.error).split("; ", 1)
    assert missed.startswith("p50 is ")
    assert missed.endswith(": p50>1us")
    if row.figures()["p99"].value is None:
        assert "p99>1s cannot be judged: needs ≥ 662 samples" in unjudged[0]
    else:  # a fast machine takes enough samples in its time
        assert not unjudged
    assert row.profile is not None
    assert row.cells()[-1] == f"{row.profile.verdict}; {row.error} (exit 10)"
    (passed,) = benchmark.run(job(folder, runtimes=("twin",), fail_if=("size>1GB", "accuracy<90%")), silent)
    assert passed.error is None
    assert passed.reused


def test_a_row_that_failed_is_tried_again(folder: Path, rows: list[Row]) -> None:
    (row,) = benchmark.run(job(folder, runtimes=("dying",)), silent)
    assert not row.reused
    assert isinstance(row.error, WorkerFailed)


def test_the_ledger_lists_every_row(folder: Path, rows: list[Row]) -> None:
    kept = json.loads((folder / FILE).read_text())["rows"]
    assert {(row["target"], row["runtime"]) for row in kept} == {(row.target, row.runtime) for row in rows}


@pytest.fixture
def copied(folder: Path, rows: list[Row], tmp_path: Path) -> Path:
    """The finished folder, moved to another place."""
    return shutil.copytree(folder, tmp_path / "copied")


@pytest.mark.usefixtures("at_home")
def test_an_interrupt_keeps_what_was_finished_and_the_same_command_goes_on(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(copied, models=("vit_nano", "fmvit_nano"))

    def stop_in_the_second(subject: str) -> Any:
        def progress(stage: str, fraction: float | None) -> None:
            if subject == "fmvit_nano → onnx on onnxruntime":
                raise KeyboardInterrupt

        return progress

    with pytest.raises(Interrupted, match="1 row finished and kept") as caught:
        benchmark.run(asked, stop_in_the_second)
    assert caught.value.exit_code == 130
    assert caught.value.hint == "run the same command again to go on"
    called: list[str] = []
    real = worker.call
    monkeypatch.setattr(
        worker, "call", lambda target, *args, **more: called.append(target) or real(target, *args, **more)
    )
    one, two = benchmark.run(asked, silent)
    assert (one.reused, two.reused) == (True, False)
    assert "edgevit.benchmark.exports:export_in_worker" not in called
    assert len(called) == 2  # verify and profile of the second model


def model_file(folder: Path) -> Path:
    return folder / "vit_nano-onnx-fp32" / "model.onnx"


def test_a_folder_that_was_moved_keeps_its_rows(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_exports(monkeypatch)
    (row,) = benchmark.run(job(copied, runtimes=("twin",)), silent)
    assert row.reused
    assert str(row.saved).startswith(str(copied))


@pytest.mark.usefixtures("at_home")
def test_an_artifact_that_was_published_before_the_interrupt_is_taken(copied: Path) -> None:
    """As when Ctrl-C comes between two targets: nothing was noted of the first but that it had begun."""
    ledger = Ledger(copied)
    del ledger.exports["vit_nano → onnx"]["folder"]
    ledger.save()
    made = model_file(copied).stat().st_mtime_ns
    (again,) = benchmark.run(job(copied, runtimes=("twin",)), silent)
    assert again.error is None
    assert again.reused
    assert model_file(copied).stat().st_mtime_ns == made


@pytest.mark.usefixtures("at_home")
def test_force_does_everything_again_and_a_target_that_declines_says_why(copied: Path) -> None:
    made = model_file(copied).stat().st_mtime_ns
    asked = job(copied, targets=("picky", "onnx"), runtimes=("twin",), force=True)
    declined, again = benchmark.run(asked, silent)
    assert isinstance(declined.error, Unsupported)
    assert (str(declined.error), declined.error.hint) == ("picky has no Softmax", "use -t onnx")
    assert again.error is None
    assert not again.reused
    assert model_file(copied).stat().st_mtime_ns > made


@pytest.mark.usefixtures("at_home")
def test_an_artifact_of_another_request_is_left_alone(copied: Path) -> None:
    made = model_file(copied).stat().st_mtime_ns
    (other,) = benchmark.run(job(copied, batch=parse_batch("1-4")), silent)
    assert isinstance(other.error, UsageError)
    assert "exists already" in str(other.error)
    assert model_file(copied).stat().st_mtime_ns == made


def test_an_altered_artifact_is_a_row_that_says_so(copied: Path) -> None:
    with model_file(copied).open("ab") as stream:
        stream.write(b"x")
    (altered,) = benchmark.run(job(copied), silent)
    assert isinstance(altered.error, BadArtifact)
    assert altered.error.hint == "add --force to export it again"


@pytest.mark.usefixtures("at_home")
def test_a_model_that_does_not_exist_is_a_row_for_each_target(tmp_path: Path) -> None:
    found = benchmark.run(job(tmp_path, models=("vit_nan",), targets=("onnx", "picky")), silent)
    assert [type(row.error) for row in found] == [UnknownName, UnknownName]
    assert "vit_nano" in str(found[0].error and found[0].error.hint)


def test_what_ran_is_ranked_on_every_runtime_and_the_rest_says_why_not(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = job(copied, targets=("onnx", "absent"), runtimes=("onnxruntime", "twin", "dying"), rank_s=2.0)
    found = benchmark.run(kept, silent)
    stages: list[str] = []
    (answer,) = benchmark.ranked(kept, found, lambda subject: lambda stage, fraction: stages.append(stage))
    assert stages[0] == "which is fastest? 2 in turns, at most about 2 s (--rank-seconds, --no-rank)"
    assert answer.ranking
    assert {one.entrant.runtime for one in answer.ranking.standings} == {"onnxruntime", "twin"}
    assert [one.name for one in answer.left_out] == ["onnx on dying", "absent"]
    assert all(one.entrant.quality and one.entrant.max_rel for one in answer.ranking.standings)
    assert answer.sentence().startswith("vit_nano: ")
    first, dying = (answer.of_row(by(found, "onnx", name)) for name in ("onnxruntime", "dying"))
    assert first["place"] in (1, 2)
    assert (dying["place"], dying["answer"]) == (None, answer.sentence())
    assert len(list((copied / "vit_nano-onnx-fp32" / "rankings").glob("*.json"))) == 1
    no_exports(monkeypatch)
    monkeypatch.setattr(worker, "talk", None)
    (again,) = benchmark.ranked(kept, found, silent)
    assert (again.reused, again.sentence()) == (True, answer.sentence())


def test_of_one_alone_nothing_is_said_but_that(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_exports(monkeypatch)
    alone = job(copied, runtimes=("twin",))
    (answer,) = benchmark.ranked(alone, benchmark.run(alone, silent), silent)
    assert answer.sentence() == (
        "vit_nano: vit_nano-onnx-fp32 on twin is the only one that can be ranked here, so nothing is"
    )
    (none,) = benchmark.ranked(alone, [Row("vit_nano", "onnx", error=Unsupported("needs a moon"))], silent)
    assert none.sentence() == "vit_nano: there is nothing here that can be ranked"
    assert none.notes() == ["not ranked: onnx: needs a moon"]


def test_targets_that_all_brings_in_fail_no_command() -> None:
    brought = Row("m", "tensorrt", error=Unsupported("needs an NVIDIA GPU"), elsewhere=True)
    named = Row("m", "tensorrt", error=Unsupported("needs an NVIDIA GPU"))
    assert failures([brought]) == []
    assert failures([brought, named]) == [named]
    assert brought.record()["exit_code"] == 4


def test_all_means_every_known_target_and_none_is_left_out() -> None:
    assert {*TARGETS, "picky"} <= set(target_names(["all"]))
    assert target_names(["onnx", "onnx"]) == ("onnx",)


def test_requests_that_cannot_be_right_end_before_any_work(tmp_path: Path) -> None:
    for wrong, kind in (
        ({"models": ()}, UsageError),
        ({"tier": "quik"}, UnknownName),
        ({"threads": 0}, UsageError),
        ({"targets": ("onx",)}, UnknownName),
        ({"runtimes": ("onxruntime",)}, UnknownName),
        ({"fail_if": ("p9>1ms",)}, UnknownName),
        ({"options": ("onnx.opset",)}, UsageError),
    ):
        with pytest.raises(kind):
            benchmark.run(job(tmp_path / "new", **wrong), silent)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_hold_the_results_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        benchmark.run(job(tmp_path / "file"), silent)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(BadArtifact, match="not a record of a benchmark"):
        benchmark.run(job(tmp_path), silent)


def test_a_figure_that_is_missing_says_why() -> None:
    found = Row("m", "t").figures()
    assert found["accuracy"] == Figure(None, "there were no labelled images: add --data")
    unproved = Row("m", "t", parity={"status": "unverified", "reason": "needs a GPU", "max_rel": None})
    assert unproved.figures()["max_rel"] == Figure(None, "needs a GPU")
    assert unproved.figures()["parity"].value == "unverified"
