"""A data set as one model sees it: what is sent to a device that does not have it, and read there as ``crops:PATH``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgevit.artifact.opened import Artifact
from edgevit.data.split import spread
from edgevit.errors import UsageError
from edgevit.proof.labelled import MAX_IMAGES, held_out
from edgevit.runtimes.feeds import image_steps

SCHEME = "crops:"
MAX_BYTES = 64 << 20  # of pixels, before they are compressed


def write(artifact: Artifact, source: str, path: Path, size: tuple[int, int] | None = None) -> None:
    """An .npz of the images that the accuracy of ``artifact`` is measured on, cropped to what it takes, uint8, with
    labels and classes where ``source`` has them. Of more than fit into ``MAX_BYTES``, as many as fit, evenly spread.

    UsageError for an artifact that takes no image, for one larger than that, and what ``open_data`` raises.
    """
    _, preprocess = image_steps(artifact, size)
    height, width = preprocess.size
    if (fit := MAX_BYTES // (height * width * 3)) < 1:
        raise UsageError(
            f"images of {height}×{width} pixels are too large to be sent: at most {MAX_BYTES:,} bytes are",
            hint="leave --data out, or run edgevit profile on the device, where the data is",
        )
    found = spread(held_out(artifact, source), min(MAX_IMAGES, fit))
    arrays = {"images": np.stack([preprocess.crop_pixels(image) for image in found.images])}
    if found.labels is not None:
        arrays["labels"] = found.labels
    if found.classes is not None:
        arrays["classes"] = np.asarray(found.classes)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
