"""int8 packages: the plan's integers are in them, and the reference evaluator computes what the plan says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.proto import Model_pb2
from integer_models import ONE, captured, mixed, rows_of

from edgevit.artifact.manifest import BatchRange
from edgevit.errors import Unsupported, UsageError
from edgevit.export.base import Built, Context
from edgevit.export.coreml.building import build
from edgevit.export.coreml.integers import NOT_IN_PROGRAM
from edgevit.export.coreml.options import CoreMlOptions
from edgevit.export.targets import choose
from edgevit.precisions import WEIGHT_PRECISIONS
from edgevit.quantize.narrow import encoded
from edgevit.quantize.plan import STORED, QuantPlan
from edgevit.quantize.planning import plan_int8
from edgevit.quantize.simulate import Simulation
from edgevit.quantize.sites import sites_of
from edgevit.runtimes.coreml.program import load

RANGE = BatchRange(min=1, max=4)


def built(
    module: torch.nn.Module, folder: Path, batch: BatchRange, precision: str = "int8", **options: Any
) -> tuple[Built, Any]:
    capture = captured(module, batch)
    sites = sites_of(capture.program, alone=precision in WEIGHT_PRECISIONS)
    plan = plan_int8(capture, rows_of(32, 1), "rows", sites=sites)
    found = build(replace(capture, plan=plan), folder, precision, CoreMlOptions(**options), Context())
    return found, sites


def errors(folder: Path, sites: Any, plan: QuantPlan | None) -> np.ndarray:
    """Of every row, as a share of the largest."""
    assert plan is not None
    program, rows = load(folder / "model.mlpackage"), rows_of(16)["image"]
    with torch.no_grad():
        want = np.concatenate([Simulation(sites, plan)(torch.from_numpy(row[None])).numpy() for row in rows])
    got = np.concatenate([next(iter(program.run({"image": row[None]}).values())) for row in rows])
    found: np.ndarray = np.abs(got - want).max(axis=1) / np.abs(want).max()
    return found


@pytest.mark.parametrize(
    "options",
    [{}, {"ios": "18"}, {"ane_layout": True}],
    ids=["for iOS 17", "for iOS 18", "in the Neural Engine's layout"],
)
@pytest.mark.parametrize("batch", [ONE, RANGE], ids=["fixed", "dynamic"])
def test_in_fp32_a_package_computes_what_the_plan_says(
    batch: BatchRange, options: dict[str, Any], tmp_path: Path
) -> None:
    found, sites = built(mixed(), tmp_path, batch, floats="fp32", **options)
    assert found.plan is not None
    assert NOT_IN_PROGRAM not in found.plan.kept.values()
    assert (found.operators, found.precision.layers["int8"]) == (7, 7)
    away = errors(tmp_path, sites, found.plan)
    assert np.median(away) < 1e-5
    assert away.max() < 2e-2


def test_in_half_it_is_as_far_from_the_plan_as_half_is(tmp_path: Path) -> None:
    found, sites = built(mixed(), tmp_path, RANGE)
    assert found.precision.layers == {"float16": 3, "int8": 7}
    assert errors(tmp_path, sites, found.plan).max() < 5e-2


@pytest.mark.parametrize("ios", ["16", "17", "18"])
@pytest.mark.parametrize("precision", ["w8", "w4"])
def test_weights_alone_are_integers_where_that_is_asked_for(precision: str, ios: str, tmp_path: Path) -> None:
    found, sites = built(mixed(), tmp_path, ONE, precision, floats="fp32", ios=ios)
    layers = (tmp_path / "layers.json").read_text()
    assert '"quantize"' not in layers
    assert (found.operators, found.precision.layers) == (8, {"float32": 10})
    assert found.plan is not None
    assert "first.weight" in found.plan.layers
    assert errors(tmp_path, sites, found.plan).max() < 1e-6
    other = STORED if precision == "w4" else STORED.model_copy(update={"weights": 4})
    assert errors(tmp_path, sites, encoded(found.plan, sites.weights, other)).max() > 1e-3


@pytest.mark.parametrize("ane_layout", [False, True], ids=["as it is", "in the Neural Engine's layout"])
@pytest.mark.parametrize(
    ("weights", "kind"),
    [("groups", "constexpr_blockwise_shift_scale"), ("palette", "constexpr_lut_to_dense")],
)
def test_weights_of_four_bits_are_steps_of_groups_or_places_in_a_table(
    weights: str, kind: str, ane_layout: bool, tmp_path: Path
) -> None:
    found, sites = built(
        mixed(), tmp_path, RANGE, "w4", floats="fp32", ios="18", weights=weights, ane_layout=ane_layout
    )
    assert f'"{kind}"' in (tmp_path / "layers.json").read_text()
    assert errors(tmp_path, sites, found.plan).max() < 1e-6
    assert found.plan is not None
    assert {layer.palette is None for layer in found.plan.layers.values()} == {weights == "groups"}


def test_weights_alone_in_half_are_as_far_from_the_plan_as_half_is(tmp_path: Path) -> None:
    found, sites = built(mixed(), tmp_path, ONE, "w4")
    assert errors(tmp_path, sites, found.plan).max() < 5e-3


def test_weights_have_one_byte_each_and_a_shared_one_is_stored_once(tmp_path: Path) -> None:
    found, _ = built(mixed(), tmp_path, ONE)
    spec = Model_pb2.Model()
    spec.ParseFromString((tmp_path / "model.mlpackage/Data/com.apple.CoreML/model.mlmodel").read_bytes())
    function = spec.mlProgram.functions["main"]
    kinds = [one.type for one in function.block_specializations[function.opset].operations]
    assert kinds.count("constexpr_affine_dequantize") == 6
    assert kinds.count("quantize") == kinds.count("dequantize") == 7
    assert found.plan is not None
    assert found.plan.encoding.floats == "float16"


def test_layers_that_read_one_value_share_its_pair(tmp_path: Path) -> None:
    class Twins(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.first(image.flatten(1)[:, :8]))
            out: torch.Tensor = self.a(x) * self.b(x)
            return out

    torch.manual_seed(0)
    found, _ = built(Twins().eval(), tmp_path, ONE)
    assert found.operators == 2
    layers = (tmp_path / "layers.json").read_text()
    assert layers.count('"quantize"') == layers.count('"dequantize"') == 1


def test_a_package_for_an_ios_without_quantised_activations_is_refused_before_any_work_is_done() -> None:
    with pytest.raises(Unsupported, match="packages for iOS 16 compute nothing in int8") as refused:
        choose("coreml", "int8", {"ios": "16"})
    assert refused.value.hint == "use --option coreml.ios=17, or --precision w8, which stores weights alone so"
    assert choose("coreml", "w8", {"ios": "16"}).precision == "w8"
    with pytest.raises(Unsupported, match="packages for iOS 17 have no integers of 4 bits"):
        choose("coreml", "w4", {"weights": "groups"})


def test_what_is_of_integers_is_not_taken_by_another_precision() -> None:
    with pytest.raises(UsageError, match=r"coreml\.floats is of integers"):
        choose("coreml", "fp16", {"floats": "fp32"})
    with pytest.raises(UsageError, match=r"coreml\.weights is of weights in 4 bits"):
        choose("coreml", "w8", {"weights": "palette"})


class Large(torch.nn.Module):
    """A layer whose results and bias float16 does not hold, between two that it holds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.large, self.norm = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)
        self.last = torch.nn.Linear(8, 5)
        with torch.no_grad():
            self.large.weight *= 1e5
            self.large.bias[:] = torch.linspace(-2e5, 2e5, 8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.norm(self.large(torch.tanh(self.first(image.flatten(1)[:, :8])))))
        return out


def test_a_layer_whose_numbers_are_beyond_half_is_computed_in_fp32(tmp_path: Path) -> None:
    found, sites = built(Large().eval(), tmp_path, ONE)
    assert found.plan is not None
    assert "large.weight" in found.plan.layers
    assert "large" in found.precision.kept_fp32
    assert errors(tmp_path, sites, found.plan).max() < 2e-2
