"""Each rewrite keeps the function, and does what its equation says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgevit.artifact.manifest import BatchRange
from edgevit.export.capture import capture
from edgevit.export.onnx.attention import plain_batched_transpose, separate_qkv
from edgevit.export.onnx.graph import tidy
from edgevit.export.onnx.rewrites import (
    REWRITES,
    Rewrite,
    merge_reshapes,
    merge_transposes,
    one_scale_for_scores,
)
from edgevit.export.onnx.selection import pick_token_early
from edgevit.export.onnx.shapes import resolve_shapes
from edgevit.export.onnx.tokens import flatten_tokens
from edgevit.export.onnx.traced import build_graph

TOKENS, WIDTH = 6, 16


class Blocks(nn.Module):
    """``count`` transformer blocks, of which one token is read."""

    def __init__(self, count: int = 2, residual_in_qkv: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * count))
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(count))
        self.proj = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(count))
        self.mlp = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(count))
        self.residual_in_qkv = residual_in_qkv
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index in range(len(self.qkv)):
            y = self.norms[2 * index](x)
            y = self.qkv[index](y) + (y.repeat(1, 1, 3) if self.residual_in_qkv else 0)
            q, k, v = y.reshape(x.shape[0], TOKENS, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], TOKENS, WIDTH)
            x = x + self.proj[index](y)
            x = x + F.gelu(self.mlp[index](self.norms[2 * index + 1](x)))
        return x[:, 0]


def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, TOKENS, WIDTH)).astype(np.float32)


def graph(module: nn.Module) -> ir.Model:
    return ir.from_proto(onnx.load_from_string(_exported(module)))


@cache
def _exported(module: nn.Module) -> bytes:
    """The unoptimised graph, made once for each of the modules below."""
    captured = capture(module, {"x": rows()}, BatchRange(min=1, max=4))
    return ir.to_proto(build_graph(captured, 20, optimize=False)).SerializeToString()


def run(model: ir.Model, feed: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": feed})[0]


def rewritten(module: nn.Module, rewrites: Sequence[Rewrite]) -> Counter[str]:
    """Operators after ``rewrites``, having checked at every batch size that they changed nothing."""
    model = graph(module)
    for rewrite in rewrites:
        rewrite(model)
    tidy(model)
    for size in (1, 3, 4):
        with torch.no_grad():
            expected = module(torch.from_numpy(rows()[:size])).numpy()
        np.testing.assert_allclose(run(model, rows()[:size]), expected, atol=2e-5)
    return Counter(node.op_type for node in model.graph)


class Reshuffled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.transpose(1, 2).reshape(-1, WIDTH, 2, 3).flatten(2).transpose(1, 2)
        return torch.relu(y).transpose(0, 1).transpose(0, 1) + 1


TWO, ONE, ODD = Blocks(), Blocks(1), Blocks(1, residual_in_qkv=True)


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda rewrite: rewrite.__name__)
def test_each_rewrite_alone_keeps_the_function(rewrite: Rewrite) -> None:
    rewritten(TWO, [rewrite])


def test_all_rewrites_twice_keep_the_function() -> None:
    rewritten(TWO, [*REWRITES, *REWRITES])


def test_a_foreign_projection_is_separated_without_slices() -> None:
    before, after = rewritten(ONE, []), rewritten(ONE, [resolve_shapes, separate_qkv])
    assert before["MatMul"] == 5
    assert after["MatMul"] == 7
    assert before["Slice"]
    assert not after["Slice"]


def test_a_projection_that_is_no_plain_linear_layer_is_split_after_one_transpose() -> None:
    after = rewritten(ODD, [resolve_shapes, separate_qkv])
    assert after["Split"] == 1
    assert not after["Slice"]


def test_only_one_row_of_the_last_block_is_computed() -> None:
    model = graph(TWO)
    pick_token_early(model)
    tidy(model)
    linear = [node for node in model.graph if node.op_type == "MatMul" and node.inputs[1].is_initializer()]
    ranks = [len(node.outputs[0].shape or ()) for node in linear]
    assert sorted(ranks) == [2, 2, 3, 3, 3, 3]  # proj and mlp of the last block; qkv of both, proj and mlp of the first


def test_linear_layers_become_gemms_and_share_their_reshapes() -> None:
    after = rewritten(TWO, [flatten_tokens, merge_reshapes])
    assert after["Gemm"] == 6
    assert after["MatMul"] == 4


def test_attention_keeps_one_scale_and_one_transpose_for_each_operand() -> None:
    steps = [
        resolve_shapes,
        plain_batched_transpose,
        separate_qkv,
        one_scale_for_scores,
        flatten_tokens,
        merge_reshapes,
        merge_transposes,
    ]
    after = rewritten(ONE, steps)
    assert after["Mul"] == 1
    assert after["Transpose"] == 4


def test_reshapes_and_transposes_that_cancel_are_gone() -> None:
    after = rewritten(Reshuffled(), [merge_reshapes, merge_transposes])
    assert not after["Reshape"]
    assert not after["Transpose"]


def test_a_fourier_layer_is_products_of_matrices_which_every_parser_knows() -> None:
    class Filters(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfft2(torch.fft.rfft2(x) * 1j, s=(6, 8))

    pictures = np.random.default_rng(0).standard_normal((2, 3, 6, 8)).astype(np.float32)
    model = build_graph(capture(Filters(), {"x": pictures}, BatchRange(min=2, max=2)), 20, optimize=True)
    assert "DFT" not in {node.op_type for node in model.graph}
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": pictures})
    expected = Filters()(torch.from_numpy(pictures).double()).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
