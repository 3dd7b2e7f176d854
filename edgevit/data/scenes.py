"""Scenes with exact truth: the bundled digits pasted on the bundled photos. Nothing is stored; each is made when asked.

A scene is decided by the seed, the part and its index alone. The parts share no digit's picture and no photo. Digits
are pasted whole, pixel by pixel, so that the truth is not an opinion; a later one may hide a little of an earlier one.

There are few photos to train on, and what is held out looks like none of them: those are turned, mirrored and coloured
anew for every scene, so that a digit is told by its strokes and not by what eight photos never show. The held-out ones
stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from edgevit.data.digits import SIDE, digits
from edgevit.data.labelled import Images, LabelledData, Pixels, Split
from edgevit.data.samples import photos
from edgevit.data.split import stratified_split
from edgevit.data.targets import Objects, Targets
from edgevit.errors import UsageError

CLASSES = ("background", *(str(digit) for digit in range(10)))
COUNTS = {"train": 8000, "held-out": 1000}
LEAST, MOST = 24, 1024  # sides of a scene; below, a digit is not read
_DEFAULT = 64
_LARGEST_HIDDEN = 0.1  # share of a digit that later ones may cover
_HINT = "write scenes, scenes:SIDE, or scenes:SIDE:objects for boxes and masks of each digit"


@dataclass(frozen=True)
class Scene:
    """One scene.

    image    (side, side, 3) uint8
    photo    the same without digits
    masks    (n, side, side) bool: the visible pixels of each digit
    objects  the same, the box around them, and 1 + its digit as class
    digits   which of the bundled pictures they are
    """

    image: Pixels
    photo: Pixels
    masks: Pixels
    objects: Objects
    digits: tuple[int, ...]

    @property
    def classes(self) -> Pixels:
        """(side, side) int64: the class of every pixel, 0 where there is no digit."""
        found = np.zeros(self.image.shape[:2], np.int64)
        for mask, which in zip(self.masks, self.objects.classes, strict=True):
            found[mask] = which
        return found


@dataclass(frozen=True)
class Scenes:
    """All scenes of one part: ``split`` train or held-out."""

    side: int
    split: str
    seed: int

    def pictures(self) -> Pixels:
        """Which digits' pictures this part pastes."""
        return _parted(self.seed)[self.split != "train"]

    def __call__(self, index: int) -> Scene:
        # RandomState, not default_rng: its stream is the same in all versions of numpy.
        random = np.random.RandomState([self.seed, int(self.split == "train"), index])
        photo = _background(self.split != "train", self.side, random)
        if self.split == "train":
            photo = _recoloured(_turned(photo, random), random)
        return _filled(photo, self.pictures(), random)


def read(spec: str, split: Split, seed: int) -> LabelledData:
    """8,000 scenes to train on and 1,000 held out, with the class of every pixel or the objects of every scene."""
    side, objects = options(spec)
    parts = [Scenes(side, name, seed) for name in COUNTS if split in ("all", name)]
    counts = [COUNTS[part.split] for part in parts]
    target = Targets("objects" if objects else "masks", partial(_target, parts, counts, objects), range(sum(counts)))
    images = Images(partial(_image, parts, counts), range(sum(counts)))
    return LabelledData(spec, images, classes=CLASSES, targets=target)


def options(spec: str) -> tuple[int, bool]:
    """The side of the scenes, and whether it is objects that are asked for. UsageError for anything else."""
    _, *given = spec.split(":")
    objects = given[-1:] == ["objects"]
    side = given[: len(given) - objects] or [str(_DEFAULT)]
    if len(side) > 1 or not side[0].isascii() or not side[0].isdigit():
        raise UsageError(f"data source {spec!r} is not understood", hint=_HINT)
    if not LEAST <= int(side[0]) <= MOST:
        raise UsageError(f"scenes of {side[0]} pixels a side are not made", hint=f"choose {LEAST} to {MOST}")
    return int(side[0]), objects


def _scene(parts: list[Scenes], counts: list[int], index: int) -> Scene:
    return parts[0](index) if index < counts[0] else parts[1](index - counts[0])


def _image(parts: list[Scenes], counts: list[int], index: int) -> Pixels:
    return _scene(parts, counts, index).image


def _target(parts: list[Scenes], counts: list[int], objects: bool, index: int) -> Any:
    scene = _scene(parts, counts, index)
    return scene.objects if objects else scene.classes


@cache
def _parted(seed: int) -> tuple[Pixels, Pixels]:
    return stratified_split(_digit_labels(), seed=seed)


def _digit_labels() -> Pixels:
    labels = digits().labels
    return np.empty(0, np.int64) if labels is None else labels


@cache
def _pictures(held_out: bool) -> tuple[Any, ...]:
    """The photos as Pillow holds them: to hand one over again for every scene would take longest of all."""
    from PIL import Image

    return tuple(Image.fromarray(photo) for photo in photos(held_out=held_out))


def _background(held_out: bool, side: int, random: np.random.RandomState) -> Pixels:
    """A square of one photo, of at least a quarter of its height, in the size of the scene."""
    from PIL import Image

    among = _pictures(held_out)
    photo = among[random.randint(len(among))]
    most = min(photo.size)
    cut = random.randint(most // 4, most + 1)
    left, top = (random.randint(edge - cut + 1) for edge in photo.size)
    box = left, top, left + cut, top + cut
    return np.array(photo.resize((side, side), Image.Resampling.BILINEAR, box, reducing_gap=2.0))


def _turned(photo: Pixels, random: np.random.RandomState) -> Pixels:
    """One of the 8 ways that a square can lie."""
    photo = np.rot90(photo, random.randint(4))
    return photo[:, ::-1] if random.randint(2) else photo


def _recoloured(photo: Pixels, random: np.random.RandomState) -> Pixels:
    """The same shapes in other colours: channels change places, may become their negatives, and get brighter or darker
    apart from each other; as it was, one time in four."""
    if not random.randint(4):
        return np.ascontiguousarray(photo)
    light = photo[..., random.permutation(3)] / 255
    light = 1 - light if random.randint(2) else light
    light **= np.exp(random.uniform(-0.7, 0.7, 3))
    low, high = random.uniform(0, 0.3, 3), random.uniform(0.7, 1, 3)
    return np.rint(255 * (low + light * (high - low))).astype(np.uint8)


def _filled(photo: Pixels, pictures: Pixels, random: np.random.RandomState) -> Scene:
    image, pasted = photo.copy(), []
    seen: list[tuple[Pixels, int]] = []  # what is visible of each, and how much all of it was
    for _ in range(random.randint(1, 5)):
        picture = int(pictures[random.randint(len(pictures))])
        for _ in range(10):  # until it covers little of the others; a crowded scene has one less
            mask = _ink(picture, len(photo), random)
            left = [before & ~mask for before, _ in seen]
            if all(now.sum() >= (1 - _LARGEST_HIDDEN) * full for now, (_, full) in zip(left, seen, strict=True)):
                image[mask] = _colour(image[mask], random)
                seen = [*((now, full) for now, (_, full) in zip(left, seen, strict=True)), (mask, int(mask.sum()))]
                pasted.append(picture)
                break
    masks = np.stack([mask for mask, _ in seen])
    return Scene(image, photo, masks, _objects(masks, _digit_labels()[pasted] + 1), tuple(pasted))


def _ink(picture: int, side: int, random: np.random.RandomState) -> Pixels:
    """(side, side) bool: the strokes of a digit, somewhere in the scene, a quarter to half of its height."""
    from PIL import Image

    height, width = (max(SIDE, round(side * random.uniform(0.25, 0.5))) for _ in range(2))
    height = min(max(height, width * 3 // 4), width * 4 // 3)
    grey = Image.fromarray(digits().images[picture][..., 0]).resize((width, height), Image.Resampling.BICUBIC)
    top, left = random.randint(side - height + 1), random.randint(side - width + 1)
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = np.asarray(grey) >= 112
    return mask


def _colour(under: Pixels, random: np.random.RandomState) -> Pixels:
    """(3,) uint8: any colour that is far brighter, or darker, than what it covers."""
    tint = random.randint(0, 80, 3)
    return np.asarray(255 - tint if under.mean() < 128 else tint, np.uint8)


def _objects(masks: Pixels, classes: Pixels) -> Objects:
    return Objects(np.stack([_box(mask) for mask in masks]), classes, masks, np.zeros(len(masks), bool))


def _box(mask: Pixels) -> Pixels:
    """The smallest box around the pixels, x0 y0 x1 y1; its end lies behind the last pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.asarray([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
