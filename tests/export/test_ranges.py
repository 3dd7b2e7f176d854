"""One artifact for a range of image sizes: proved at both ends and an odd size, or refused with what holds it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import coremltools as ct
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import edgevit
from edgevit.artifact import sampling
from edgevit.artifact.manifest import BatchRange
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, Unsupported, UsageError
from edgevit.export.base import load_exporter
from edgevit.export.capture import capture_range
from edgevit.export.coreml.program import prepare
from edgevit.export.guards import doubtful
from edgevit.export.legalise.scales import SCALE_RULES, follows
from edgevit.export.ranges import Sizing, require_free
from edgevit.export.targets import Target, require_sizes
from edgevit.images import Preprocess
from edgevit.prediction.rows import rows_answered
from edgevit.profiles.latency import Request, conditions_of
from edgevit.profiles.ranking.entrants import Runner, common_batch
from edgevit.profiles.ranking.race import Terms
from edgevit.proof.golden import golden_reference
from edgevit.proof.parity import compare
from edgevit.proof.sizes import compare_sizes, golden_references
from edgevit.request import ExportRequest, ModelChoice
from edgevit.runtimes import feeds
from edgevit.sizes import Sides, as_sizes
from edgevit.tasks.reading import Reading

SIZES, ONE = as_sizes("32-64/8"), BatchRange(min=1, max=1)


class Dense(nn.Module):
    """A class for every pixel, tokens of the grid below it, and a map that was decided."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 3, 2, 1)))

    def neck(self, y: torch.Tensor) -> torch.Tensor:
        return y

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.neck(self.stem(image))
        scores = F.interpolate(y, size=image.shape[-2:], mode="bilinear")
        return {"masks": scores, "tokens": y.flatten(2).transpose(1, 2), "labels": y.argmax(1)}


class Table(nn.Module):
    """A position for each of 8×8 places, as they are or interpolated."""

    def __init__(self, follows: bool) -> None:
        super().__init__()
        self.follows, self.table = follows, nn.Parameter(torch.randn(1, 5, 8, 8))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y + (F.interpolate(self.table, size=y.shape[-2:], mode="bilinear") if self.follows else self.table)


class Branch(nn.Module):
    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y * 2 if y.shape[-1] > 12 else y


class Upright(nn.Module):
    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y * 2 if y.shape[-2] > y.shape[-1] else y


class Area(nn.Module):
    """Of no size that is proved: of three of them all."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y * 2 if y.shape[-2] * y.shape[-1] in (80, 108) else y


class Windows(nn.Module):
    """Padded to windows of 3 where they do not fit."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        height, width = y.shape[-2:]
        down, across = -height % 3, -width % 3
        if down > 0 or across > 0:
            y = F.pad(y, (0, across, 0, down))
        tops = y.unflatten(2, (-1, 3)).amax(3, keepdim=True).expand(-1, -1, -1, 3, -1).flatten(2, 3)
        return tops[:, :, :height, :width]


class Root(nn.Module):
    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y * float(y.shape[-2]) ** 0.5


class Loop(nn.Module):
    def forward(self, y: torch.Tensor) -> torch.Tensor:
        for column in range(y.shape[-1]):
            y = y + column
        return y


class Six(nn.Module):
    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 2, 4, 3, 5).amax((4, 5))


class With(Dense):
    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.middle = neck

    def neck(self, y: torch.Tensor) -> torch.Tensor:
        return self.middle(y)


def sizing(sizes=SIZES) -> tuple[dict[str, np.ndarray], Sizing]:
    draw = np.random.default_rng(0)
    steps = Preprocess(size=(32, 32), crop="pad")
    rows = {size: {"image": draw.random((1, 3, *size), np.float32)} for size in sizes.to_prove(steps.size)}
    pixels = draw.integers(0, 256, (64, 64, 3), np.uint8)
    return {"image": draw.random((16, 3, 32, 32), np.float32)}, Sizing(sizes, steps, rows, pixels)


def captured(module: nn.Module, batch: BatchRange = ONE):
    rows, asked = sizing()
    require_free(module.eval(), rows["image"], asked)
    return capture_range(module, rows, batch, asked, alone="output")


def test_the_specs_say_which_sides_follow_the_image() -> None:
    found = captured(Dense())
    assert [spec.shown() for spec in (*found.inputs, *found.outputs)] == [
        "1×3×height×width", "1×5×height×width", "1×height*width//16×5", "1×height//4×width//4"
    ]  # fmt: skip
    assert [spec.shape for spec in found.outputs] == [(1, 5, 32, 32), (1, 64, 5), (1, 8, 8)]
    assert found.outputs[1].at((40, 64)).shape == (1, 160, 5)


def test_windows_that_are_padded_only_where_they_must_be_are_traced_with_padding_for_all() -> None:
    program = captured(With(Windows())).program
    assert {shape[2:] for shape in doubtful(program, sizing()[1].every((1, 3, 32, 32), [1]))} >= {(48, 48)}


def test_a_position_table_that_is_interpolated_follows() -> None:
    assert captured(With(Table(follows=True)), BatchRange(min=1, max=3)).inputs[0].shown() == "batch×3×height×width"


@pytest.mark.parametrize(
    ("neck", "said"),
    [
        (Table(follows=False), r"middle \(test_ranges.py:\d+\) holds it to its size: at 56x48 The size of tensor a"),
        (Branch(), r"middle \(test_ranges.py:\d+\) holds it to its size: it asks whether"),
        (Upright(), r"middle \(test_ranges.py:\d+\) holds it to its size: it asks whether"),
        (Area(), r"middle \(test_ranges.py:\d+\) holds it to its size: it asks whether"),
        (Root(), r"middle \(test_ranges.py:\d+\) holds it to its size: it asks whether Eq\(.*height"),
        (Loop(), r"middle \(test_ranges.py:\d+\) holds it to its size: it asks whether Eq\(.*width"),
    ],
    ids=["table", "branch", "upright", "area", "number", "loop"],
)
def test_a_model_of_one_size_is_refused_with_the_module_and_the_line(neck: nn.Module, said: str) -> None:
    with pytest.raises(Unsupported, match=said) as caught:
        captured(With(neck))
    assert "interpolate a position table" in (caught.value.hint or "")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("range") / "dense"
    return edgevit.export(Dense(), "onnx", out=out, image_size="32-64x32-96/16", task="segment")


def test_both_ends_an_odd_size_and_one_across_are_proved_beside_its_own(artifact: Artifact) -> None:
    assert artifact.manifest.parity.status == "verified"
    assert artifact.manifest.parity.sizes == ("64x96", "32", "48x80", "48x32")
    assert edgevit.verify(artifact.path).parity.sizes == artifact.manifest.parity.sizes
    written = json.loads((artifact.path / "edgevit.json").read_text())
    assert written["image_sizes"] == "32-64x32-96/16"
    assert written["inputs"][0]["sides"] == {"2": "height", "3": "width"}
    assert (written["inputs"][0]["shape"], written["preprocess"]["crop"]) == ([1, 3, 64, 96], "pad")


def test_the_file_has_the_axes_open_by_name(artifact: Artifact) -> None:
    graph = onnx.load(artifact.entry).graph
    sides = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert sides == [1, 3, "height", "width"]


def test_a_session_takes_the_sizes_of_the_range_and_no_other(artifact: Artifact) -> None:
    with edgevit.open_session(artifact.path) as session:
        assert session.infer({"image": np.zeros((1, 3, 32, 48), np.float32)})["masks"].shape == (1, 5, 32, 48)
        for size, nearest in (((40, 48), "32x48"), ((64, 112), "64x96"), ((16, 16), "32")):
            with pytest.raises(UsageError, match=r"image takes images of 32-64x32-96/16, not") as caught:
                session.infer({"image": np.zeros((1, 3, *size), np.float32)})
            assert caught.value.hint == f"the nearest is {nearest}"


def test_what_is_wrong_at_one_size_only_fails_the_proof(artifact: Artifact) -> None:
    references = golden_references(artifact)
    wrong = references[Sides(32, 32)]
    moved = {name: value + (name == "masks") for name, value in wrong.outputs.items()}
    references[Sides(32, 32)] = replace(wrong, outputs=moved)
    with edgevit.open_session(artifact.path) as session:
        own = compare(session, golden_reference(artifact), [1])
        found = compare_sizes(session, own, references, [1], stored=True)
    assert (own.status, found.status) == ("verified", "failed")
    assert (found.reason or "").startswith("at images of 32: masks")


def test_rows_are_judged_whole_where_they_are_known_whole(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    references = golden_references(artifact)
    monkeypatch.setattr(sampling, "STRIDED", 2000)
    moved = references[Sides(32, 32)].outputs["masks"].copy()
    moved[0, 0, 0, 1] += 1  # every third value is kept
    known = {**references[Sides(32, 32)].outputs, "masks": moved}
    whole = {Sides(32, 32): replace(references[Sides(32, 32)], outputs=known)}
    kept = {Sides(32, 32): replace(references[Sides(32, 32)], outputs=sampling.strided(known))}
    with edgevit.open_session(artifact.path) as session:
        own = compare(session, golden_reference(artifact), [1])
        assert compare_sizes(session, own, whole, [1], stored=False).status == "failed"
        assert compare_sizes(session, own, kept, [1], stored=True).status == "verified"


def test_rows_of_another_size_that_are_missing_or_altered_are_noticed(artifact: Artifact, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(artifact.path, broken)
    (broken / "golden/48x80.npz").write_bytes((broken / "golden/32x32.npz").read_bytes())
    with pytest.raises(BadArtifact, match=r"golden/48x80.npz"):
        edgevit.verify(broken)


def test_a_target_of_one_size_declines_before_any_work() -> None:
    target, why = "tvm", "its kernels are"
    request = ExportRequest(ModelChoice("sesr_nano_x2", image_sizes=SIZES), (target,))
    exporter = load_exporter(target)
    assert isinstance(exporter.one_size, str)
    chosen = Target(exporter, exporter.precisions[0], exporter.options())
    with pytest.raises(
        Unsupported, match=f"{target} artifacts take images of one size, not of 32-64/8: {why}"
    ) as caught:
        require_sizes(chosen, request)
    assert "--image-size 64, or -t onnx" in (caught.value.hint or "")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("range") / "package"
    return edgevit.export(Dense(), "coreml", out=out, image_size="32-64x32-96/16", task="segment")


def test_a_core_ml_package_takes_the_range_and_is_proved_as_a_graph_is(package: Artifact) -> None:
    assert package.manifest.parity.status == "verified"
    assert package.manifest.parity.sizes == ("64x96", "32", "48x80", "48x32")
    (given,) = ct.models.utils.load_spec(str(package.entry)).description.input
    sides = [(one.lowerBound, one.upperBound) for one in given.type.multiArrayType.shapeRange.sizeRanges]
    assert sides == [(1, 1), (3, 3), (32, 64), (32, 96)]
    assert "1 x 3 x height x width" in given.shortDescription
    with edgevit.open_session(package.path) as session:
        assert session.infer({"image": np.zeros((1, 3, 32, 48), np.float32)})["masks"].shape == (1, 5, 32, 48)
        with pytest.raises(UsageError, match=r"image takes images of 32-64x32-96/16, not"):
            session.infer({"image": np.zeros((1, 3, 40, 48), np.float32)})


class Resized(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.table = mode, nn.Parameter(torch.randn(1, 5, 3, 3))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        sides = [4 * side for side in y.shape[-2:]]
        if self.mode == "pooled":
            return y + F.interpolate(y.mean((2, 3), keepdim=True), size=y.shape[-2:], mode="bilinear")
        if self.mode == "table":
            return y + F.interpolate(self.table, size=y.shape[-2:], mode="bilinear")
        return F.interpolate(y, size=sides, mode=self.mode, align_corners=None if self.mode == "nearest" else True)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "pooled"])
def test_sizes_that_follow_the_image_s_are_factors_for_core_ml(mode: str) -> None:
    program = prepare(captured(With(Resized(mode)))).program
    assert not any(follows(node) for node in program.graph.nodes if node.target in SCALE_RULES)
    image = torch.rand(1, 3, 40, 56)
    module = With(Resized(mode))
    module.load_state_dict(program.state_dict)
    torch.testing.assert_close(program.module()(image)["masks"], module(image)["masks"], rtol=1e-5, atol=1e-6)


def test_what_core_ml_resizes_to_no_multiple_and_cuts_into_windows_is_refused_by_line() -> None:
    here = r"\(in middle, test_ranges.py:\d+\)"
    with pytest.raises(Unsupported, match=f"upsample_bilinear2d.vec {here} resizes to no whole"):
        prepare(captured(With(Resized("table"))))
    with pytest.raises(Unsupported, match=f"tensors of 5 axes at most, and .* {here} gives 6"):
        prepare(captured(With(Six())))


def test_a_comparison_is_of_one_size_that_both_take(artifact: Artifact, package: Artifact, tmp_path: Path) -> None:
    other = edgevit.export(Dense(), "onnx", out=tmp_path / "other", image_size="32-48/16", task="segment", verify=False)
    both = [Runner(one, "onnxruntime") for one in (artifact, other)]
    with pytest.raises(UsageError, match="their times are of different work") as caught:
        common_batch(both, None)
    assert "--image-size" in (caught.value.hint or "")
    at = Terms(image_size=(48, 32))
    assert (common_batch(both, None, at.given), at.fed) == (1, "golden at 48x32")
    with pytest.raises(UsageError, match="takes images of 32-48/16, not 64x96"):
        common_batch(both, None, Terms(image_size=(64, 96)).given)
    for name, one in (("a", artifact), ("b", package)):
        feeds.write(one, tmp_path / f"{name}.npz", batch=1, given=at.given)
        assert np.load(tmp_path / f"{name}.npz")["image"].shape[1:] == (1, 3, 48, 32)


def test_a_model_is_made_at_its_own_size_where_that_is_in_the_range() -> None:
    assert SIZES.nearest((48, 48)) == Sides(48, 48)
    assert SIZES.nearest((224, 20)) == Sides(64, 32)


def test_a_picture_keeps_its_size_and_is_padded_to_the_multiple(artifact: Artifact) -> None:
    reading = Reading.of(artifact)
    assert [reading.seeing(size).steps.size for size in ((33, 50), (64, 96), (10, 10), (640, 96))] == [
        (48, 64), (64, 96), (32, 32), (64, 32)
    ]  # fmt: skip
    picture = np.random.default_rng(0).integers(0, 256, (33, 50, 3), np.uint8)
    (found,) = edgevit.predict(artifact.path, picture)
    with edgevit.open_session(artifact.path) as session:
        rows = artifact.manifest.preprocess.at((48, 64)).batch([picture])
        labels = session.infer({"image": rows})["labels"][0].repeat(4, axis=0).repeat(4, axis=1)
    assert found.answer.classes.shape == (33, 50)
    assert np.array_equal(found.answer.classes, labels[:33, :50])


def test_what_is_fed_has_the_size_that_was_asked_for_and_the_key_knows_it(artifact: Artifact, tmp_path: Path) -> None:
    written = feeds.write(artifact, tmp_path / "feeds.npz", batch=1, given=feeds.Given(size=(48, 32)))
    assert np.load(written)["image"].shape == (4, 1, 3, 48, 32)
    np.savez(tmp_path / "rows.npz", image=np.zeros((2, 3, 32, 64), np.float32))
    asked = [Request(image_size=(48, 32)), Request(), Request(inputs=tmp_path / "rows.npz")]
    assert [conditions_of(artifact, one).image_size for one in asked] == ["48x32", "64x96", "32x64"]
    with pytest.raises(UsageError, match="Dense takes images of 32-64x32-96/16, not 48x40") as caught:
        conditions_of(artifact, Request(image_size=(48, 40)))
    assert caught.value.hint == "the nearest is 48x32"
    with pytest.raises(UsageError, match="--inputs are the model's own inputs, and --image-size is of images"):
        conditions_of(artifact, Request(image_size=(48, 32), inputs=tmp_path / "rows.npz"))


def test_rows_of_any_size_of_the_range_are_answered(artifact: Artifact, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", image=np.zeros((2, 3, 32, 64), np.float32))
    with rows_answered(artifact.path, [tmp_path / "rows.npz"], top=1, labels=None) as (answers, _):
        assert [answer.answer.classes.shape for answer in answers] == [(32, 64)] * 2
    np.savez(tmp_path / "wrong.npz", image=np.zeros((2, 3, 32, 60), np.float32))
    with (
        pytest.raises(UsageError, match="image takes images of 32-64x32-96/16, not 32x60"),
        rows_answered(artifact.path, [tmp_path / "wrong.npz"], top=1, labels=None),
    ):
        pass
