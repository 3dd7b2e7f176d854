"""A data set as one model sees it: what is sent to a device that does not have it, and read there as ``crops:PATH``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.data.crops import arrays_of
from edgevit.data.labelled import LabelledData
from edgevit.data.split import spread
from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.proof.labelled import MAX_IMAGES, held_out
from edgevit.runtimes.feeds import image_steps
from edgevit.tasks.base import load_task
from edgevit.tasks.metrics.base import meter_for
from edgevit.tasks.metrics.measuring import IMAGES

SCHEME = "crops:"
MAX_BYTES = 64 << 20  # of pixels and of what is true of them, before they are compressed
_TRIED = 8  # images that tell how many may fit


def write(artifact: Artifact, source: str, path: Path, size: tuple[int, int] | None = None) -> None:
    """An .npz of the images that ``artifact`` is judged on, cropped to what it takes, uint8, with all that ``source``
    says of them: labels, masks, objects, pictures, depths. Of more than fit into ``MAX_BYTES``, as many as fit, evenly
    spread.

    UsageError for an artifact that takes no image, for images that are larger than that, and what ``open_data`` raises.
    """
    _, steps = image_steps(artifact, size)
    whole = held_out(artifact, source)
    judged = meter_for(load_task(artifact.manifest.model.task), whole) is not None
    np.savez_compressed(path, **_fitting(whole, steps, IMAGES if judged else MAX_IMAGES))  # type: ignore[arg-type]


def _fitting(whole: LabelledData, steps: Preprocess, most: int) -> dict[str, Array]:
    """At most ``most`` images of ``whole``, evenly spread."""
    most = min(most, len(whole))
    count, tried = most, min(most, _TRIED)
    while tried:
        found = arrays_of(spread(whole, tried), steps)
        weight = sum(array.nbytes for name, array in found.items() if name.startswith(("images", "target")))
        if weight <= MAX_BYTES and tried == count:
            return found
        count = min(most if weight <= MAX_BYTES else tried - 1, tried * MAX_BYTES // weight)
        tried = count
    height, width = steps.size
    raise UsageError(
        f"images of {height}×{width} pixels, with what the data says of them, are too large to be sent: at most "
        f"{MAX_BYTES:,} bytes are",
        hint="leave --data out, or run edgevit profile on the device, where the data is",
    )
