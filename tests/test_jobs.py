"""Several targets in one command."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit import jobs, registry
from edgevit.errors import MissingDependency, UnknownName, UsageError
from edgevit.registry import Row

ABSENT = Row("absent", "nowhere:Nothing", "edgevit[absent]", ("a-package-that-is-not",), "")


def silent(_target: str) -> jobs.Progress:
    return lambda stage, fraction: None


@pytest.fixture
def with_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "EXPORTERS", {"absent": ABSENT, **registry.EXPORTERS})


def test_options_go_to_the_target_that_they_name() -> None:
    split = jobs.split_options(["onnx.opset=18", "absent.level=a=b"], ["onnx", "absent"])
    assert split == {"onnx": {"opset": "18"}, "absent": {"level": "a=b"}}


def test_a_bare_option_belongs_to_the_only_target() -> None:
    assert jobs.split_options(["opset=18"], ["onnx"]) == {"onnx": {"opset": "18"}}
    with pytest.raises(UsageError, match="does not say for which target") as caught:
        jobs.split_options(["opset=18"], ["onnx", "absent"])
    assert caught.value.hint == "write onnx.opset=18"


@pytest.mark.parametrize("option", ["opset", "=3", ""])
def test_an_option_without_a_name_or_value_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        jobs.split_options([option], ["onnx"])


def test_an_option_for_a_target_that_is_not_built_is_refused() -> None:
    with pytest.raises(UsageError, match="which is not being built"):
        jobs.split_options(["tvm.trials=3"], ["onnx"])


@pytest.mark.usefixtures("with_absent")
def test_all_means_what_this_machine_can_build() -> None:
    able = tuple(name for name, row in registry.EXPORTERS.items() if name != "absent" and row.on_this_machine().able)
    assert jobs.resolve_targets(["all"]) == able
    assert "onnx" in able
    assert jobs.resolve_targets(["onnx", "absent", "onnx"]) == ("onnx", "absent")
    with pytest.raises(UnknownName):
        jobs.resolve_targets(["onnx", "nothing-like-it"])


@pytest.mark.usefixtures("with_absent")
def test_a_target_that_cannot_be_built_does_not_stop_the_others(tmp_path: Path) -> None:
    job = jobs.ExportJob("vit_nano", ("absent", "onnx"), out=tmp_path, weights="digits", threads=1)
    missing, built = jobs.run_export(job, silent)
    assert isinstance(missing.error, MissingDependency)
    assert built.error is None
    assert built.record()["artifact"] == str(tmp_path / "vit_nano-onnx-fp32")
    assert built.record()["parity"]["status"] == "verified"


@pytest.mark.usefixtures("with_absent")
def test_nothing_is_loaded_when_no_target_can_be_built(tmp_path: Path) -> None:
    job = jobs.ExportJob("no-such-model", ("absent",), out=tmp_path)
    (only,) = jobs.run_export(job, silent)
    assert isinstance(only.error, MissingDependency)


@pytest.mark.parametrize(("parent", "folder"), [(False, "out"), (True, "out/vit_nano-onnx-fp32")])
def test_out_is_the_folder_of_a_single_target_or_its_parent(tmp_path: Path, parent: bool, folder: str) -> None:
    """Both are taken already, so each is named without a build."""
    taken = tmp_path / "out" / "vit_nano-onnx-fp32"
    taken.mkdir(parents=True)
    (taken / "thesis.txt").write_text("years of work")
    (result,) = jobs.run_export(jobs.ExportJob("vit_nano", ("onnx",), out=tmp_path / "out", parent=parent), silent)
    assert isinstance(result.error, UsageError)
    assert str(result.error).startswith(f"{tmp_path / folder} ")


def test_an_unproved_artifact_is_an_error_only_where_proof_is_required(tmp_path: Path) -> None:
    for required in (False, True):
        out = tmp_path / str(required)
        job = jobs.ExportJob(
            "vit_nano", ("onnx",), out=out, weights="digits", verify=False, require_verified=required, threads=1
        )
        (result,) = jobs.run_export(job, silent)
        assert result.artifact is not None
        assert result.artifact.manifest.parity.reason == "not verified: --no-verify"
        assert (result.error is not None) is required
