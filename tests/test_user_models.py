"""Models as users write them, all the way to a verified artifact; and the same proofs refuse a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgevit
from edgevit import build
from edgevit.artifact.manifest import BatchRange
from edgevit.errors import ParityFailed, UnknownName, Unsupported
from edgevit.export.capture import capture
from edgevit.export.prepare import Prepared, prepare
from edgevit.export.targets import choose
from edgevit.request import ExportRequest, ModelChoice

torch.set_num_threads(1)
ROWS = {"x": np.random.default_rng(0).standard_normal((16, 4, 8)).astype(np.float32)}


class Tokens(nn.Module):
    """(B, 4, 8) tokens through ``change``, to (B, 5)."""

    def __init__(self, change: Callable[[Tokens, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head, self.change = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 5), change

    def forward(self, x: Tensor):
        return self.change(self, x)

    def ended(self, tokens: Tensor) -> Tensor:
        return self.head(tokens.mean(1))


@dataclass
class Answer:
    logits: Tensor
    hidden: Tensor | None = None


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def masked(self: Tokens, x: Tensor) -> Tensor:
    q, mask = self.body(x)[:, None], torch.linspace(-3, 0, 16).reshape(4, 4)
    return self.ended(F.scaled_dot_product_attention(3 * q, q, q, attn_mask=mask)[:, 0])


def editing(self: Tokens, x: Tensor) -> Tensor:
    return self.ended(self.body(x.mul_(2.0).sub_(0.5)))


def single(self: Tokens, x: Tensor) -> Tensor:
    return self.ended(self.norm(self.body(x).float()))


def automatic(self: Tokens, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.ended(self.norm(self.body(x))).float()


def merged(self: Tokens, x: Tensor) -> Tensor:
    index = torch.arange(4).remainder(2)[None, :, None].expand(len(x), 4, 8)
    return self.ended(torch.zeros_like(x[:, :2]).scatter_reduce(1, index, self.body(x), "mean", include_self=False))


def twice(self: Tokens, x: Tensor) -> tuple[Tensor, Tensor]:
    y = self.ended(x)
    return y, y


def insisting(self: Tokens, x: Tensor) -> Tensor:
    assert x.dtype is torch.float32
    return self.ended(self.norm(self.body(x)))


MODELS: dict[str, tuple[Callable[[Tokens, Tensor], object], list[str]]] = {
    "a mask made in forward": (masked, ["output"]),
    "an input edited in place": (editing, ["output"]),
    "a norm in float32": (single, ["output"]),
    "autocast": (automatic, ["output"]),
    "float32 or nothing": (insisting, ["output"]),
    "merged tokens": (merged, ["output"]),
    "a tensor twice": (twice, ["output_0", "output_1"]),
    "the input and an output": (lambda self, x: (x, self.ended(x)), ["output_0", "output_1"]),
    "a data class": (lambda self, x: Answer(self.ended(x)), ["logits"]),
    "a named tuple": (lambda self, x: Pair(self.ended(x), x.sum(1)), ["first", "second"]),
    "nested": (lambda self, x: {"out": [self.ended(x), (x.sum(1),)]}, ["out_0", "out_1_0"]),
    "booleans": (lambda self, x: self.ended(x) > 0, ["output"]),
    "labels": (lambda self, x: self.ended(x).argmax(1), ["output"]),
}


@pytest.mark.parametrize(("change", "names"), MODELS.values(), ids=MODELS)
def test_a_model_as_users_write_them_is_verified(change, names: list[str], tmp_path: Path) -> None:
    out = tmp_path / "artifact"
    artifact = edgevit.export(Tokens(change), "onnx", out=out, inputs=ROWS, threads=1)
    assert artifact.manifest.parity.status == "verified"
    assert artifact.manifest.parity.tolerance <= 1e-4
    assert [spec.name for spec in artifact.manifest.outputs] == names


def test_ends_may_be_called_as_weights_and_nodes_are(tmp_path: Path) -> None:
    def ends(self: Tokens, x: Tensor) -> dict[str, Tensor]:
        y = self.ended(x) * self.x
        return {
            "body.weight": self.body(x),
            "head.bias": y,
            "model/Mul": y + 1,
            "head/Gemm": y.sin(),
            "table": self.table,
        }

    model = Tokens(ends)
    model.x, model.table = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(1, 3))
    artifact = edgevit.export(model, "onnx", out=tmp_path / "artifact", inputs=ROWS, threads=1)
    assert artifact.manifest.parity.status == "verified"
    assert [spec.name for spec in artifact.manifest.inputs] == ["x"]
    with edgevit.open_session(artifact.path) as session:
        assert set(session.infer({"x": ROWS["x"][:1]})) == {
            "body.weight", "head.bias", "model/Mul", "head/Gemm", "table",
        }  # fmt: skip


def test_answers_that_depend_on_their_batch_are_proved_at_it_and_again_on_the_device(tmp_path: Path) -> None:
    model = Tokens(lambda self, x: self.ended(x - x.mean(0)))
    out = tmp_path / "artifact"
    artifact = edgevit.export(model, "onnx", out=out, inputs=ROWS, batch=3, threads=1)
    assert "depends on the other rows of its batch" in artifact.manifest.notes[0]
    assert edgevit.verify(out).parity.status == "verified"
    with pytest.raises(Unsupported, match="depends on the other rows"):
        edgevit.export(model, "onnx", out=tmp_path / "dynamic", inputs=ROWS, batch="1-4", threads=1)


def test_answers_that_float32_cannot_hold_are_zero_in_model_and_artifact_and_that_is_said(tmp_path: Path) -> None:
    model = Tokens(lambda self, x: self.ended(x).mul(1e-30).mul(1e-30))
    manifest = edgevit.export(model, "onnx", out=tmp_path / "artifact", inputs=ROWS, threads=1).manifest
    assert manifest.parity.status == "verified"
    assert "output is zero in float32 on all 16 rows: nothing more is proved of it" in manifest.notes


def test_a_model_that_rounding_decides_is_not_called_a_wrong_artifact(tmp_path: Path) -> None:
    model = Tokens(lambda self, x: ((x.sum(2) + 1e6) - 1e6).sin())
    with pytest.raises(
        ParityFailed, match=r"cannot be proved.*computed in fp32, the model itself is 0\.\d+ off"
    ) as caught:
        edgevit.export(model, "onnx", out=tmp_path / "artifact", inputs=ROWS, threads=1)
    assert "rounding decides" in str(caught.value.hint)


# --- a wrong artifact is refused all the same -------------------------------------------------------------------------


def without_mask(self: Tokens, x: Tensor) -> Tensor:
    q = self.body(x)[:, None]
    return self.ended(F.scaled_dot_product_attention(3 * q, q, q)[:, 0])


def another_weight(self: Tokens, x: Tensor) -> Tensor:
    return self.ended(self.norm(F.linear(x, self.body.weight * 1.001, self.body.bias)))


def another_operator(self: Tokens, x: Tensor) -> Tensor:
    return self.ended(F.rms_norm(self.body(x), (8,), self.norm.weight, self.norm.eps))


def one_flipped(self: Tokens, x: Tensor) -> Tensor:
    return self.ended(x) > 0.01


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (masked, without_mask),
        (single, another_weight),
        (automatic, another_operator),
        (insisting, another_weight),
        (insisting, another_operator),
        (MODELS["booleans"][0], one_flipped),
        (editing, lambda self, x: self.ended(self.body(x))),
    ],
    ids=["mask", "weight", "half", "float32 weight", "float32 operator", "booleans", "edit"],
)
def test_a_wrong_graph_is_refused(right, wrong, tmp_path: Path) -> None:
    with pytest.raises(ParityFailed, match="does not compute its model") as caught:
        build.build_target(with_graph_of(prepared(right), wrong), choose("onnx"), tmp_path / "bad")
    assert "half" not in str(caught.value)
    assert "--precision" not in str(caught.value.hint)


def test_in_fp16_the_next_step_is_fp32(tmp_path: Path) -> None:
    with pytest.raises(ParityFailed) as caught:
        build.build_target(with_graph_of(prepared(masked), without_mask), choose("onnx", "fp16"), tmp_path / "bad")
    assert "--precision fp32" in str(caught.value.hint)


def prepared(change) -> Prepared:
    return prepare(ExportRequest(ModelChoice(Tokens(change)), ("onnx",), inputs=ROWS, threads=1))


def with_graph_of(right: Prepared, change) -> Prepared:
    """The proof of one model, the graph of another."""
    wrong = capture(Tokens(change).eval(), ROWS, BatchRange(min=1, max=1))
    return replace(right, capture=replace(right.capture, program=wrong.program))


def test_a_precision_that_no_row_knows_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="fp6") as caught:
        choose("onnx", "fp6")
    assert "fp16" in str(caught.value.hint)
