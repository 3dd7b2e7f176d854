"""Captured programs through TVM's import, our layout and fusion, and the exporter's worker processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("tvm")
import tvm
from tvm import relax

import edgevit
from edgevit.artifact.manifest import BatchRange
from edgevit.errors import ExportFailed, Unsupported
from edgevit.export.base import Context
from edgevit.export.capture import bake_preprocess, capture
from edgevit.export.tvm import compile as compiling
from edgevit.export.tvm import schedules, targets
from edgevit.export.tvm.exporter import TvmExporter, TvmOptions
from edgevit.images import Preprocess

FIXED, DYNAMIC = BatchRange(min=1, max=1), BatchRange(min=1, max=8)


class Mixed(nn.Module):
    """What the model families are made of: convolution, pooling, tokens, attention, channels split and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.depth = nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.grouped = nn.Conv2d(12, 12, 3, 1, 1, groups=3)
        self.gate = nn.Conv2d(12, 12, 1)
        self.norm = nn.LayerNorm(12)
        self.keys = nn.Linear(12, 36)
        self.head = nn.Linear(12, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.stem(image))
        x = x + nn.functional.avg_pool2d(self.depth(x), 3, 1, 1, count_include_pad=False)
        first, second = self.grouped(x).split([4, 8], 1)
        x = torch.cat([second, first], 1) * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        query, key, value = self.keys(tokens).unflatten(-1, (3, 2, 6)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + nn.functional.gelu(mixed.transpose(1, 2).flatten(2))
        return self.head(tokens.mean(1))


def program_of(model: nn.Module, batch: BatchRange = FIXED, size: int = 18) -> Any:
    rows = np.random.default_rng(0).normal(size=(16, 3, size, size)).astype(np.float32)
    return capture(model.eval(), {"image": rows}, batch, alone="logits")


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def compiled(captured: Any) -> relax.VirtualMachine:
    target = targets.host(1)
    module = schedules.apply(compiling.lower(captured.program), target, {})
    return relax.VirtualMachine(compiling.build(module, target), tvm.cpu())


def outputs(captured: Any, machine: relax.VirtualMachine, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """What the compiled program and the float64 module give."""
    images = np.ascontiguousarray(captured.calibration["image"][:rows])
    with torch.no_grad():
        exact = captured.module.double()(torch.from_numpy(images).double()).numpy()
    captured.module.float()
    return machine["main"](tvm.runtime.tensor(images)).numpy(), exact


def error(got: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(got - exact).max() / np.abs(exact).max())


def test_a_compiled_model_computes_what_its_module_does() -> None:
    captured = program_of(randomised(Mixed()))
    assert error(*outputs(captured, compiled(captured), 1)) < 2e-6


def test_one_build_serves_every_batch_of_a_range() -> None:
    captured = program_of(randomised(Mixed()), DYNAMIC)
    machine = compiled(captured)
    for rows in (1, 3, 8):
        assert error(*outputs(captured, machine, rows)) < 2e-6


def test_equal_layers_share_one_kernel_and_keep_their_own_weights() -> None:
    layers = nn.Sequential(nn.Flatten(), *[nn.Linear(27, 27) for _ in range(4)])
    captured = program_of(randomised(layers), size=3)
    module = compiling.lower(captured.program)
    names = [str(call.args[0].name_hint) for call in compiling.calls_of(module)]
    assert len([name for name in names if "matmul" in name]) == 4
    assert len({name for name in names if "matmul" in name}) == 1
    assert error(*outputs(captured, compiled(captured), 1)) < 2e-6


def test_calls_of_one_kernel_keep_the_modules_that_they_came_from() -> None:
    layers = nn.Sequential(nn.Flatten(), *[nn.Linear(27, 27) for _ in range(4)])
    _, found = compiling.lower_with_origins(program_of(layers, size=3).program)
    products = [origin for origin in found if "matmul" in origin.kernel]
    assert len({origin.kernel for origin in products}) == 1
    assert [origin.module for origin in products] == ["1", "2", "3", "4"]


class Branches(nn.Module):
    """Three equal products of one input, told apart by their weights alone, and twice the same one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(27, 27, bias=False) for _ in range(3))

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(1)
        return torch.cat([self.v(x), self.q(x), self.k(x), self.q(x + 1)], 1)


def test_equal_branches_are_told_apart_by_their_weights() -> None:
    _, found = compiling.lower_with_origins(program_of(Branches(), size=3).program)
    assert [origin.module for origin in found if "matmul" in origin.kernel] == ["v", "q", "k", "q"]


def test_a_fused_kernel_belongs_to_its_product_and_lists_what_was_fused_into_it() -> None:
    _, found = compiling.lower_with_origins(program_of(randomised(Mixed())).program)
    by_kernel = {origin.kernel: origin for origin in found}
    assert by_kernel["fused_conv2d_add_relu"].module == "stem"
    assert by_kernel["fused_conv2d_add_relu"].modules == ("stem", "")
    assert {"stem", "depth", "grouped", "gate", "norm", "keys", "head"} <= {origin.module for origin in found}
    assert None not in {origin.module for origin in found}


def test_modules_of_a_model_with_its_normalisation_inside_are_the_model_s_own() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 5))
    preprocess = Preprocess(size=(3, 3), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), crop="squash")
    rows = np.random.default_rng(0).integers(0, 256, (16, 3, 3, 3), np.uint8)
    captured = capture(bake_preprocess(model, preprocess), {"image": rows}, FIXED, alone="logits")
    _, found = compiling.lower_with_origins(captured.program, baked=True)
    assert [origin.module for origin in found if "matmul" in origin.kernel] == ["1"]


def test_permutations_between_convolutions_cancel() -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()
    )
    names = [str(call.args[0].name_hint) for call in compiling.calls_of(compiling.lower(program_of(layers).program))]
    assert sum("transpose" in name for name in names) == 2, "one in front, one behind"


class Strange(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.special.i0(image).flatten(1)


def test_an_operator_that_tvm_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="i0") as caught:
        TvmExporter().write(
            program_of(Strange()), tmp_path, precision="fp32", options=TvmOptions(), context=Context(threads=1)
        )
    assert caught.value.hint
    assert "onnx" in caught.value.hint


def test_the_exporter_writes_a_library_and_says_what_it_needs(tmp_path: Path) -> None:
    stages: list[str] = []
    context = Context(progress=lambda stage, _: stages.append(stage), threads=1)
    built = TvmExporter().write(
        program_of(randomised(Mixed())), tmp_path, precision="fp32", options=TvmOptions(), context=context
    )
    assert (
        sorted(each.name for each in tmp_path.iterdir()) == ["layers.json", built.entry] == ["layers.json", "model.so"]
    )
    rows = json.loads((tmp_path / "layers.json").read_text())
    assert {"stem", "head"} <= {row["module"] for row in rows}
    assert built.precision.layers == {"float32": 8}
    assert {"apache-tvm", "apache-tvm-ffi", "llvm", "torch"} <= built.versions.keys()
    assert {"arch", "features", "system", "device", "cores"} <= built.lock.keys()
    assert any("compiled for" in note for note in built.notes)
    assert any("kernels" in stage for stage in stages)


def test_a_build_past_its_time_is_an_export_that_failed(tmp_path: Path) -> None:
    context = Context(timeout_s=0.5, threads=1)
    with pytest.raises(ExportFailed, match=r"did not finish within 0\.5 s"):
        TvmExporter().write(
            program_of(randomised(Mixed())), tmp_path, precision="fp32", options=TvmOptions(), context=context
        )
    assert not os.listdir(tmp_path)


class Attends(nn.Module):
    """(B, 4, 8) tokens through every form of attention that TVM's own import drops or refuses, to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k = nn.Linear(8, 16), nn.Linear(8, 8)
        self.register_buffer("bias", torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = 3 * self.q(x).reshape(len(x), 4, 4, 4).transpose(1, 2)
        k = self.k(x).reshape(len(x), 4, 2, 4).transpose(1, 2)
        attend = nn.functional.scaled_dot_product_attention
        grouped = attend(q, k, k, is_causal=True, enable_gqa=True)
        scaled = attend(q[:, :2], k, k, attn_mask=self.bias, scale=0.9)
        chosen = attend(q[:, 0], k[:, 0], k[:, 1], attn_mask=self.bias > 0)
        crossed = attend(q[:, :2, :3], k, k, is_causal=True, scale=0.3, dropout_p=0.0)
        return grouped.sum((1, 2)) + scaled.sum((1, 2)) + chosen.sum(1) + crossed.sum((1, 2))


def test_attention_has_its_mask_its_scale_and_its_groups(tmp_path) -> None:
    rows = np.random.default_rng(0).standard_normal((16, 4, 8)).astype(np.float32)
    artifact = edgevit.export(Attends(), "tvm", out=tmp_path / "artifact", inputs={"x": rows}, threads=1)
    assert artifact.manifest.parity.status == "verified"
