"""Shapes, slices, gathers, padding and resizing against numpy and PyTorch, over random shapes and attributes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coreml_oracle import compute, error, values
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgeVitError
from edgevit.runtimes.coreml.ops import OPERATIONS

SIDES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("shape", "asked", "expected"),
    [
        ((2, 3, 4), (6, 4), (6, 4)),
        ((2, 3, 4), (-1, 2), (12, 2)),
        ((2, 3, 4), (0, -1), (3, 8)),
        ((2, 3, 4), (0, 0, -1), (2, 3, 4)),
        ((2, 50), (1, 0, -1, 0), (1, 1, 2, 50)),
        ((1, 1), (1,), (1,)),
    ],
)
def test_reshape_knows_the_rest_and_the_sides_that_stay(shape, asked, expected) -> None:
    x = values(0, *shape)
    got = compute("reshape", x=x, shape=np.array(asked, np.int32))
    assert got.shape == expected
    assert (got.ravel() == x.ravel()).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=SIDES, data=st.data())
def test_transpose_takes_negative_axes(shape, data) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    signed = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in order]
    x = values(0, *shape)
    assert (compute("transpose", x=x, perm=np.array(signed, np.int32)) == x.transpose(order)).all()


def test_squeeze_leaves_axes_that_are_longer_than_one() -> None:
    x = values(0, 2, 1, 3, 1)
    assert compute("squeeze", x=x, axes=[1, 0]).shape == (2, 3, 1)
    assert compute("squeeze", x=x, axes=[-1]).shape == (2, 1, 3)
    assert compute("squeeze", x=x).shape == (2, 3)
    assert compute("expand_dims", x=compute("squeeze", x=x), axes=[1, -1]).shape == (2, 1, 3, 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=SIDES, sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_split_undoes_concat(shape, sizes, data) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    parts = []
    for seed, size in enumerate(sizes):
        sides = list(shape)
        sides[axis] = size
        parts.append(values(seed, *sides))
    joined = compute("concat", values=parts, axis=np.int32(axis))
    assert (joined == np.concatenate(parts, axis)).all()
    inputs = {"x": joined, "axis": np.int32(axis), "split_sizes": np.array(sizes, np.int32)}
    found = OPERATIONS["split"].call(inputs, [np.dtype(np.float32)] * len(sizes))
    assert all((got == part).all() for got, part in zip(found, parts, strict=True))


def test_equal_splits_and_stacks() -> None:
    x = values(0, 2, 6)
    found = OPERATIONS["split"].call({"x": x, "axis": 1, "num_splits": np.int32(3)}, [np.dtype(np.float32)] * 3)
    assert [part.tolist() for part in found] == [part.tolist() for part in np.split(x, 3, 1)]
    assert (compute("stack", values=found, axis=-1) == np.stack(found, -1)).all()


def test_concat_weaves_and_joins_scalars() -> None:
    first, second = np.int32([[1, 2], [3, 4], [5, 6]]), np.int32([[7, 8], [9, 10], [11, 12]])
    woven = compute("concat", dtype=np.int32, values=[first, second], axis=0, interleave=True)
    assert woven.tolist() == [[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]]
    assert compute("concat", dtype=np.int32, values=[np.int32(3), np.int32([4, 5])], axis=0).tolist() == [3, 4, 5]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(shape=SIDES, data=st.data())
def test_slice_by_index_is_numpy_s(shape, data) -> None:
    draw = data.draw
    begin, end, stride, masks, wanted = [], [], [], [[], [], []], []
    for side in shape:
        first, last = draw(st.integers(-side, side - 1)), draw(st.integers(-side, side))
        step = draw(st.sampled_from([1, 1, 2, -1, -2]))
        opened, closed, squeezed = draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([False, False, True]))
        begin.append(first)
        end.append(last)
        stride.append(step)
        for mask, flag in zip(masks, (opened, closed, squeezed), strict=True):
            mask.append(flag)
        wanted.append(first if squeezed else slice(None if opened else first, None if closed else last, step))
    x = values(0, *shape)
    named = zip(("begin_mask", "end_mask", "squeeze_mask"), (np.array(mask) for mask in masks), strict=True)
    got = compute(
        "slice_by_index", x=x, begin=np.array(begin), end=np.array(end), stride=np.array(stride), **dict(named)
    )
    assert got.shape == x[tuple(wanted)].shape
    assert (got == x[tuple(wanted)]).all()


def test_slices_without_masks_take_what_they_say() -> None:
    x = values(0, 4, 6)
    assert (compute("slice_by_index", x=x, begin=[1, 0], end=[3, -1]) == x[1:3, :-1]).all()
    assert (compute("slice_by_size", x=x, begin=[1, -3], size=[2, -1]) == x[1:3, 3:]).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shape=SIDES, data=st.data())
def test_gather_is_pytorch_s_index_select_with_an_index_of_any_rank(shape, data) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    wanted = data.draw(st.lists(st.integers(1, 3), max_size=2))
    indices = np.random.default_rng(0).integers(0, shape[axis], wanted, dtype=np.int32)
    x = values(0, *shape)
    got = compute("gather", x=x, indices=indices, axis=np.int32(axis), batch_dims=0, validate_indices=False)
    assert (got == np.take(x, indices, axis)).all()
    along = np.random.default_rng(1).integers(0, shape[axis], shape)
    expected = torch.gather(torch.from_numpy(x), axis, torch.from_numpy(along)).numpy()
    assert (compute("gather_along_axis", x=x, indices=along.astype(np.int32), axis=axis) == expected).all()


def test_gather_walks_batch_axes_together() -> None:
    x, indices = values(0, 2, 3, 5, 4), np.random.default_rng(0).integers(0, 5, (2, 3, 7), dtype=np.int32)
    got = compute("gather", x=x, indices=indices, axis=2, batch_dims=2)
    assert (got == np.take_along_axis(x, indices[..., None], 2)).all()


def test_gather_nd_reads_parts_by_vector() -> None:
    x = values(0, 3, 4, 5)
    indices = np.array([[0, 1], [2, 3]], np.int32)
    assert (compute("gather_nd", x=x, indices=indices) == x[[0, 2], [1, 3]]).all()
    batched = np.array([[[1, 2], [0, 0]], [[3, 4], [1, 1]], [[2, 2], [0, 4]]], np.int32)
    expected = np.stack([x[row][tuple(batched[row].T)] for row in range(3)])
    assert (compute("gather_nd", x=x, indices=batched, batch_dims=1) == expected).all()


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_bounds_is_an_error_and_never_a_guess(index) -> None:
    x, indices = values(0, 3), np.array([0, index], np.int32)
    with pytest.raises(EdgeVitError, match="reads outside its tensor"):
        compute("gather", x=x, indices=indices, validate_indices=False)


def test_a_negative_index_counts_from_the_end_before_ios_17() -> None:
    assert compute("gather", x=np.float32([1, 2, 3]), indices=np.int32([-1]))[0] == 3


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), mode=st.sampled_from(["constant", "reflect", "replicate"]))
def test_pad_is_pytorch_s_in_every_mode(data, mode) -> None:
    shape = data.draw(st.lists(st.integers(3, 5), min_size=4, max_size=4))
    pairs = [(data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in range(2)]
    x = values(0, *shape)
    pads = np.array([side for pair in pairs for side in pair], np.int32)
    got = compute("pad", x=x, pad=pads, mode=mode, constant_val=np.float32(-1.5))
    around = [side for pair in reversed(pairs) for side in pair]
    value = {"value": -1.5} if mode == "constant" else {}
    assert (got == F.pad(torch.from_numpy(x), around, mode=mode, **value).numpy()).all()


def test_tensors_are_made_and_repeated() -> None:
    x = values(0, 2, 3)
    assert compute("shape", dtype=np.int32, x=x).tolist() == [2, 3]
    assert compute("fill", shape=np.array([2, 2], np.int32), value=np.float32(3)).tolist() == [[3, 3], [3, 3]]
    assert compute("fill_like", ref_tensor=x, value=np.float32(2)).tolist() == [[2] * 3] * 2
    assert compute("range_1d", dtype=np.int32, start=1, end=8, step=3).tolist() == [1, 4, 7]
    assert (compute("tile", x=x, reps=np.array([2, 3])) == np.tile(x, (2, 3))).all()
    assert (compute("reverse", x=x, axes=[1]) == x[:, ::-1]).all()
    assert (compute("identity", x=x) == x).all()


@pytest.mark.parametrize(("lower", "upper"), [(-1, 0), (0, -1), (1, 2), (-1, -1), (0, 0)])
def test_band_part_keeps_a_band(lower, upper) -> None:
    x = values(0, 2, 4, 5)
    expected = torch.from_numpy(x)
    expected = expected if upper < 0 else expected.tril(upper)
    expected = expected if lower < 0 else expected.triu(-lower)
    assert (compute("band_part", x=x, lower=lower, upper=upper) == expected.numpy()).all()


def test_pixels_are_shuffled_as_in_pytorch() -> None:
    x = values(0, 2, 12, 3, 5)
    shuffled = compute("pixel_shuffle", x=x, upscale_factor=2)
    assert (shuffled == F.pixel_shuffle(torch.from_numpy(x), 2).numpy()).all()
    assert (compute("pixel_unshuffle", x=shuffled, downscale_factor=2) == x).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    factors=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    corners=st.booleans(),
)
def test_upsampling_is_pytorch_s(sides, factors, corners) -> None:
    x = values(0, 2, 3, *sides)
    inputs = {"x": x, "scale_factor_height": np.float32(factors[0]), "scale_factor_width": np.float32(factors[1])}
    expected = F.interpolate(torch.from_numpy(x), scale_factor=factors, mode="bilinear", align_corners=corners)
    assert error(compute("upsample_bilinear", **inputs, align_corners=corners), expected) <= 1e-5
    nearest = F.interpolate(torch.from_numpy(x), scale_factor=factors, mode="nearest").numpy()
    assert (compute("upsample_nearest_neighbor", **inputs) == nearest).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sides=st.tuples(*[st.integers(1, 9)] * 2), sizes=st.tuples(*[st.integers(1, 12)] * 2), corners=st.booleans())
def test_resizing_to_a_size_is_pytorch_s(sides, sizes, corners) -> None:
    x = values(0, 1, 2, *sides)
    inputs = {"x": x, "target_size_height": sizes[0], "target_size_width": sizes[1]}
    expected = F.interpolate(torch.from_numpy(x), size=sizes, mode="bilinear", align_corners=corners)
    mode = "STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS"
    assert error(compute("resize_bilinear", **inputs, sampling_mode=mode), expected) <= 1e-5
    nearest = F.interpolate(torch.from_numpy(x), size=sizes, mode="nearest").numpy()
    assert (compute("resize_nearest_neighbor", **inputs) == nearest).all()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("UNALIGN_CORNERS", [0.0, 0.1, 0.5, 0.9, 1.0]),
        ("STRICT_ALIGN_CORNERS", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("ALIGN_CORNERS", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("DEFAULT", [0.0, 0.4, 0.8, 1.0, 1.0]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
    ],
)
def test_sampling_modes_place_points_as_mil_documents(mode, expected) -> None:
    ramp = np.float32([[[0, 1]]])
    got = compute("resize_bilinear", x=ramp, target_size_height=1, target_size_width=5, sampling_mode=mode)
    assert error(got[0, 0], np.array(expected)) <= 1e-6


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["reshape", "transpose", "slice", "concat", "tile"]), dtype=st.sampled_from(["f2", "i4", "?"])
)
def test_moving_values_keeps_their_type_and_bits(name, dtype) -> None:
    x = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(dtype)
    inputs = {
        "reshape": {"x": x, "shape": [4, 3]},
        "transpose": {"x": x, "perm": [1, 0]},
        "slice": {"x": x, "begin": [0, 1], "end": [3, 3]},
        "concat": {"values": [x, x], "axis": 0},
        "tile": {"x": x, "reps": [1, 2]},
    }[name]
    expected = {
        "reshape": x.reshape(4, 3),
        "transpose": x.T,
        "slice": x[:, 1:3],
        "concat": np.concatenate([x, x]),
        "tile": np.tile(x, (1, 2)),
    }[name]
    got = compute("slice_by_index" if name == "slice" else name, dtype=dtype, **inputs)
    assert got.dtype == np.dtype(dtype)
    assert (got == expected).all()
