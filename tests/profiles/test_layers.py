from __future__ import annotations

import pytest

from edgevit.errors import GateMissed, Unsupported, UsageError
from edgevit.profiles.layers import Layers, Requirement, parse_requirement
from edgevit.runtimes.base import LayerTime

LAYERS = Layers(
    source="onnxruntime",
    runs=20,
    layers=(
        LayerTime("patch/Conv", "Conv", "patch", "cuda", 6.0),
        LayerTime("blocks.0/Gemm", "Gemm", "blocks.0", "cuda", 3.0),
        LayerTime("model/Gelu", "Gelu", "", "cpu", 0.75),
        LayerTime("Reorder", "Reorder", None, "cpu", 0.25),
    ),
)


def test_time_is_summed_by_operator_module_and_unit_the_largest_first() -> None:
    assert LAYERS.total_ms == 10
    assert list(LAYERS.by("unit").items()) == [("cuda", 9.0), ("cpu", 1.0)]
    assert LAYERS.by("module") == {"patch": 6.0, "blocks.0": 3.0, "(model)": 0.75, "(unknown)": 0.25}
    assert LAYERS.share("CUDAExecutionProvider") == 0.9


def test_a_record_comes_back_as_it_was() -> None:
    assert Layers.model_validate(LAYERS.model_dump(mode="json")) == LAYERS


@pytest.mark.parametrize("text", ["cuda>=90%", "CUDA >= 0.9", "CUDAExecutionProvider>=90.0%"])
def test_a_requirement_that_is_met_says_nothing(text: str) -> None:
    assert parse_requirement(text) == Requirement("cuda", 0.9)
    parse_requirement(text).check(LAYERS)


def test_a_missed_requirement_says_where_the_time_went_and_which_operators_fell_off() -> None:
    with pytest.raises(
        GateMissed, match=r"90\.0% of the time was spent on cuda, 95% is required; 10% on cpu"
    ) as caught:
        parse_requirement("cuda>=95%").check(LAYERS)
    assert caught.value.exit_code == 10
    assert caught.value.hint == "these operators ran elsewhere: Gelu, Reorder"


@pytest.mark.parametrize("text", ["cuda", "cuda>95%", ">=95%", "cuda>=0%", "cuda>=101%", "cuda>=95 percent"])
def test_anything_else_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--require"):
        parse_requirement(text)


def test_a_runtime_that_is_mute_about_layers_says_so(make_artifact) -> None:
    from edgevit.artifact.opened import Artifact
    from edgevit.runtimes.base import Session

    session = Session(Artifact.open(make_artifact()), 1)
    session.runtime = "mute"
    with pytest.raises(Unsupported, match="mute does not tell the time of single layers"):
        session.layers([], 3)
