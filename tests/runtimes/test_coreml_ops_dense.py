"""What decoders, deformable layers and rankings are made of, through coremltools and the evaluator, against PyTorch."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coreml_oracle import Computes, compute, converted, error, exported, values
from torch import Tensor, nn

from edgevit.errors import EdgeVitError
from edgevit.runtimes.coreml.ops import OPERATIONS


def places(x: Tensor) -> Tensor:
    """Which of five each value is, from the map itself."""
    return (x * 1.5).floor().to(torch.int32).clamp(0, 4)


def sampled(mode: str, padding: str, aligned: bool) -> Computes:
    def sample(x: Tensor) -> Tensor:
        grid = x[:, :2].permute(0, 2, 3, 1) * 1.3 + 0.01  # some of it outside on all sides, twice around too
        return F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=aligned)

    return Computes(sample)


def into(x: Tensor) -> Tensor:
    """Rows written to the places of others, added where two meet."""
    index = torch.tensor([2, 0, 2])[None, :, None, None].expand(2, 3, 10, 12)
    return x.scatter_add(1, index, 2 * x[:, :3])


CASES = {
    "deconvolution": nn.ConvTranspose2d(6, 4, 2, 2),
    "deconvolution with padding": nn.ConvTranspose2d(6, 4, (4, 3), (2, 1), (1, 2)),
    "deconvolution with output padding": nn.ConvTranspose2d(6, 4, 3, 2, 1, 1),
    "deconvolution with steps wider than the kernel": nn.ConvTranspose2d(6, 4, 2, 3, bias=False),
    "deconvolution in groups, dilated": nn.ConvTranspose2d(6, 9, 3, 2, 1, groups=3, dilation=2),
    "deconvolution of each channel": nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=6),
    "deconvolution 1-d": nn.Sequential(nn.Flatten(2), nn.ConvTranspose1d(6, 3, 5, 3, 1)),
    **{
        f"grid {mode}, {padding}, {'aligned' if aligned else 'not aligned'}": sampled(mode, padding, aligned)
        for mode, padding, aligned in itertools.product(
            ("bilinear", "nearest"), ("zeros", "border", "reflection"), (True, False)
        )
    },
    "top-k": Computes(lambda x: x.flatten(2).topk(5, 2).values),
    "places of top-k, from below": Computes(lambda x: x.flatten(2).topk(4, 2, largest=False).indices),
    "sorting": Computes(lambda x: x.sort(1, descending=True).values),
    "places of sorting": Computes(lambda x: x.argsort(1)),
    "running sum": Computes(lambda x: x.cumsum(2)),
    "scattered sum": Computes(into),
    "one set of many": Computes(lambda x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), x[:, :1])),
    "assignment to places": Computes(lambda x: x.index_put((torch.tensor([1, 0]), torch.tensor([2, 5])), x[0, 0])),
    "assignment to a slice": Computes(lambda x: x.slice_scatter(2 * x[:, 1:3], 1, 1, 3)),
    "one-hot": Computes(lambda x: F.one_hot(places(x).long(), 5).float() * 0.5),
    "arctangent of two": Computes(lambda x: torch.atan2(x[:, :3], x[:, 3:])),
    "tangents": Computes(lambda x: torch.tan(x) + torch.sinh(x) + torch.atan(x)),
    "logarithm of sums": Computes(lambda x: torch.logsumexp(x, (1, 3))),
    "softplus": Computes(lambda x: F.softplus(x, beta=2)),
    "lower triangle": Computes(lambda x: x.tril(1)),
    "unshuffled pixels": nn.PixelUnshuffle(2),
}


class All(nn.Module):
    """Every case in one module, so that the converter runs once for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = nn.ModuleList(CASES.values())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(case(image) for case in self.cases)


@pytest.fixture(scope="module")
def computed() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs by case: the evaluator's in float32, and PyTorch's in float64."""
    torch.manual_seed(0)
    module, x = All().eval(), torch.randn(2, 6, 10, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(x.double())
    got = converted(exported(module, x)).run({"image": x.numpy()})
    return dict(zip(CASES, got.values(), strict=True)), dict(zip(CASES, (one.numpy() for one in exact), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_converted_module_is_computed_as_pytorch_does(name, computed) -> None:
    got, exact = (found[name] for found in computed)
    assert error(got, exact) <= (1e-5 if np.issubdtype(got.dtype, np.floating) else 0)


def test_a_deconvolution_that_keeps_the_same_is_cut_evenly() -> None:
    x, weight = values(0, 1, 2, 5, 6), values(1, 2, 3, 4, 3)
    got = compute("conv_transpose", x=x, weight=weight, pad_type="same", strides=[2, 1])
    whole = F.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(weight), stride=(2, 1))
    assert got.shape == (1, 3, 10, 6)
    assert error(got, whole[:, :, 1:11, 1:7]) <= 1e-6


def test_a_deconvolution_may_be_told_its_shape() -> None:
    x, weight = values(0, 1, 2, 4, 4), values(1, 2, 3, 3, 3)
    how = {"pad": [1, 1, 1, 1], "pad_type": "custom", "strides": [2, 2], "output_shape": [1, 3, 8, 8]}
    expected = F.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(weight), None, 2, 1, 1)
    assert error(compute("conv_transpose", x=x, weight=weight, **how), expected) <= 1e-6


def test_a_map_is_mirrored_with_its_border_or_without() -> None:
    x = np.array([1, 2, 3], np.float32).reshape(1, 1, 1, 3)
    at = np.stack([np.arange(-3, 6), np.zeros(9)], -1).reshape(1, 1, 9, 2).astype(np.float32)
    how = {"coordinates": at, "coordinates_mode": "unnormalized", "align_corners": True, "padding_value": 7.0}
    for padding, expected in (
        ("constant", [7, 7, 7, 1, 2, 3, 7, 7, 7]),
        ("border", [1, 1, 1, 1, 2, 3, 3, 3, 3]),
        ("reflection", [2, 3, 2, 1, 2, 3, 2, 1, 2]),
        ("symmetric", [3, 2, 1, 1, 2, 3, 3, 2, 1]),
    ):
        for sampling in ("bilinear", "nearest"):
            assert (
                compute("resample", x=x, sampling_mode=sampling, padding_mode=padding, **how).ravel().tolist()
                == expected
            )


def test_places_may_be_shares_of_the_map() -> None:
    x = values(0, 1, 1, 3, 4)
    at = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32).reshape(1, 1, 2, 2)
    how = {"sampling_mode": "bilinear", "padding_mode": "border", "padding_value": 0.0}
    got = compute("resample", x=x, coordinates=at, coordinates_mode="normalized_zero_to_one", align_corners=True, **how)
    assert got.ravel().tolist() == [x[0, 0, 2, 0], x[0, 0, 0, 3]]


def test_an_affine_map_is_sampled_as_pytorch_does() -> None:
    x, matrices = values(0, 2, 3, 5, 6), values(1, 2, 6, scale=0.7)
    grid = F.affine_grid(torch.from_numpy(matrices).reshape(2, 2, 3), (2, 3, 4, 7), align_corners=True)
    got = compute(
        "affine", x=x, transform_matrix=matrices, output_height=4, output_width=7, sampling_mode="bilinear",
        padding_mode="constant", padding_value=0.0, coordinates_mode="normalized_minus_one_to_one", align_corners=True,
    )  # fmt: skip
    assert error(got, F.grid_sample(torch.from_numpy(x), grid, align_corners=True)) <= 1e-5


@pytest.mark.parametrize(
    ("mode", "box"),
    [
        ("CORNERS_HEIGHT_FIRST", [1, 2, 5, 6]),
        ("CORNERS_WIDTH_FIRST", [2, 1, 6, 5]),
        ("CENTER_SIZE_HEIGHT_FIRST", [3, 4, 4, 4]),
        ("CENTER_SIZE_WIDTH_FIRST", [4, 3, 4, 4]),
    ],
)
def test_a_box_is_told_in_four_ways(mode, box) -> None:
    x = values(0, 2, 3, 8, 9)
    how = {"box_coordinate_mode": mode, "target_height": 5, "target_width": 5, "sampling_mode": "ALIGN_CORNERS"}
    boxes = np.array([box], np.float32)
    assert error(compute("crop_resize", x=x, boxes=boxes, box_indices=[1], **how), x[1:, :, 1:6, 2:7]) <= 1e-6
    older = compute("crop_resize", x=x, roi=boxes.reshape(1, 1, 4, 1, 1), **how)
    assert error(older, x[None, :, :, 1:6, 2:7]) <= 1e-6
    indexed = np.insert(boxes, 0, 1, axis=1).reshape(1, 1, 5, 1, 1)
    assert error(compute("crop_resize", x=x, roi=indexed, **how), x[None, 1:, :, 1:6, 2:7]) <= 1e-6


def test_what_a_box_has_outside_the_map_is_padding_and_shares_are_of_the_last_pixel() -> None:
    x = values(0, 1, 1, 4, 5)
    how = {"target_height": 4, "target_width": 5, "sampling_mode": "STRICT_ALIGN_CORNERS"}
    whole = compute("crop_resize", x=x, boxes=np.array([[0, 0, 1, 1]], np.float32), normalized_coordinates=True, **how)
    assert error(whole, x) <= 1e-6
    outside = compute("crop_resize", x=x, boxes=np.array([[-1, 0, 2, 4]], np.float32), pad_value=9.0, **how)
    assert (outside[0, 0, 0] == 9).all()
    assert error(outside[:, :, 1:], x[:, :, :3]) <= 1e-6


@pytest.mark.parametrize(
    "mode", ["DEFAULT", "ALIGN_CORNERS", "STRICT_ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS"]
)
def test_a_box_of_the_whole_map_is_the_map_resized(mode) -> None:
    x = values(0, 1, 2, 6, 7)
    whole = np.array([[0, 0, 5, 6]], np.float32)
    sizes = {"target_height": 3, "target_width": 4}
    got = compute("crop_resize", x=x, boxes=whole, box_indices=[0], sampling_mode=mode, **sizes)
    resized = compute("resize_bilinear", x=x, target_size_height=3, target_size_width=4, sampling_mode=mode)
    assert error(got, resized) <= 1e-6
    assert error(compute("resize", x=x, shape=[2, 3, 4], resized_dims=2, sampling_mode=mode), resized) <= 1e-6
    assert compute("resize", x=x, shape=[0, 0], resized_dims=2, sampling_mode=mode).shape == x.shape


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("add", [9, 20, 30]), ("sub", [1, 20, 30]), ("mul", [30, 20, 30]), ("max", [5, 20, 30]), ("min", [1, 20, 30]),
        ("div", [5 / 6, 20, 30]), ("update", [3, 20, 30]),
    ],
)  # fmt: skip
def test_what_is_scattered_twice_to_a_place_is_combined(mode, expected) -> None:
    start, updates = np.array([5, 20, 30], np.float32), np.array([1, 3], np.float32)
    if mode in ("mul", "div"):
        updates = np.array([2, 3], np.float32)
    indices = np.array([0, 0], np.int32)
    for name, given in (("scatter", indices), ("scatter_along_axis", indices), ("scatter_nd", indices[:, None])):
        assert compute(name, data=start, indices=given, updates=updates, mode=mode).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["scatter", "scatter_along_axis", "scatter_nd"])
def test_a_negative_place_is_outside_from_ios_17_on(name) -> None:
    given = {
        "data": values(0, 3),
        "indices": np.full((1, 1) if name == "scatter_nd" else (1,), -1),
        "updates": values(1, 1),
    }
    compute(name, **given)
    with pytest.raises(EdgeVitError, match=f"{name} reads outside"):
        compute(name, validate_indices=False, **given)


def test_integers_are_not_divided_in_a_scatter() -> None:
    with pytest.raises(EdgeVitError, match="does not divide integers"):
        compute("scatter", data=np.array([4]), indices=np.array([0]), updates=np.array([3]), mode="div")


def test_equals_are_ranked_by_their_place() -> None:
    x = np.array([[1, 3, 3, 0, 1]], np.uint8)
    tops, where = OPERATIONS["topk"].call({"x": x, "k": -1}, [np.dtype(np.uint8), np.dtype(np.int32)])
    assert (tops.tolist(), where.tolist()) == ([[3, 3, 1, 1, 0]], [[1, 2, 0, 4, 3]])
    assert compute("argsort", x=x, ascending=True, dtype=np.int32).tolist() == [[3, 0, 4, 1, 2]]
    assert compute("topk", x=x, k=2, ascending=True, return_indices=False, dtype=np.uint8).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("exclusive", "reverse", "expected"),
    [(False, False, [1, 3, 6]), (True, False, [0, 1, 3]), (False, True, [6, 5, 3]), (True, True, [5, 3, 0])],
)
def test_a_running_sum_may_leave_itself_out_and_run_back(exclusive, reverse, expected) -> None:
    x = np.array([[1], [2], [3]], np.float32)
    assert compute("cumsum", x=x, exclusive=exclusive, reverse=reverse).ravel().tolist() == expected


def test_a_one_hot_axis_stands_where_it_is_asked_for() -> None:
    indices = np.array([[0, 2], [1, 5]], np.int32)
    got = compute("one_hot", indices=indices, one_hot_vector_size=3, axis=1, on_value=2.0, off_value=-1.0)
    assert got[:, :, 0].tolist() == [[2, -1, -1], [-1, 2, -1]]
    assert got[:, :, 1].tolist() == [[-1, -1, 2], [-1, -1, -1]]


def test_a_slice_is_updated_as_it_is_read() -> None:
    x = values(0, 3, 4)
    how = {"begin": [0, -1], "end": [3, 0], "stride": [1, -2], "squeeze_mask": [True, False], "end_mask": [False, True]}
    got = compute("slice_update", x=x, update=np.zeros(2, np.float32), **how)
    assert (compute("slice_by_index", x=got, **how) == 0).all()
    assert (got[0, ::2] == x[0, ::2]).all()
    assert (got[1:] == x[1:]).all()


def test_depth_goes_to_space_by_blocks_of_channels() -> None:
    x = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)
    got = compute("depth_to_space", x=x, block_size=2)
    assert got[0, 1].tolist() == [[1, 3], [5, 7]]
    assert (compute("space_to_depth", x=got, block_size=2) == x).all()


def test_windows_slide_along_an_axis() -> None:
    x = values(0, 2, 7, 3)
    got = compute("sliding_windows", x=x, axis=-2, size=3, stride=2)
    assert (got == torch.from_numpy(x).unfold(1, 3, 2).permute(0, 1, 3, 2).numpy()).all()


def test_sides_come_from_other_tensors_and_crops_from_both_ends() -> None:
    x = values(0, 30, 2)
    like = {"ref_tensors": [np.zeros((2, 3, 4)), np.zeros((1, 5, 2))], "begins": [0, 1], "ends": [2, 0]}
    assert compute("reshape_like", x=x, end_masks=[False, True], **like).shape == (2, 3, 5, 2)
    assert compute("flatten2d", x=values(0, 2, 3, 4), axis=2).shape == (6, 4)
    assert (compute("crop", x=x[None], crop_height=[1, 2], crop_width=[0, 1]) == x[None, 1:28, :1]).all()
    assert compute("non_zero", x=np.array([[0, 3], [4, 0]]), dtype=np.int32).tolist() == [[0, 1], [1, 0]]


def test_plain_functions_are_as_documented() -> None:
    x = np.array([-2, 0.5, 3], np.float32)
    assert compute("clamped_relu", x=x, alpha=0.5, beta=1.0).tolist() == [-1, 0.5, 1]
    assert compute("linear_activation", x=x, alpha=2.0, beta=1.0).tolist() == [-3, 2, 7]
    assert error(compute("scaled_tanh", x=x, alpha=2.0, beta=0.5), 2 * np.tanh(x / 2)) <= 1e-6
    assert compute("reduce_l1_norm", x=x).tolist() == 5.5
    assert compute("reduce_log_sum", x=np.abs(x)).tolist() == pytest.approx(np.log(5.5))
    assert compute("reduce_log_sum_exp", x=x + 500).tolist() == pytest.approx(500 + np.log(np.exp(x).sum()))
