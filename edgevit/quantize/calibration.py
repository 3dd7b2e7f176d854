"""The rows that a plan's ranges are found on: images that nothing is proved or judged on, known by their content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.data.labelled import LabelledData
from edgevit.data.source import open_data
from edgevit.data.split import spread
from edgevit.errors import UsageError
from edgevit.export.rows import MAX_ROWS, images_of_proof
from edgevit.images import Preprocess
from edgevit.quantize.asked import FEWEST
from edgevit.request import ExportRequest

JUDGED = 500  # images, at most, that the loss is measured on


@dataclass(frozen=True)
class Calibrating:
    """Rows of every input, and the name of the data that they are from; images by their content, in hex."""

    inputs: Mapping[str, Array]
    data: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """The images that integers are judged on: held out of ``data``, or those of the proof where these are few."""

    data: str
    images: LabelledData

    @classmethod
    def of(cls, data: str, wanted: int) -> Held:
        found = spread(open_data(data, split="held-out"), JUDGED)
        return cls(data, found if len(found) >= FEWEST else images_of_proof(data, wanted))


def calibration_images(source: str, count: int, held: Held, preprocess: Preprocess, wanted: int) -> Calibrating:
    """At most ``count`` images of the part of ``source`` that models are trained on, none of which any proof or figure
    is of, wherever it lies. UsageError for fewer than ``FEWEST``."""
    pool = open_data(source, split="train")
    taken = digests(held.images) | digests(images_of_proof(held.data, wanted))
    chosen = list(_others(pool, taken, count))
    if len(chosen) < FEWEST:
        raise _too_few(source, len(pool), len(chosen))
    pictures = [pool.images[index] for index in sorted(chosen)]
    known = tuple(pool.images.digest(index).hex() for index in sorted(chosen))
    return Calibrating({"image": pool.steps(preprocess).batch(pictures)}, source, known)


def calibration_rows(request: ExportRequest) -> Calibrating:
    """Those of the rows that were given which the proof does not take. UsageError for fewer than ``FEWEST``."""
    given = request.inputs or {}
    left = {name: array[MAX_ROWS : MAX_ROWS + request.quantizing.images] for name, array in given.items()}
    count = min(map(len, left.values()), default=0)
    if count < FEWEST:
        raise UsageError(
            f"the first {MAX_ROWS} rows that were given prove the artifact, which leaves {count} to find the ranges of "
            f"its integers on",
            hint=f"give {MAX_ROWS + FEWEST} rows or more",
        )
    return Calibrating({name: array[:count] for name, array in left.items()}, "given inputs")


def digests(data: LabelledData) -> set[bytes]:
    """Of all its images: what each is known by, wherever it lies."""
    return {data.images.digest(index) for index in range(len(data))}


def _others(pool: LabelledData, taken: set[bytes], count: int) -> Iterator[int]:
    """Indices of images that are not taken, no two the same, in an order that mixes classes."""
    # RandomState: its stream is frozen for all numpy versions, so that a plan is the same wherever it is made.
    for index in map(int, np.random.RandomState(0).permutation(len(pool))):
        if count and (digest := pool.images.digest(index)) not in taken:
            taken.add(digest)
            count -= 1
            yield index


def _too_few(source: str, whole: int, left: int) -> UsageError:
    judged = f", {whole - left} of which the artifact is proved and judged on" if left < whole else ""
    return UsageError(
        f"{source} has {whole} images to calibrate on{judged}; ranges need {FEWEST} others",
        hint="give --calibrate another source, such as the model's training data",
    )
