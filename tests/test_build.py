from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import edgevit
from edgevit import build, registry, worker
from edgevit.artifact.opened import Artifact
from edgevit.build import export
from edgevit.errors import (
    ExportFailed,
    MissingDependency,
    ParityFailed,
    UnknownName,
    Unsupported,
    UsageError,
    WorkerFailed,
)
from edgevit.export.prepare import Prepared, prepare
from edgevit.export.prepared import Run
from edgevit.export.targets import choose
from edgevit.registry import Row
from edgevit.request import ExportRequest, ModelChoice

ABSENT = Row("absent", "nowhere:Nothing", "edgevit[absent]", ("a-package-that-is-not",), "")
DIGITS = ModelChoice("vit_nano", weights="digits")


class Small(nn.Module):
    """A classifier of 16×16 images that edgevit knows nothing about, with something to fold."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Linear(8, 5)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Pair(nn.Module):
    """Two inputs, two outputs."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return left + right, left * right


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("small") / "artifact"
    return export(Small(), "onnx", out=folder, batch="1-4", image_size=16, labels="abcde", data="digits", threads=1)


def test_an_unknown_module_becomes_a_verified_artifact(small: Artifact) -> None:
    manifest = Artifact.open(small.path).manifest
    assert manifest.parity.status == "verified"
    assert manifest.parity.images >= 16
    assert manifest.parity.batches == (1, 3, 4)
    assert manifest.labels == tuple("abcde")
    assert manifest.model.source == "module"
    assert manifest.reparam is not None
    assert sum(manifest.reparam.folded.values()) == 1
    small.check_files()


def test_a_bare_session_reproduces_the_golden_pair(small: Artifact) -> None:
    with np.load(small.path / "golden.npz") as golden:
        session = onnxruntime.InferenceSession(str(small.entry), providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"image": golden["image"]})
        assert golden["image"].shape == (4, 3, 16, 16)
        np.testing.assert_allclose(logits, golden["logits"], atol=1e-5)


def test_golden_pictures_are_what_the_golden_rows_were_made_from(small: Artifact) -> None:
    from edgevit.images import decode

    rows, _ = small.golden()
    assert small.manifest.preprocess is not None
    for row, picture in enumerate(small.golden_images()):
        np.testing.assert_array_equal(small.manifest.preprocess(decode(picture)), rows["image"][row])
    assert len(small.golden_images()) == 4


def test_models_of_other_inputs_are_exported_from_the_callers_arrays(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    inputs = {name: random.standard_normal((16, 3)).astype(np.float32) for name in ("left", "right")}
    artifact = export(Pair(), "onnx", out=tmp_path / "pair", inputs=inputs, batch="1-2", threads=1)
    assert artifact.manifest.model.task == "tensors"
    assert [spec.name for spec in artifact.manifest.outputs] == ["output_0", "output_1"]
    assert artifact.manifest.parity.status == "verified"
    with pytest.raises(UsageError, match="needs 16"):
        export(Pair(), "onnx", out=tmp_path / "few", inputs={k: v[:3] for k, v in inputs.items()})
    with pytest.raises(UsageError, match="forward takes left, right"):
        export(Pair(), "onnx", out=tmp_path / "named", inputs={"links": inputs["left"]})


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(ExportRequest(ModelChoice(Small(), image_size=(16, 16)), ("onnx",), data="digits", threads=1))


def test_one_prepared_model_serves_several_builds(prepared: Prepared, tmp_path: Path) -> None:
    for precision in ("fp32", "fp16"):
        artifact = build.build_target(prepared, choose("onnx", precision), tmp_path / precision)
        assert artifact.manifest.precision == artifact.manifest.precision_report.requested == precision
        assert artifact.manifest.parity.status == "verified"


def test_the_reference_is_the_source_before_re_parameterisation(prepared: Prepared) -> None:
    source = Small().double().eval()
    with torch.no_grad():
        expected = source(torch.from_numpy(prepared.rows.inputs["image"]).double()).numpy()
    np.testing.assert_allclose(prepared.reference.whole.outputs["logits"], expected, rtol=1e-12)


def with_wrong_reference(prepared: Prepared) -> Prepared:
    from dataclasses import replace

    wrong = {name: value + 0.1 for name, value in prepared.reference.whole.outputs.items()}
    return replace(prepared, reference=replace(prepared.reference, whole=Run(wrong)))


def test_a_wrong_artifact_is_kept_aside_with_its_numbers(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ParityFailed, match="tolerance") as caught:
        build.build_target(with_wrong_reference(prepared), choose("onnx"), tmp_path / "bad")
    assert "bad.failed" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.failed"]
    assert json.loads((tmp_path / "bad.failed/edgevit.json").read_text())["parity"]["status"] == "failed"


@pytest.mark.parametrize(
    ("raised", "status"),
    [(Unsupported("needs an NVIDIA GPU"), "unverified"), (WorkerFailed("killed by SIGSEGV"), None)],
)
def test_what_cannot_run_here_is_unverified_and_a_crash_is_a_failed_export(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, status: str | None
) -> None:
    def call(*args, **kwargs):
        raise raised

    monkeypatch.setattr(worker, "call", call)
    if status is None:
        with pytest.raises(ExportFailed, match="SIGSEGV"):
            build.build_target(prepared, choose("onnx"), tmp_path / "x")
        assert not list(tmp_path.iterdir())
        return
    parity = build.build_target(prepared, choose("onnx"), tmp_path / "x").manifest.parity
    assert parity.status == status
    assert parity.reason == "needs an NVIDIA GPU"


def test_without_verification_the_artifact_says_so(tmp_path: Path) -> None:
    artifact = export(Small(), "onnx", out=tmp_path / "x", image_size=16, data="digits", verify=False, form="train")
    assert artifact.manifest.parity.status == "unverified"
    assert artifact.manifest.parity.reason == "not verified: --no-verify"
    assert artifact.manifest.reparam is None
    assert artifact.manifest.model.form == "train"


def test_a_module_that_says_nothing_about_itself_is_asked_for_its_inputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Small does not say what it takes") as caught:
        export(Small(), "onnx", out=tmp_path / "x")
    assert "image_size=" in str(caught.value.hint)


def test_wrong_requests_end_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="target"):
        export(Small(), "onyx", out=tmp_path / "x")
    with pytest.raises(UnknownName, match="precision of onnx"):
        export(Small(), "onnx", out=tmp_path / "x", precision="fp61")
    with pytest.raises(UnknownName, match="form"):
        export(Small(), "onnx", out=tmp_path / "x", form="deployed")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="2 labels for 5 classes"):
        export(Small(), "onnx", out=tmp_path / "x", image_size=16, data="digits", labels=["a", "b"])
    assert not list(tmp_path.iterdir())


def test_the_package_offers_export() -> None:
    assert callable(edgevit.export)


@pytest.fixture
def with_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "EXPORTERS", {"absent": ABSENT, **registry.EXPORTERS})


@pytest.mark.usefixtures("with_absent")
def test_a_target_that_cannot_be_built_does_not_stop_the_others(tmp_path: Path) -> None:
    missing, built = build.exports(ExportRequest(DIGITS, ("absent", "onnx"), out=tmp_path, threads=1))
    assert isinstance(missing.error, MissingDependency)
    assert built.error is None
    assert built.record()["artifact"] == str(tmp_path / "vit_nano-onnx-fp32")
    assert built.record()["parity"]["status"] == "verified"


@pytest.mark.usefixtures("with_absent")
def test_nothing_is_loaded_when_no_target_can_be_built(tmp_path: Path) -> None:
    (only,) = build.exports(ExportRequest(ModelChoice("no-such-model"), ("absent",), out=tmp_path))
    assert isinstance(only.error, MissingDependency)


@pytest.mark.parametrize(("parent", "folder"), [(False, "out"), (True, "out/vit_nano-onnx-fp32")])
def test_out_is_the_folder_of_a_single_target_or_its_parent(tmp_path: Path, parent: bool, folder: str) -> None:
    """Both are taken already, so each is named without a build."""
    taken = tmp_path / "out" / "vit_nano-onnx-fp32"
    taken.mkdir(parents=True)
    (taken / "thesis.txt").write_text("years of work")
    (result,) = build.exports(ExportRequest(DIGITS, ("onnx",), out=tmp_path / "out", parent=parent))
    assert isinstance(result.error, UsageError)
    assert str(result.error).startswith(f"{tmp_path / folder} ")


def test_an_artifact_above_its_largest_size_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    given = {"image_size": 16, "data": "digits", "verify": False, "threads": 1}
    with pytest.raises(Unsupported, match=r"the onnx artifact has .*B, --max-size allows 1 kB") as caught:
        export(Small(), "onnx", out=tmp_path / "small", max_size="1kB", **given)
    assert "--max-size" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())
    assert export(Small(), "onnx", out=tmp_path / "small", max_size=100_000, **given).size_bytes() < 100_000
    with pytest.raises(UsageError, match="not an amount of memory"):
        export(Small(), "onnx", out=tmp_path / "other", max_size="much", **given)


def test_an_unproved_artifact_is_an_error_only_where_proof_is_required(tmp_path: Path) -> None:
    for required in (False, True):
        out = tmp_path / str(required)
        request = ExportRequest(DIGITS, ("onnx",), out=out, verify=False, require_verified=required, threads=1)
        (result,) = build.exports(request)
        assert result.artifact is not None
        assert result.artifact.manifest.parity.reason == "not verified: --no-verify"
        assert (result.error is not None) is required


def test_the_seconds_of_all_targets_add_up_to_what_was_waited(tmp_path: Path) -> None:
    request = ExportRequest(DIGITS, ("onnx", "coreml"), out=tmp_path, verify=False, threads=1)
    started = time.perf_counter()
    first, second = build.exports(request)
    waited = time.perf_counter() - started
    assert first.seconds + second.seconds == pytest.approx(waited, rel=0.05, abs=0.3)
    assert min(first.seconds, second.seconds) > 0


def test_an_export_that_was_not_to_be_proved_says_so_in_the_table_and_in_words(tmp_path: Path) -> None:
    stages: list[str] = []
    request = ExportRequest(DIGITS, ("onnx",), out=tmp_path / "x", verify=False, threads=1)
    (only,) = build.exports(request, lambda _: lambda stage, share: stages.append(stage))
    assert only.row()[build.COLUMNS.index("parity")] == "unverified: --no-verify"
    assert any("nothing proves that it computes its model (--no-verify)" in note for note in only.notes)
    assert "prove" not in stages
