"""What a model answers to its golden pictures, and what the artifact answers beside it, in the terms of its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.errors import Unsupported
from edgevit.images import with_channels
from edgevit.runtimes.base import Session
from edgevit.runtimes.rows import run_rows
from edgevit.tasks.base import Answer, Apart
from edgevit.tasks.reading import Reading


@dataclass(frozen=True)
class Beside:
    """One golden picture, (H, W, 3) uint8, and both answers to it; the artifact's is None where it did not run."""

    row: int
    image: Array
    model: Answer
    artifact: Answer | None

    @cached_property
    def apart(self) -> Apart | None:
        """How the artifact's answer differs."""
        return None if self.artifact is None else self.model.apart(self.artifact, self.image)

    @property
    def far(self) -> float:
        return self.apart.far if self.apart else 0.0


def golden_outputs(session: Session) -> dict[str, Array]:
    """Those of the artifact on its golden rows; none where they are too large to be kept, as nothing stands beside
    them."""
    if session.artifact.manifest.sampled:
        return {}
    inputs, _ = session.artifact.golden()
    return run_rows(session, inputs, session.artifact.manifest.batch.min)


def golden_answers(artifact: Artifact, outputs: Mapping[str, Array] | None = None) -> list[Beside]:
    """Of every golden picture, beside the answers in the artifact's own ``outputs`` where there are some. None at all
    where the artifact takes no picture, or anything beside one, and of outputs that were not kept whole. BadArtifact
    for a golden pair that cannot be read."""
    try:
        reading = Reading.of(artifact)
    except Unsupported:
        return []
    expected = artifact.golden()[1]
    if any(spec.name not in expected for spec in reading.outputs):
        return []  # of a large output a part is kept, which is no answer
    found = []
    for row, pixels in enumerate(artifact.golden_pixels()):
        height, width = pixels.shape[:2]
        told = [
            reading.answer({name: array[row] for name, array in each.items()}, (height, width)) if each else None
            for each in (expected, outputs)
        ]
        if told[0] is not None:
            found.append(Beside(row, with_channels(pixels, 3), told[0], told[1]))
    return found


def farthest(found: list[Beside]) -> Beside | None:
    """The picture whose answers differ most; the first one where none do."""
    return max(found, key=lambda one: one.far, default=None)
