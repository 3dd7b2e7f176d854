"""Segments of queries: which pixels are of which, and what is judged of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import edgevit
from edgevit.artifact.manifest import TensorSpec
from edgevit.build import export
from edgevit.data.rle import decoded
from edgevit.data.targets import Objects
from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.proof.verify import verify
from edgevit.tasks.base import Asked, load_task
from edgevit.tasks.metrics.overlap import MeanIoU
from edgevit.tasks.metrics.panoptic import PanopticQuality
from edgevit.tasks.segments import queries_among

SIDE, CLASSES, QUERIES = 8, 3, 4
NAMES = ("class_queries_logits", "masks_queries_logits")


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec.model_validate({"name": name, "dtype": "float32", "shape": (1, *shape), "role": "tensor"})


def asked(size=(SIDE, SIDE), **steps) -> Asked:
    specs = [spec(NAMES[0], QUERIES, CLASSES + 1), spec(NAMES[1], QUERIES, SIDE, SIDE)]
    roles = load_task("segment").roles(specs)
    named = tuple(one.model_copy(update={"role": roles[one.name]}) for one in specs)
    return Asked(named, size=size, steps=Preprocess(size=(SIDE, SIDE), **{"crop": "squash", **steps}))


def row(*segments: tuple[int, float, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs that say these: class, probability, mask. Queries that are left say nothing."""
    scores = np.zeros((QUERIES, CLASSES + 1), np.float32)
    scores[:, -1] = 9
    masks = np.full((QUERIES, SIDE, SIDE), -9, np.float32)
    for query, (index, sure, mask) in enumerate(segments):
        scores[query] = np.log((1 - sure) / CLASSES)
        scores[query, index] = np.log(sure)
        masks[query] = np.where(mask, 9, -9)
    return dict(zip(NAMES, (scores, masks), strict=True))


def columns(first: int, last: int) -> np.ndarray:
    found = np.zeros((SIDE, SIDE), bool)
    found[:, first:last] = True
    return found


def objects(classes, masks, crowd=None) -> Objects:
    crowd = np.zeros(len(classes), bool) if crowd is None else np.asarray(crowd)
    return Objects(np.zeros((len(classes), 4)), np.asarray(classes), np.asarray(masks, bool), crowd)


def test_two_queries_of_one_class_are_two_segments() -> None:
    made = row((1, 0.9, columns(0, 3)), (1, 0.8, columns(5, 8)), (2, 0.3, columns(3, 5)))
    answer = load_task("segment").decode(made, asked())
    assert [(part.index, round(part.score, 3)) for part in answer.parts] == [(1, 0.9), (1, 0.8)]
    assert answer.places[0].tolist() == [0, 0, 0, -1, -1, 1, 1, 1]
    record = answer.record()
    assert record["size"] == [SIDE, SIDE]
    np.testing.assert_array_equal(decoded(record["segments"][1]["mask"]), columns(5, 8))
    assert answer.words() == "1 90.0% on 37.5%, 1 80.0% on 37.5%"
    assert list(answer.rows()[0]) == list(load_task("segment").columns(asked().outputs, 5))
    drawn = answer.drawn(np.zeros((SIDE, SIDE, 3), np.uint8))
    assert drawn[0, 4].tolist() == [255, 255, 255]
    assert drawn[0, 3].tolist() == [0, 0, 0]
    assert drawn[0, 0].tolist() == drawn[0, 7].tolist() != [0, 0, 0]


def test_a_pixel_is_of_the_likeliest_and_what_is_mostly_another_s_is_no_segment() -> None:
    made = row((0, 0.9, columns(0, 6)), (1, 0.6, columns(2, 7)), (2, 0.7, columns(5, 8)))
    answer = load_task("segment").decode(made, asked())
    assert [(part.index, int(part.mask.sum())) for part in answer.parts] == [(0, 48)]  # 2 has but 2 of its 3 columns
    assert load_task("segment").decode(row(), asked()).words() == "no segment"


def authors(scores: np.ndarray, masks: np.ndarray) -> list[tuple[int, int]]:
    """(class, pixels) of the segments, as Mask2Former's authors fuse them: nothing is stuff."""
    scores_of, masks_of = torch.tensor(scores).softmax(-1), torch.tensor(masks).sigmoid()
    best, labels = scores_of.max(-1)
    keep = labels.ne(CLASSES) & (best >= 0.5)
    if not keep.any():
        return []
    which = (best[keep].view(-1, 1, 1) * masks_of[keep]).argmax(0)
    found = []
    for place, (label, mask) in enumerate(zip(labels[keep], masks_of[keep], strict=True)):
        area, original = int((which == place).sum()), int((mask >= 0.5).sum())
        pixels = int(((which == place) & (mask >= 0.5)).sum())
        if area and original and pixels and area / original >= 0.8:
            found.append((int(label), pixels))
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_segments_are_those_of_the_authors_own_fusion(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(0, 3, (QUERIES, CLASSES + 1)).astype(np.float32)
    masks = random.normal(0, 6, (QUERIES, 2, 2)).astype(np.float32).repeat(4, 1).repeat(4, 2)
    answer = load_task("segment").decode(dict(zip(NAMES, (scores, masks), strict=True)), asked())
    assert sorted((part.index, int(part.mask.sum())) for part in answer.parts) == authors(scores, masks)


def test_masks_go_back_to_the_image_past_the_padding() -> None:
    answer = load_task("segment").decode(row((0, 0.9, columns(0, 4))), asked((16, 32), crop="letterbox"))
    (part,) = answer.parts
    assert part.mask.shape == (16, 32)
    assert part.mask[:, :16].all()
    assert not part.mask[:, 16:].any()


def test_answers_that_only_number_their_segments_otherwise_are_the_same() -> None:
    one, two = (1, 0.9, columns(0, 3)), (1, 0.8, columns(4, 8))
    about = [load_task("segment").decode(made, asked()) for made in (row(one, two), row(two, one))]
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    assert about[0].apart(about[1], image).words == "every pixel is of the same segment"
    other = load_task("segment").decode(row((2, 0.9, columns(0, 3)), two), asked())
    assert about[0].apart(other, image).words == "segments differ at 24 of 64 pixels (37.5000%)"


def plainly(said, true) -> float:
    """PQ as its paper writes it, of (class, pixels) that share none and cover all."""
    quality = []
    for index in {index for index, _ in (*said, *true)}:
        mine, theirs = ([pixels for one, pixels in found if one == index] for found in (said, true))
        shares = [len(a & b) / len(a | b) for a in mine for b in theirs]
        hits = [share for share in shares if share > 0.5]
        quality.append(sum(hits) / (len(hits) + (len(mine) + len(theirs) - 2 * len(hits)) / 2))
    return float(np.mean(quality))


PARTS = st.lists(st.integers(0, CLASSES - 1), min_size=QUERIES, max_size=QUERIES)
MAPS = st.lists(st.integers(0, QUERIES - 1), min_size=SIDE, max_size=SIDE)


@settings(max_examples=60, deadline=None)
@given(PARTS, MAPS, PARTS, MAPS)
def test_panoptic_quality_tells_objects_of_one_class_apart(classes, places, true_classes, true_places) -> None:
    said, true = (
        [(classes[q], np.broadcast_to(np.array(where) == q, (SIDE, SIDE))) for q in range(QUERIES) if q in where]
        for classes, where in ((classes, places), (true_classes, true_places))
    )
    meter = PanopticQuality()
    meter.take(row(*((index, 0.9, mask) for index, mask in said)), objects(*zip(*true, strict=True)), asked())
    pixels = [[(index, set(np.flatnonzero(mask))) for index, mask in found] for found in (said, true)]
    assert meter.value() == pytest.approx(plainly(*pixels))


def test_queries_are_judged_as_a_map_of_classes_too() -> None:
    """Where only classes are known, all queries vote, the unsure too."""
    meter = MeanIoU()
    made = row((0, 0.9, columns(0, 4)), (1, 0.4, columns(4, 8)))
    meter.take(made, np.where(columns(0, 4), 0, 1), asked())
    assert meter.value() == 1.0


def test_queries_are_told_by_shapes_and_names() -> None:
    scores, masks, hidden = spec("pred_logits", 5, 4), spec("pred_masks", 5, 2, 2), spec("last_hidden_state", 5, 64)
    assert queries_among([scores, masks, hidden]) == {"pred_logits": "logits", "pred_masks": "masks"}
    assert queries_among([spec("output_0", 5, 4), spec("output_1", 5, 2, 2)]) != {}
    assert queries_among([hidden, masks]) == {}
    assert queries_among([scores, spec("pred_masks", 6, 2, 2)]) == {}
    assert load_task("segment").roles([spec("output_0", 5, 4), spec("output_1", 6, 2, 2)])["output_1"] == "masks"


class Queries(nn.Module):
    """One segment, the bright half, of class 0 as the first of two queries says."""

    image_size = SIDE

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        bright = image.mean(1, keepdim=True)
        scores = torch.tensor([[[9.0, 0, 0], [0, 0, 9.0]]]) + 0 * bright.mean((2, 3))[..., None]
        return {"pred_logits": scores, "pred_masks": torch.cat([bright, -bright], 1)}


def test_queries_are_exported_as_segments_with_as_many_labels_as_classes(tmp_path) -> None:
    with pytest.raises(UsageError, match="1 label for 2 classes"):
        export(Queries(), "onnx", out=tmp_path / "wrong", image_size=SIDE, labels=("a",), threads=1)
    sigmoids = ("a", "b", "c")  # where no score is of "nothing"
    assert export(Queries(), "onnx", out=tmp_path / "all", image_size=SIDE, labels=sigmoids, threads=1).manifest.labels
    made = export(Queries(), "onnx", out=tmp_path / "right", image_size=SIDE, labels=("a", "b"), threads=1)
    assert made.manifest.model.task == "segment"
    assert verify(made.path, threads=1).parity.status == "verified"
    assert edgevit.verify(made.path, data="digits", threads=1).accuracy is None
