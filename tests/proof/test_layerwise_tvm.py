"""Sabotaged programs of integers, compiled: each way to be wrong is seen by what their kernels are given."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from integer_models import captured, mixed, rows_of
from torch import fx
from torch.export import ExportedProgram

from edgevit import build, signing
from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.errors import ParityFailed
from edgevit.export.tvm import compile as compiling
from edgevit.export.tvm import schedules, targets
from edgevit.export.tvm.integers import CONVOLUTION, LINEAR, ON_GRID, in_integers
from edgevit.export.tvm.link import link
from edgevit.proof.layerwise import kernels_of, prove_layers
from edgevit.quantize.alone import Layers
from edgevit.quantize.plan import QuantPlan
from edgevit.quantize.trial import Trial
from edgevit.runtimes.base import open_session

Sabotage = Callable[[ExportedProgram], None]
PLAIN = {"quantizer": "plain"}  # weights as the model has them


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("tvm") / "mixed"
    return build.export(mixed(), "tvm", out=out, precision="int8", inputs=rows_of(64), verify=False, quantizing=PLAIN)


@pytest.fixture(scope="module")
def layers(artifact: Artifact) -> Layers:
    return Trial(captured(mixed())).layers(plan_of(artifact), rows_of(1))


def plan_of(artifact: Artifact) -> QuantPlan:
    plan = artifact.plan()
    assert isinstance(plan, QuantPlan)
    return plan


def proved(artifact: Artifact, layers: Layers, sabotage: Sabotage, folder: Path) -> None:
    """The artifact with a library of the changed program and its hashes made to fit, layer by layer."""
    shutil.copytree(artifact.path, folder)
    program, _, _ = in_integers(captured(mixed()).program, plan_of(artifact))
    sabotage(program)
    program.graph_module.recompile()
    target = targets.host(1)
    lowered, _ = compiling.lower_with_origins(program)
    link(compiling.build(schedules.apply(lowered, target, {}), target), folder / "model.so", target)
    manifest = artifact.manifest.model_copy(update={"files": hash_tree(folder)})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    signing.sign(folder)
    with open_session(folder, threads=1) as session:
        prove_layers(session, layers)


def product(program: ExportedProgram, layer: str) -> fx.Node:
    """The first product of a layer."""
    specs = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    return next(
        node
        for node in program.graph.nodes
        if node.target in (LINEAR, CONVOLUTION) and specs[node.args[1].name] == f"{layer}_int8"
    )


def grid_of(program: ExportedProgram, layer: str) -> fx.Node:
    node = product(program, layer).args[0]
    assert isinstance(node, fx.Node)
    assert node.target is ON_GRID
    return node


def test_a_right_file_passes_and_every_operator_of_its_plan_runs_in_integers(
    artifact: Artifact, layers: Layers, tmp_path: Path
) -> None:
    proved(artifact, layers, lambda program: None, tmp_path / "right")
    with open_session(artifact, threads=1) as session:
        found = prove_layers(session, layers)
    assert artifact.manifest.integers is not None
    assert artifact.manifest.integers.operators == found.operators == 7
    assert sum((found.kernels or {}).values()) == 7
    assert found.floats == {"conv2d": 1, "matmul": 2}
    assert found.steps == 0.0
    assert found.worst < 1e-6


def doubled_weight_scale(program: ExportedProgram) -> None:
    program.state_dict["head.weight_steps"].data *= 2


def doubled_input_scale(program: ExportedProgram) -> None:
    node = grid_of(program, "qkv.weight")
    node.args = (node.args[0], float(node.args[1]) * 2, node.args[2])  # type: ignore[arg-type]


def zero_point_off_by_one(program: ExportedProgram) -> None:
    node = grid_of(program, "qkv.weight")
    node.args = (*node.args[:2], int(node.args[2]) + 1)  # type: ignore[call-overload]


def zero_point_off_by_one_at_both_ends(program: ExportedProgram) -> None:
    zero_point_off_by_one(program)
    whole = program.state_dict["qkv.weight_int8"].sum(dim=1, dtype=torch.int32)
    program.state_dict["qkv.weight_added"].data -= whole


def border_of_another_zero_point(program: ExportedProgram) -> None:
    node = product(program, "deep.weight")
    node.args = (*node.args[:4], int(node.args[4]) + 1, *node.args[5:])  # type: ignore[call-overload]


def moved_axis(program: ExportedProgram) -> None:
    weight = program.state_dict["shared.weight_int8"]  # (12, 12): either axis fits
    weight.data = weight.data.T.contiguous()


def weights_of_another_layer(program: ExportedProgram) -> None:
    program.state_dict["shared.weight_int8"].data = program.state_dict["qkv.weight_int8"].data[:12].clone()


def another_bias(program: ExportedProgram) -> None:
    added = program.state_dict["qkv.weight_added"]
    added.data = added.data.roll(1)


def dropped_pair(program: ExportedProgram) -> None:
    """A layer in floats, by the weight that its integers stand for."""
    node = product(program, "head.weight")
    grid, weight = node.args[:2]
    assert isinstance(grid, fx.Node)
    assert isinstance(weight, fx.Node)
    program.state_dict["head.weight_int8"] = torch.nn.Parameter(
        program.state_dict["head.weight_int8"].float() * program.state_dict["head.weight_steps"][:, None]
    )
    weight.meta["val"] = weight.meta["val"].float()
    node.target, node.args = torch.ops.aten.linear.default, (grid.args[0], weight)


SABOTAGES: tuple[tuple[Sabotage, str], ...] = (
    (doubled_weight_scale, "has the scales of no layer"),
    (doubled_input_scale, "is given other integers than the plan gives it"),
    (zero_point_off_by_one, "is given other integers than the plan gives it"),
    (zero_point_off_by_one_at_both_ends, "is given other integers than the plan gives it"),
    (border_of_another_zero_point, "is given other integers than the plan gives it"),
    (moved_axis, "is given other integers than the plan gives it"),
    (weights_of_another_layer, "is given other integers than the plan gives it"),
    (another_bias, "does not compute the plan"),
    (dropped_pair, "head.weight is an integer in the plan, and no kernel multiplies by it so"),
)


@pytest.mark.parametrize(("sabotage", "words"), SABOTAGES, ids=[one.__name__ for one, _ in SABOTAGES])
def test_a_sabotaged_program_is_refused(
    sabotage: Sabotage, words: str, artifact: Artifact, layers: Layers, tmp_path: Path
) -> None:
    with pytest.raises(ParityFailed, match=words):
        proved(artifact, layers, sabotage, tmp_path / "wrong")


def test_kernels_of_integers_are_told_from_those_of_floats_while_they_run(artifact: Artifact) -> None:
    with open_session(artifact, threads=1) as session:
        found = kernels_of(session)
    assert found.kernels == {"int8_conv2d": 1, "int8_depthwise": 1, "int8_matmul": 5}
    assert found.operators == 7
