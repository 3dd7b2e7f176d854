"""Integers and stored weights in the evaluator, against what coremltools itself makes of the same constants."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pytest
from coreml_oracle import Computes, compute, exported, package, values
from torch import nn

from edgevit.runtimes.coreml.ops import OPERATIONS
from edgevit.runtimes.coreml.program import load

RNG = np.random.default_rng(0)
WEIGHTS = RNG.integers(-128, 128, (4, 6)).astype(np.int8)
SCALES, ZEROS = np.array([0.1, 0.2, 0.3, 0.4], np.float32), np.array([3, -5, 0, 127], np.int8)
MASK = RNG.random((4, 6)) > 0.5
STORED: dict[str, dict[str, Any]] = {
    "constexpr_affine_dequantize": {
        "quantized_data": WEIGHTS, "zero_point": ZEROS, "scale": SCALES, "axis": np.int32(-2),
    },
    "constexpr_cast": {"source_val": values(0, 3, 2).astype(np.float16), "output_dtype": "fp32"},
    "constexpr_lut_to_dense": {
        "indices": RNG.integers(0, 256, 9).astype(np.uint8), "lut": values(0, 64), "shape": np.array([3, 4], np.uint32),
    },
    "constexpr_sparse_to_dense": {
        "nonzero_data": values(0, int(MASK.sum())), "mask": np.packbits(MASK, bitorder="little"),
        "shape": np.array([4, 6], np.uint32),
    },
}  # fmt: skip


def own(name: str, ios: str, given: dict[str, Any]) -> list[np.ndarray]:
    """What coremltools computes of the constants."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools as ct
        from coremltools.converters.mil import Builder
        from coremltools.converters.mil.mil import Function

        with Function({"unused": Builder.placeholder(shape=(1,))}, opset_version=getattr(ct.target, ios)):
            made = getattr(Builder, name)(**given)
    operation = (made[0] if isinstance(made, tuple | list) else made).op
    found = operation.value_inference() if name == "quantize" else operation.materialized_val_inference()
    return list(found) if isinstance(found, tuple) else [found]


def ours(name: str, expected: list[np.ndarray], given: dict[str, Any]) -> list[np.ndarray]:
    return OPERATIONS[name].call(given, [one.dtype for one in expected])


@pytest.mark.parametrize("name", STORED)
def test_stored_weights_are_what_coremltools_makes_of_them(name: str) -> None:
    expected = own(name, "iOS16", STORED[name])
    (got,) = ours(name, expected, STORED[name])
    np.testing.assert_allclose(got, expected[0], rtol=1e-6)


@pytest.mark.parametrize(("zeros", "axis"), [(True, 0), (False, 0), (True, None), (False, None)], ids=str)
def test_numbers_become_integers_and_numbers_again(zeros: bool, axis: int | None) -> None:
    scale = {"scale": SCALES if axis is not None else np.float32(0.3)}
    if zeros:
        scale["zero_point"] = ZEROS if axis is not None else np.int8(7)
    if axis is not None:
        scale["axis"] = np.int32(axis)
    x = np.concatenate([values(0, 4, 6, scale=9), [[0.05], [0.1], [-0.15], [1e6]]], 1).astype(np.float32)
    wanted = own("quantize", "iOS17", {"input": x, "output_dtype": "int8", **scale})
    (whole,) = ours("quantize", wanted, {"input": x, "output_dtype": "int8", **scale})
    assert np.array_equal(whole, wanted[0])
    back = own("dequantize", "iOS17", {"input": whole, **scale})
    np.testing.assert_allclose(ours("dequantize", back, {"input": whole, **scale})[0], back[0], rtol=1e-6)


def test_an_odd_half_goes_to_the_even_integer() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    got = compute(
        "quantize", dtype=np.uint8, input=x, scale=np.float32(1), zero_point=np.uint8(10), output_dtype="uint8"
    )
    assert got.tolist() == [10, 12, 12, 10, 8]


def test_blocks_of_weights_have_their_own_scales() -> None:
    given = {"data": WEIGHTS, "scale": values(0, 2, 3), "offset": RNG.integers(-9, 9, (2, 3)).astype(np.int8)}
    expected = own("constexpr_blockwise_shift_scale", "iOS18", given)
    np.testing.assert_allclose(ours("constexpr_blockwise_shift_scale", expected, given)[0], expected[0], rtol=1e-6)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_blocks_of_weights_have_their_own_tables(axis: int | None) -> None:
    from coremltools.optimize._utils import lut_to_dense

    indices, lut = RNG.integers(0, 4, (4, 6)).astype(np.uint8), values(0, 2, 3, 4, 1 if axis is None else 5)
    expected = lut_to_dense(indices, lut, axis)
    got = compute("constexpr_lut_to_dense", indices=indices, lut=lut, vector_axis=axis)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("axis", [None, 1])
def test_sparse_weights_are_looked_up_and_scaled_where_they_are(axis: int | None) -> None:
    mask, lut = MASK.astype(np.uint8), values(0, 1, 1, 4, 1 if axis is None else 3)
    indices = RNG.integers(0, 4, int(MASK.sum())).astype(np.uint8)
    types = [np.dtype(np.uint8), np.dtype(np.float32)]
    given = {"indices_mask": mask, "indices_nonzero_data": indices, "lut": lut, "vector_axis": axis}
    where, found = OPERATIONS["constexpr_lut_to_sparse"].call(given, types)
    dense = compute("constexpr_sparse_to_dense", nonzero_data=found, mask=where)
    whole = compute("constexpr_sparse_to_dense", dtype=np.uint8, nonzero_data=indices, mask=mask)
    table = compute("constexpr_lut_to_dense", indices=whole, lut=lut, vector_axis=axis)
    assert np.array_equal(dense, np.where(where, table, 0))
    scaled = {"data_mask": mask, "nonzero_data": indices, "scale": values(2, 2, 6)}
    where, found = OPERATIONS["constexpr_sparse_blockwise_shift_scale"].call(scaled, types)
    whole = compute("constexpr_blockwise_shift_scale", data=whole, scale=scaled["scale"])
    assert np.array_equal(found, whole[MASK])


@pytest.mark.parametrize("way", ["linear", "table"])
def test_a_package_with_compressed_weights_is_computed(way: str, tmp_path) -> None:
    import coremltools as ct
    import coremltools.optimize.coreml as optimise
    import torch

    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    saved = package(exported(Computes(layer), x), tmp_path / "whole.mlpackage")
    model = ct.models.MLModel(str(saved), skip_model_load=True)
    if way == "linear":
        how = optimise.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
        small = optimise.linear_quantize_weights(model, optimise.OptimizationConfig(global_config=how))
    else:
        how = optimise.OpPalettizerConfig(mode="uniform", nbits=6, weight_threshold=0)
        small = optimise.palettize_weights(model, optimise.OptimizationConfig(global_config=how))
    small.save(str(tmp_path / "small.mlpackage"))
    program = load(tmp_path / "small.mlpackage")
    assert [step.operation.name for step in program.steps] == ["linear"], "weights are computed when it is opened"
    (got,) = program.run({name: x.numpy() for name in program.inputs}).values()
    with torch.no_grad():
        expected = layer(x).numpy()
    assert 1e-4 < np.abs(got - expected).max() / np.abs(expected).max() < 0.05
