"""Figures of answers beside the truth: as they are counted by hand, and what holds whatever the answers are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from edgevit.artifact.manifest import TensorSpec
from edgevit.data.targets import Objects
from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.tasks.base import Asked, load_task
from edgevit.tasks.metrics.boxes import AveragePrecision
from edgevit.tasks.metrics.distances import RelativeError
from edgevit.tasks.metrics.overlap import MeanIoU
from edgevit.tasks.metrics.panoptic import PanopticQuality
from edgevit.tasks.metrics.pictures import PeakNoise, psnr, ssim
from edgevit.tasks.metrics.vectors import Probe, nearest, probed

SIDE = 8
FEW = settings(max_examples=30, deadline=None)


def asked(task: str, outputs: dict[str, tuple[str, tuple[int, ...]]], size: tuple[int, int] = (SIDE, SIDE)) -> Asked:
    specs = [
        TensorSpec.model_validate({"name": name, "dtype": dtype, "shape": (1, *shape), "role": "tensor"})
        for name, (dtype, shape) in outputs.items()
    ]
    roles = load_task(task).roles(specs)
    named = tuple(one.model_copy(update={"role": roles[one.name]}) for one in specs)
    return Asked(named, size=size, steps=Preprocess(size=size, crop="squash"))


SEGMENT = asked("segment", {"map": ("int64", (SIDE, SIDE))})
DETECT = asked(
    "detect", {"boxes": ("float32", (9, 4)), "scores": ("float32", (9,)), "labels": ("int64", (9,))}, (100, 100)
)
DEPTH = asked("depth", {"depth": ("float32", (SIDE, SIDE))})
EMBED = asked("embed", {"features": ("float32", (4,))})


def mean_iou(*pairs) -> MeanIoU:
    meter = MeanIoU()
    for said, true in pairs:
        meter.take({"map": np.asarray(said)}, np.asarray(true), SEGMENT)
    return meter


def halves(left: int, right: int) -> np.ndarray:
    return np.repeat([[left] * 4 + [right] * 4], SIDE, axis=0)


def test_mean_iou_is_over_all_pixels_and_the_classes_that_are_there() -> None:
    meter = mean_iou((halves(0, 1), halves(0, 1)), (halves(0, 0), halves(0, 1)))
    assert meter.value() == pytest.approx((64 / 96 + 32 / 64) / 2)
    assert meter.others() == {"pixel accuracy": 96 / 128}
    assert mean_iou((halves(0, 7), halves(0, 1))).value() == pytest.approx(1 / 3)


def test_ignored_pixels_count_for_nothing_and_unseen_ones_as_wrong() -> None:
    assert mean_iou((halves(3, 5), halves(3, -1))).value() == 1.0
    with pytest.raises(UsageError, match="no image of the data holds a pixel with a class"):
        mean_iou((halves(3, 5), halves(-1, -1))).value()
    with pytest.raises(UsageError, match="a mask has 3×2 pixels, its image 8×8"):
        mean_iou((halves(3, 5), np.zeros((2, 3), np.int64)))
    steps = Preprocess(size=(SIDE, SIDE), crop="center", crop_pct=1.0)
    wide = Asked(SEGMENT.outputs, size=(SIDE, 2 * SIDE), steps=steps)
    meter = MeanIoU()
    meter.take({"map": np.zeros((SIDE, SIDE), np.int64)}, np.zeros((SIDE, 2 * SIDE), np.int64), wide)
    assert meter.value() == 0.5


MAPS = arrays(np.int64, (SIDE, SIDE), elements=st.integers(0, 3))


@FEW
@given(st.lists(st.tuples(MAPS, MAPS), min_size=1, max_size=4))
def test_mean_iou_is_a_share_knows_no_order_and_is_one_for_the_truth(pairs) -> None:
    figure = mean_iou(*pairs).value()
    assert 0 <= figure <= 1
    assert mean_iou(*pairs[::-1]).value() == figure
    assert mean_iou(*((true, true) for _, true in pairs)).value() == 1.0


def test_a_mask_of_the_largest_class_takes_no_square_of_memory() -> None:
    assert mean_iou((halves(0, 65_000), halves(0, 65_000))).value() == 1.0


# --- boxes -----------------------------------------------------------------------------------------------------------


def objects(*boxes, classes=None, crowd=None) -> Objects:
    count = len(boxes)
    return Objects(
        np.asarray(boxes, np.float64).reshape(-1, 4),
        np.asarray(classes if classes is not None else [0] * count, np.int64),
        None,
        np.asarray(crowd if crowd is not None else [False] * count, bool),
    )


def precision(*images) -> AveragePrecision:
    """Of (finds, objects), a find being (score, class, box)."""
    meter = AveragePrecision()
    for finds, there in images:
        row = {
            "boxes": np.asarray([box for _, _, box in finds], np.float32).reshape(-1, 4),
            "scores": np.asarray([score for score, _, _ in finds], np.float32),
            "labels": np.asarray([index for _, index, _ in finds], np.int64),
        }
        meter.take(row, there, DETECT)
    return meter


A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [60, 60, 70, 70]


def test_average_precision_is_that_of_101_recalls() -> None:
    both = objects(A, B)
    assert precision(([(0.9, 0, A), (0.8, 0, B)], both)).value() == 1.0
    # right, wrong, right: precision 1 up to recall 0.5 (51 of the 101), then 2/3
    assert precision(([(0.9, 0, A), (0.8, 0, FAR), (0.7, 0, B)], both)).value() == pytest.approx(
        (51 + 50 * 2 / 3) / 101
    )
    # one of two: recall ends at 0.5
    assert precision(([(0.9, 0, A)], both)).value() == pytest.approx(51 / 101)
    # the surest is wrong: 1/2 wherever there is any recall, up to 0.5
    assert precision(([(0.9, 0, FAR), (0.8, 0, A)], both)).value() == pytest.approx(51 / 101 / 2)
    assert precision(([], both)).value() == 0.0


def test_average_precision_is_the_mean_over_overlaps_and_over_classes_with_objects() -> None:
    meter = precision(([(0.9, 0, [0, 0, 10, 7.7])], objects(A)))  # overlap 0.77: six of ten bounds
    assert meter.value() == pytest.approx(0.6)
    assert meter.others() == {"AP50": 1.0}
    two = objects(A, B, classes=[0, 1])
    assert precision(([(0.9, 0, A), (0.9, 5, FAR)], two)).value() == pytest.approx(0.5)


def test_an_object_is_found_once_and_the_surer_find_has_it() -> None:
    # the second find of A is wrong: precision 1 up to recall 1 all the same, as it comes after
    assert precision(([(0.9, 0, A), (0.8, 0, A)], objects(A))).value() == 1.0
    assert precision(([(0.9, 0, A), (0.8, 0, A), (0.7, 0, B)], objects(A, B))).value() == pytest.approx(
        (51 + 50 * 2 / 3) / 101
    )


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong() -> None:
    crowded = objects(A, [50, 50, 90, 90], crowd=[False, True])
    finds = [(0.95, 0, [52, 52, 60, 60]), (0.94, 0, FAR), (0.9, 0, A)]
    assert precision((finds, crowded)).value() == 1.0
    with pytest.raises(UsageError, match="no image of the data holds an object"):
        precision(([(0.9, 0, A)], objects(A, crowd=[True]))).value()


def test_finds_below_what_a_reader_is_shown_count_too() -> None:
    assert precision(([(0.01, 0, A)], objects(A))).value() == 1.0


COORDINATES = st.integers(0, 90)
BOXES = st.builds(lambda x, y, w, h: [x, y, x + w, y + h], COORDINATES, COORDINATES, *[st.integers(1, 10)] * 2)
FINDS = st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.integers(0, 1), BOXES), max_size=5)
THERE = st.lists(BOXES, min_size=1, max_size=4).map(lambda boxes: objects(*boxes))


@FEW
@given(st.lists(st.tuples(FINDS, THERE), min_size=1, max_size=4))
def test_average_precision_is_a_share_knows_no_order_of_images_and_is_one_for_the_truth(images) -> None:
    figure = precision(*images).value()
    assert 0 <= figure <= 1
    assert precision(*images[::-1]).value() == figure
    truth = [([(0.5, 0, box) for box in there.boxes], there) for _, there in images]
    assert precision(*truth).value() == pytest.approx(1.0)


# --- segments --------------------------------------------------------------------------------------------------------


def quality(said, masks, classes, crowd=None) -> float:
    crowd = np.zeros(len(masks), bool) if crowd is None else np.asarray(crowd)
    there = Objects(np.zeros((len(masks), 4)), np.asarray(classes), np.asarray(masks, bool), crowd)
    meter = PanopticQuality()
    meter.take({"map": np.asarray(said)}, there, SEGMENT)
    return meter.value()


def test_panoptic_quality_is_overlap_over_found_missed_and_made_up() -> None:
    left, right = halves(1, 0), halves(0, 1)
    assert quality(halves(0, 1), [left, right], [0, 1]) == 1.0
    assert quality(halves(0, 0), [left, right], [0, 1]) == 0.0  # an overlap of one half is no match
    three = np.repeat([[0] * 5 + [1] * 3], SIDE, axis=0)  # 4/5 and 3/4 of the unions
    assert quality(three, [left, right], [0, 1]) == pytest.approx((4 / 5 + 3 / 4) / 2)
    assert quality(halves(0, 9), [left, right], [0, 1]) == pytest.approx(1 / 3)  # one right, one missed, one made up


def test_panoptic_quality_leaves_out_crowds_and_what_is_not_known() -> None:
    left, right = halves(1, 0), halves(0, 1)
    assert quality(halves(0, 1), [left], [0]) == 1.0
    assert quality(halves(0, 1), [left, right], [0, 1], [False, True]) == 1.0
    assert quality(halves(0, 0), [left], [0]) == 1.0  # the unknown half is no part of the union
    with pytest.raises(UsageError, match="boxes and no segments"):
        PanopticQuality().take({"map": halves(0, 1)}, objects(A), SEGMENT)


# --- pictures --------------------------------------------------------------------------------------------------------

GREY = arrays(np.float64, (13, 15), elements=st.integers(0, 255))


@FEW
@given(GREY, GREY)
def test_psnr_and_ssim_are_those_of_scikit_image(one, other) -> None:
    if (one != other).any():
        assert psnr(one, other) == pytest.approx(peak_signal_noise_ratio(one, other, data_range=255), rel=1e-12)
    theirs = structural_similarity(
        one, other, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(one, other) == pytest.approx(theirs, abs=1e-9)
    assert ssim(one, one) == pytest.approx(1.0)
    assert psnr(one, one) == 100.0


def restored(made: np.ndarray, true: np.ndarray, taken: tuple[int, int]) -> PeakNoise:
    about = asked("restore", {"picture": ("uint8", (3, *made.shape[:2]))}, taken)
    meter = PeakNoise()
    meter.take({"picture": made.transpose(2, 0, 1)}, true, about)
    return meter


@pytest.mark.parametrize(("true", "taken"), [(32, (8, 8)), (24, (16, 16)), (48, (16, 16))])
def test_a_truth_of_another_scale_is_no_truth_of_the_model(true: int, taken: tuple[int, int]) -> None:
    about = asked("restore", {"picture": ("uint8", (3, 2 * SIDE, 2 * SIDE))}, taken)
    about = replace(about, steps=Preprocess(size=(SIDE, SIDE), crop="squash"))
    with pytest.raises(UsageError, match=r"a true picture has .* pixels, its image .*; .* 2 times as large"):
        PeakNoise().take({"picture": np.zeros((3, 16, 16), np.uint8)}, np.zeros((true, true, 3), np.uint8), about)


def test_a_picture_twice_as_large_loses_two_pixels_at_each_edge() -> None:
    true = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    made = true.copy()
    made[:2] = made[-2:] = 0
    made[:, :2] = made[:, -2:] = 0
    meter = restored(made, true, (16, 16))
    assert meter.value() == 100.0
    assert meter.others() == {"SSIM": pytest.approx(1.0)}
    assert restored(made, true, (32, 32)).value() < 30


def test_brightness_alone_is_compared() -> None:
    true, made = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    made[..., 0] = 255  # red is 65.481 of Y
    assert restored(made, true, (16, 16)).value() == pytest.approx(10 * np.log10(255**2 / 65.481**2))


# --- depth -----------------------------------------------------------------------------------------------------------


def distances(said, true) -> RelativeError:
    meter = RelativeError()
    meter.take({"depth": np.asarray(said, np.float32)}, np.asarray(true, np.float32), DEPTH)
    return meter


def test_depth_is_judged_in_metres_where_it_is_known() -> None:
    true = halves(2, 0)
    meter = distances(np.full((SIDE, SIDE), 2.4), true)
    assert meter.value() == pytest.approx(0.2)
    assert meter.others() == {"δ1": 1.0}
    assert distances(np.full((SIDE, SIDE), 2.5), true).others() == {"δ1": 0.0}
    assert distances(np.full((SIDE, SIDE), -2.0), true).others() == {"δ1": 0.0}
    with pytest.raises(UsageError, match="whose distance is known"):
        distances(true, halves(0, 0)).value()


@FEW
@given(arrays(np.float32, (SIDE, SIDE), elements=st.floats(0.5, 80, width=32)))
def test_the_truth_has_no_relative_error(true) -> None:
    assert (distances(true, true).value(), distances(true, true).others()) == (0.0, {"δ1": 1.0})


# --- embeddings ------------------------------------------------------------------------------------------------------


def probe(vectors, classes) -> Probe:
    meter = Probe()
    for vector, index in zip(vectors, classes, strict=True):
        meter.take({"features": np.asarray(vector, np.float32)}, index, EMBED)
    return meter


def test_a_probe_is_what_ridge_regression_says_of_each_row_that_it_was_not_fitted_to() -> None:
    random = np.random.default_rng(3)
    vectors, classes = random.normal(size=(14, 4)), random.integers(0, 3, 14)
    given_classes = (classes[:, None] == np.unique(classes)).astype(float)
    centred = vectors - vectors.mean(0)
    ridge = 1e-3 * np.trace(centred @ centred.T) / 14
    said = []
    for row in range(14):
        rest = np.arange(14) != row
        mean, middle = given_classes[rest].mean(0), vectors[rest].mean(0)
        inner = vectors[rest] - middle
        weights = np.linalg.solve(inner.T @ inner + ridge * np.eye(4), inner.T @ (given_classes[rest] - mean))
        said.append(np.unique(classes)[((vectors[row] - middle) @ weights + mean).argmax()])
    assert probed(vectors, classes).tolist() == said


def test_clusters_are_told_apart_and_noise_is_not() -> None:
    random = np.random.default_rng(0)
    classes = np.arange(30) % 3
    clear = np.eye(4)[classes] + random.normal(size=(30, 4)) * 0.01
    meter = probe(clear, classes)
    assert (meter.value(), meter.others()) == (1.0, {"5 nearest": 1.0})
    assert probe(random.normal(size=(30, 4)), classes).value() < 0.7
    with pytest.raises(UsageError, match="more than one class"):
        probe(clear, np.zeros(30)).value()


def test_the_nearest_are_those_of_the_same_direction_whatever_their_length() -> None:
    vectors = np.tile([[1.0, 0], [50, 1], [0.1, 0], [0, 1.0], [1, 70], [0, 0.1]], (2, 1))
    classes = np.tile([4, 4, 4, 7, 7, 7], 2)
    assert nearest(vectors, classes).tolist() == classes.tolist()
    assert nearest(np.zeros((4, 2)), np.array([0, 0, 1, 1])).shape == (4,)


@FEW
@given(arrays(np.float32, (7, 4), elements=st.floats(-3, 3, width=16)), st.permutations(range(7)))
def test_a_probe_is_a_share_and_knows_no_order(vectors, order) -> None:
    classes = np.arange(7) % 2
    meter, other = probe(vectors, classes), probe(vectors[list(order)], classes[list(order)])
    assert 0 <= meter.value() <= 1
    assert (meter.value(), meter.others()) == (other.value(), other.others())
