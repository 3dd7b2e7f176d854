"""What an artifact's outputs say of images: its task, the roles of its outputs, and the names of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgevit.artifact.manifest import TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.errors import Unsupported
from edgevit.framing import frame_for
from edgevit.images import Preprocess
from edgevit.sizes import SizeRange
from edgevit.tasks.base import Answer, Asked, Row, Task, load_task

BY_HAND = "give rows of its inputs: --inputs rows.npz; from Python edgevit.open_session(…)"


@dataclass(frozen=True)
class Reading:
    """How an artifact that takes images is asked about one, and what its answer is read as.

    image  the input that the image goes to
    steps  how an image becomes it
    sizes  that it may have, where that is a range; ``steps`` are then of one of them
    """

    task: Task
    image: TensorSpec
    steps: Preprocess
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] | None
    top: int = 5
    sizes: SizeRange | None = None

    @classmethod
    def of(cls, artifact: Artifact, labels: Sequence[str] | None = None, top: int = 5) -> Reading:
        """That of an artifact. Unsupported where it takes no image, or more than one; UnknownName for its task."""
        manifest, path = artifact.manifest, artifact.path
        image, steps = manifest.image_input(), manifest.preprocess
        if image is None or steps is None:
            raise Unsupported(f"{path} takes no images", hint=BY_HAND)
        if len(manifest.inputs) != 1:
            others = ", ".join(spec.name for spec in manifest.inputs if spec is not image)
            raise Unsupported(f"{path} takes {others} beside an image", hint=BY_HAND)
        names = tuple(labels) if labels else manifest.labels
        return cls(load_task(manifest.model.task), image, steps, manifest.outputs, names, top, manifest.image_sizes)

    def at(self, size: tuple[int, int]) -> Reading:
        """The same of images of (height, width), which is one of ``sizes``."""
        outputs = tuple(spec.at(size) for spec in self.outputs)
        return replace(self, image=self.image.at(size), steps=self.steps.at(size), outputs=outputs)

    def seeing(self, picture: tuple[int, int]) -> Reading:
        """The same at the size in which a picture of (height, width) is seen."""
        if self.sizes is None:
            return self
        return self.at(frame_for(picture, self.sizes, self.steps.size, self.steps.crop))

    def tiling(self, picture: tuple[int, int]) -> Reading:
        """The same at the size of a tile of such a picture, which is the whole picture where it fits."""
        return self if self.sizes is None else self.at(self.sizes.holding(picture))

    @property
    def columns(self) -> tuple[str, ...]:
        """Of a table of answers."""
        return self.task.columns(self.outputs, self.top)

    @property
    def row_bytes(self) -> int:
        """Of the outputs for one image."""
        return sum(int(np.prod(spec.rows(1))) * np.dtype(spec.dtype).itemsize for spec in self.outputs)

    def answer(self, row: Row, size: tuple[int, int]) -> Answer | None:
        """What the outputs for an image of (height, width) say of it; None where they hold NaN or infinity."""
        if not all(np.isfinite(row[spec.name]).all() for spec in self.outputs):
            return None
        return self.task.decode(row, Asked(self.outputs, size, self.steps, self.labels, self.top))
