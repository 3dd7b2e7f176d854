"""What travels to a device says the same there: the metric of every task, to its last bit, of images of any shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgevit.artifact.manifest import TensorSpec
from edgevit.data.crops import arrays_of, read
from edgevit.data.labelled import LabelledData, from_arrays
from edgevit.data.npz import read_arrays
from edgevit.data.targets import Kind, Objects, Targets
from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.tasks.base import load_task
from edgevit.tasks.metrics.measuring import Bench

SIZES = ((20, 30), (33, 21), (24, 24))
STEPS = [
    Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, crop=crop) for crop in ("center", "squash", "letterbox")
]
random = np.random.default_rng(5)
IMAGES = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def objects(size: tuple[int, int], count: int, masks: bool) -> Objects:
    low = random.integers(0, 12, (count, 2)).astype(np.float64)
    boxes = np.concatenate([low, low + 6], axis=1)
    marks = np.zeros((count, *size), np.bool_)
    for mark, (left, top, right, bottom) in zip(marks, boxes.astype(int), strict=True):
        mark[top:bottom, left:right] = True
    return Objects(boxes, np.arange(count) % 3, marks if masks else None, np.arange(count) == 2)


TARGETS: dict[str, tuple[Kind, str, list]] = {
    "masks": ("masks", "segment", [random.integers(-1, 3, size) for size in SIZES]),
    "classes of 300": ("masks", "segment", [random.integers(-1, 300, size) for size in SIZES]),
    "pictures": ("pictures", "restore", [random.integers(0, 256, (2 * h, 2 * w, 3), dtype=np.uint8) for h, w in SIZES]),
    "depth": ("depth", "depth", [random.random(size).astype(np.float32) * 5 for size in SIZES]),
    "boxes": ("objects", "detect", [objects(size, n, masks=False) for n, size in enumerate(SIZES)]),
    "segments": ("objects", "segment", [objects(size, n + 1, masks=True) for n, size in enumerate(SIZES)]),
}


def data_of(kind: Kind, rows: list) -> LabelledData:
    targets = Targets(kind, rows.__getitem__, range(len(rows)))
    return LabelledData("made", from_arrays(IMAGES), classes=("a", "b", "c"), targets=targets)


def outputs_of(task: str, classes: int) -> tuple[TensorSpec, ...]:
    """Roles and shapes of what ``answers`` gives."""
    shapes = {
        "segment": {"masks": (1, classes, 16, 16)}, "restore": {"picture": (1, 3, 32, 32)},
        "depth": {"depth": (1, 16, 16)}, "detect": {"pred_boxes": (1, 9, 4), "pred_logits": (1, 9, 4)},
    }[task]  # fmt: skip
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=shape, role="tensor") for name, shape in shapes.items())
    roles = load_task(task).roles(specs)
    return tuple(spec.model_copy(update={"role": roles[spec.name]}) for spec in specs)


def answers(outputs: tuple[TensorSpec, ...], rows: np.ndarray) -> Mapping[str, np.ndarray]:
    """Numbers that depend on every pixel of a row."""
    seeds = [int(np.abs(row).sum() * 1000) for row in rows]
    return {
        spec.name: np.stack([np.random.default_rng(seed).random(spec.rows(1)[1:], np.float32) for seed in seeds])
        for spec in outputs
    }


@pytest.mark.parametrize("steps", STEPS, ids=lambda steps: steps.crop)
@pytest.mark.parametrize("what", TARGETS)
def test_answers_are_judged_there_as_they_are_here(what: str, steps: Preprocess, tmp_path: Path) -> None:
    kind, task, rows = TARGETS[what]
    here = data_of(kind, rows)
    np.savez_compressed(tmp_path / "crops.npz", **arrays_of(here, steps))
    there = read(tmp_path / "crops.npz", "made", "all", 0)
    outputs = outputs_of(task, classes=300 if what == "classes of 300" else 3)
    bench = Bench(load_task(task), outputs, steps, ("a", "b", "c"))
    measured = [bench.measure(lambda rows: answers(outputs, rows), data) for data in (here, there)]
    assert measured[0] is not None
    assert measured[0] == measured[1]
    halves = [bench.measure(lambda rows: answers(outputs, rows), data.take([2, 1])) for data in (here, there)]
    assert halves[0] == halves[1]


def test_a_mask_takes_one_byte_a_pixel_and_a_segment_one_bit(tmp_path: Path) -> None:
    pixels = sum(height * width for height, width in SIZES)
    assert arrays_of(data_of(*TARGETS["masks"][::2]), STEPS[0])["target.whole"].nbytes == pixels
    kept = arrays_of(data_of(*TARGETS["segments"][::2]), STEPS[0])["target.masks.bits"]
    assert kept.nbytes == -(-sum(n * height * width for n, (height, width) in enumerate(SIZES, 1)) // 8)


def test_an_older_operator_s_file_has_images_and_labels_alone(tmp_path: Path) -> None:
    crops = np.stack([STEPS[0].crop_pixels(image) for image in IMAGES])
    np.savez(tmp_path / "old.npz", images=crops, labels=np.array([0, 1, 0]), classes=np.array(["a", "b"]))
    found = read(tmp_path / "old.npz", "made", "held-out", 0)
    assert (found.cropped, found.targets, found.classes, len(found)) == (True, None, ("a", "b"), 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": np.array("maps")}, "maps is no kind of target"),
        ({"target.whole": np.zeros(5, np.int8)}, "target.whole has 5 values where its shapes have 1869"),
        ({"sizes": np.zeros((2, 2), np.int64)}, "the numbers of images, sizes and labels differ"),
        ({"target.whole.shape": np.array([[20, 30]])}, "1869 values where its shapes have 600"),
    ],
    ids=["kind", "values", "sizes", "shapes"],
)
def test_a_file_that_holds_no_crops_is_one_sentence(change: dict, said: str, tmp_path: Path) -> None:
    path = tmp_path / "crops.npz"
    np.savez(path, **(arrays_of(data_of(*TARGETS["masks"][::2]), STEPS[0]) | change))
    with pytest.raises(UsageError, match=said):
        read(path, "made", "all", 0)
    assert set(read_arrays(path)) > {"images", "sizes"}
