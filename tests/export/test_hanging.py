"""Decisions inside a model: a right artifact may turn those that are closer than rounding, and no others."""

from __future__ import annotations

from pathlib import Path

import deciding
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgevit
from edgevit.artifact.manifest import BatchRange
from edgevit.artifact.opened import Artifact
from edgevit.errors import ParityFailed
from edgevit.export.cache.findings import NOISE
from edgevit.export.described import bounds_of
from edgevit.export.noise import noise
from edgevit.export.prepared import Answers, Levels, Noise
from edgevit.export.reference import answers
from edgevit.proof.parity import judge
from edgevit.proof.reference import Reference

ONE = BatchRange(min=1, max=1)


def found(module: nn.Module, seed: int, precision: str) -> tuple[Answers, Levels, Reference]:
    inputs = deciding.rows(seed)
    reference = answers(module, inputs, ONE)
    levels = noise(module, inputs, reference, precision)
    bounds = bounds_of(levels.outputs, precision)
    clear = levels.clear(reference.whole)
    return reference, levels, Reference(inputs, reference.whole.outputs, 1e-3, None, bounds, clear)


def run(module: nn.Module, seed: int, off: float, draw: int) -> dict[int, dict[str, np.ndarray]]:
    image = deciding.rows(seed)["image"]
    moved = image * (1 + off * np.random.default_rng(draw).uniform(-1, 1, image.shape)).astype(np.float32)
    with torch.no_grad():
        return {1: {"output": module(torch.from_numpy(moved)).numpy()}}


@pytest.mark.parametrize("kind", deciding.KINDS)
def test_an_artifact_that_turns_what_rounding_may_turn_is_right_and_one_that_turns_more_is_not(kind: str) -> None:
    turned = 0
    for seed in range(5):
        module = deciding.Deciding(kind, seed)
        answers, levels, reference = found(module, seed, "fp32")
        assert answers.inside
        assert answers.computed == "float64"
        assert levels.outputs["output"].error < 1e-6
        for draw in range(4):
            parity = judge(run(module, seed, 1e-7, draw), reference, None, "fake")
            assert parity.status == "verified", parity.reason
            turned += parity.outputs["output"].turned or 0
        for wrong in ("turned", "shifted"):
            other = deciding.Deciding(kind, seed, wrong)
            assert judge(run(other, seed, 0.0, 0), reference, None, "fake").status == "failed"
    assert turned, "no tie was met"


@pytest.mark.parametrize("kind", deciding.KINDS)
def test_in_half_precision_more_is_close_and_what_is_clear_must_still_agree(kind: str) -> None:
    module = deciding.Deciding(kind, 1)
    _, levels, reference = found(module, 1, "fp16")
    share = np.mean([row.mean() for row in reference.clear["output"]])
    assert 0.3 < share < 1.0
    assert levels.outputs["output"].error < 5e-3
    for draw in range(4):
        assert judge(run(module, 1, 3e-4, draw), reference, None, "fake").status == "verified"
    other = deciding.Deciding(kind, 1, "turned")
    assert judge(run(other, 1, 0.0, 0), reference, None, "fake").status == "failed"


def test_where_every_row_hangs_on_a_coin_nothing_is_proved_and_the_reason_is_said() -> None:
    _, _, reference = found(deciding.Coin(), 0, "fp32")
    assert not np.any(reference.clear["output"])
    parity = judge(run(deciding.Coin(wrong=True), 0, 0.0, 0), reference, None, "fake")
    assert parity.status == "unverified"
    assert "output is not proved: all of its values hang on decisions that are closer than rounding" in str(
        parity.reason
    )


def test_a_model_that_decides_nothing_inside_is_run_no_more_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Softmax(-1))
    inputs = deciding.rows(0)
    reference = answers(module, inputs, ONE)
    assert not reference.inside
    calls: list[int] = []
    module[0].register_forward_pre_hook(lambda *_: calls.append(1))
    noise(module, inputs, reference, "fp32")
    assert len(calls) == -(-16 // reference.group)


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hanging") / "queries"
    return edgevit.export(Tied(), "onnx", out=out, image_size=16).path


class Tied(deciding.Deciding):
    """In every image the fourth query and the fifth, which is none, have one score."""

    def __init__(self) -> None:
        super().__init__("queries", 0)

    def _queries(self, tokens: torch.Tensor) -> torch.Tensor:
        scores = self.score(tokens)[..., 0]
        values, places = scores.topk(5)
        scores = scores.scatter(1, places[:, 4:], values[:, 3:4])
        best = scores.topk(4, 1).indices[..., None].expand(-1, -1, 8)
        return tokens.gather(1, best).tanh()


def test_the_folder_says_what_hangs_so_that_a_device_judges_alike(queries: Path) -> None:
    artifact = Artifact.open(queries)
    bound = artifact.manifest.parity.bounds["output"]
    assert artifact.manifest.parity.status == "verified"
    assert bound.hanging is not None
    assert not bound.decided
    assert artifact.golden_clear()["output"].all(-1)[:3].tolist() == [[True, True, True, False]] * 3
    checks = edgevit.verify(queries).checks
    assert any("hang on a decision too close to call" in sentence for sentence in checks)


def test_a_graph_that_takes_the_worst_for_the_best_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnx.save

    def wrong(model, *args, **kwargs):
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "TopK" and attribute.name == "largest":
                    attribute.i = 0
        return real(model, *args, **kwargs)

    monkeypatch.setattr(onnx, "save", wrong)
    monkeypatch.setattr(onnx, "save_model", wrong)
    with pytest.raises(ParityFailed):
        edgevit.export(Tied(), "onnx", out=tmp_path / "wrong", image_size=16)


def test_what_hangs_is_kept_for_the_next_export_and_read_again() -> None:
    _, levels, _ = found(deciding.Deciding("codes", 1), 1, "fp16")
    entry = NOISE.write(levels)
    assert entry is not None
    again = NOISE.read(entry)
    assert again.outputs == levels.outputs
    assert np.array_equal(again.hanging[None]["output"], levels.hanging[None]["output"])


def test_a_model_that_decides_inside_takes_a_dynamic_batch_though_float32_turns_a_decision() -> None:
    for seed in range(4):
        module = deciding.Deciding("queries", seed)
        assert answers(module, deciding.rows(seed), BatchRange(min=1, max=5)).computed == "float64"


class Kept(nn.Module):
    """Masks windows by a comparison of constants, as HF's Swin does in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        places = torch.zeros(16, dtype=image.dtype)
        places[:5] = 1
        apart = places[:, None] - places
        tokens = self.stem(image).flatten(2)
        scores = tokens.transpose(1, 2) @ tokens
        return (scores + apart.masked_fill(apart != 0, -100.0)).softmax(-1)


def test_a_mask_of_constants_is_no_decision() -> None:
    assert not answers(Kept(), deciding.rows(0), ONE).inside


def test_an_artifact_that_hangs_on_a_coin_stays_unverified_whatever_four_rows_say(tmp_path: Path) -> None:
    artifact = edgevit.export(deciding.Coin(), "onnx", out=tmp_path / "coin", image_size=16)
    assert artifact.manifest.parity.status == "unverified"
    assert "too close to call" in next(artifact.manifest.parity.decisions())
    found = edgevit.verify(artifact.path)
    assert any("the export itself compared 16 rows" in doubt for doubt in found.unchecked)
    assert Artifact.open(artifact.path).manifest.parity.status == "unverified"


def test_the_median_row_is_never_allowed_more_than_any_row() -> None:
    (bound,) = bounds_of({"output": Noise(0.2, None, None, 0.2)}, "int8").values()
    assert bound.median == bound.tolerance == 0.1
