"""Where the objects of an image are, and what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgevit.artifact.manifest import Array, Role, TensorSpec
from edgevit.tasks.base import Apart, Asked, Row, named, unfit
from edgevit.tasks.classify import probabilities_of
from edgevit.tasks.palette import MARK, colour, dimmed
from edgevit.tasks.places import boxes_in_image, overlaps

LEAST = 0.05  # score: what lies below is no find for a reader
SAME = 0.9  # overlap of two finds of the same object: a half precision moves a box by far less
Box = tuple[float, float, float, float]
_SIDES = ("x0", "y0", "x1", "y1")
_GIVEN: tuple[Role, Role] = ("scores", "labels")
_NAMES: dict[str, Role] = {
    **dict.fromkeys(("boxes", "pred_boxes", "bboxes"), "boxes"),
    **dict.fromkeys(("scores", "score", "confidence"), "scores"),
    **dict.fromkeys(("labels", "classes", "class_ids"), "labels"),
    **dict.fromkeys(("logits", "pred_logits", "class_logits"), "logits"),
}


@dataclass(frozen=True)
class Find:
    """One object: its box x0, y0, x1, y1 in the image's pixels."""

    label: str
    index: int
    score: float
    box: Box

    def record(self) -> dict[str, Any]:
        return {**vars(self), "box": list(self.box)}

    def words(self) -> str:
        return f"{self.label} {self.score:.1%} at {' '.join(f'{side:.0f}' for side in self.box)}"


@dataclass(frozen=True)
class Finds:
    """All objects, the surest first."""

    finds: tuple[Find, ...]
    top: int

    def record(self) -> dict[str, Any]:
        return {"objects": [find.record() for find in self.finds]}

    def words(self) -> str:
        more = f", and {len(self.finds) - self.top} more" if len(self.finds) > self.top else ""
        return (", ".join(find.words() for find in self.finds[: self.top]) + more) or "no object"

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One for each object."""
        return [{**vars(find), **dict(zip(_SIDES, find.box, strict=True))} for find in self.finds]

    def drawn(self, image: Array) -> Array | None:
        """The boxes in the colours of their classes."""
        from PIL import Image, ImageDraw

        picture = Image.fromarray(image)
        pen, width = ImageDraw.Draw(picture), max(1, round(min(image.shape[:2]) / 200))
        for find in reversed(self.finds):  # the surest on top
            pen.rectangle(find.box, outline=colour(find.index), width=width)
            corner = find.box[0] + 2 * width, find.box[1] + width
            pen.text(corner, f"{find.label} {find.score:.0%}", colour(find.index))
        return np.asarray(picture)

    def apart(self, other: Finds, image: Array) -> Apart:
        """The boxes that only one of the two found."""
        pairs, lone = _paired(self.finds, other.finds)
        sides = max((abs(a - b) for one, two in pairs for a, b in zip(one.box, two.box, strict=True)), default=0.0)
        scores = max((abs(one.score - two.score) for one, two in pairs), default=0.0)
        near = f"boxes within {sides:.1e} pixels, scores within {scores:.1e}" if sides or scores else "exactly so"
        both = f"{len(pairs)} of {len(self.finds)} objects found by both"
        words = f"{both}, {near}" if pairs else "no object found by both"
        words += f"; {len(lone)} found by one alone" if lone else ""
        return Apart(len(lone) + scores, words, _boxes(image, lone))


def _paired(mine: Sequence[Find], theirs: Sequence[Find]) -> tuple[list[tuple[Find, Find]], list[Find]]:
    """Finds of one class that lie at the same place, the surest first, and those that only one of the two has: but
    for those hardly sure enough to be shown at all."""
    left, pairs, lone = dict(enumerate(theirs)), [], []
    shares = overlaps(*(np.array([find.box for find in finds]).reshape(-1, 4) for finds in (mine, theirs)))
    for find, row in zip(mine, shares, strict=True):
        able = [place for place, other in left.items() if other.index == find.index and _same(find, other, row[place])]
        if able:
            pairs.append((find, left.pop(max(able, key=lambda place: row[place]))))
        else:
            lone.append(find)
    return pairs, [find for find in (*lone, *left.values()) if find.score > LEAST * 1.05]


def _same(find: Find, other: Find, share: float) -> bool:
    return share > SAME or find.box == other.box  # a box without an area overlaps nothing


def _boxes(image: Array, finds: Sequence[Find]) -> Array:
    from PIL import Image, ImageDraw

    picture = Image.fromarray(dimmed(image))
    pen = ImageDraw.Draw(picture)
    for find in finds:
        pen.rectangle(find.box, outline=MARK, width=max(1, round(min(image.shape[:2]) / 200)))
    return np.asarray(picture)


@dataclass(frozen=True)
class Every:
    """Whatever a model says of objects, the surest first.

    boxes    (n, 4) in the image's pixels
    scores   (n,)
    classes  (n,)
    """

    boxes: Array
    scores: Array
    classes: Array


class Detect:
    """Boxes with scores and labels, or with logits of which the last class is "nothing" (DETR's form).

    Boxes are (B, n, 4): x0 y0 x1 y1 in the model's pixels, or centre and size as shares of it where the outputs are
    called ``pred_boxes`` or come with logits.
    """

    name = "detect"
    alone = "boxes"
    draws = True
    meters: ClassVar[Mapping[str, str]] = {"objects": "edgevit.tasks.metrics.boxes:AveragePrecision"}

    def roles(self, outputs: Sequence[TensorSpec]) -> dict[str, Role]:
        roles = named(outputs, _NAMES)
        given = set(roles.values())
        if "boxes" not in given or not ({"scores", "labels"} <= given or "logits" in given):
            raise unfit(self.name, outputs, "outputs called boxes, scores and labels, or boxes and logits")
        return roles

    def decode(self, row: Row, asked: Asked) -> Finds:
        every = found(row, asked)
        kept = int((every.scores >= LEAST).sum())
        rows = zip(every.boxes[:kept], every.scores[:kept], every.classes[:kept], strict=True)
        finds = (Find(asked.label(int(c)), int(c), float(score), _box(box)) for box, score, c in rows)
        return Finds(tuple(finds), asked.top)

    def columns(self, outputs: Sequence[TensorSpec], top: int) -> tuple[str, ...]:
        return "label", "index", "score", *_SIDES


def found(row: Row, asked: Asked) -> Every:
    """All that the outputs for one image say of objects."""
    boxes, logits = asked.need(Detect.name, row, "boxes"), asked.one(row, "logits")
    scores, labels = _given(row, asked) if logits is None else _of_logits(logits)
    places = boxes_in_image(_corners(boxes) if logits is not None else boxes, asked, unit=logits is not None)
    order = np.argsort(-scores, kind="stable")
    return Every(places[order], scores[order], labels[order])


def _given(row: Row, asked: Asked) -> tuple[Array, Array]:
    scores, labels = (asked.need(Detect.name, row, role, "scores and labels") for role in _GIVEN)
    return scores.reshape(-1).astype(np.float64), labels.reshape(-1).astype(np.int64)


def _of_logits(logits: Array) -> tuple[Array, Array]:
    """(n, classes + 1) -> the probability of the likeliest class of each, and that class."""
    probabilities = probabilities_of(logits)[:, :-1]
    return probabilities.max(axis=-1), probabilities.argmax(axis=-1)


def _corners(boxes: Array) -> Array:
    """Centre, width and height -> corners."""
    half = boxes[:, 2:] / 2
    corners: Array = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    return corners


def _box(sides: Array) -> Box:
    left, top, right, bottom = (float(side) for side in sides)
    return left, top, right, bottom
