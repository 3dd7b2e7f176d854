"""The inputs that are measured with: real rows, never zeros (sparse or denormal inputs can change the speed)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.errors import UsageError
from edgevit.images import Preprocess

MAX_BYTES = 256 << 20  # of rows held by the worker


def write(artifact: Artifact, path: Path, *, batch: int, data: str | None) -> Path:
    """An .npz of arrays (calls, *input shape) by input name: the golden rows, or the images of ``data``, in batches."""
    rows = _images(artifact, data) if data else artifact.golden()[0]
    np.savez(path, **{name: batches(array, batch) for name, array in rows.items()})  # type: ignore[arg-type]
    return path


def batches(rows: Array, batch: int) -> Array:
    """(n, …) rows -> (calls, batch, …): every row once, in rotation, so that a batch larger than n repeats them."""
    count = len(rows)
    calls = max(1, -(-count // batch))
    picks = np.arange(calls * batch) % count
    found: Array = rows[picks].reshape(calls, batch, *rows.shape[1:])
    return found


def image_steps(artifact: Artifact) -> tuple[TensorSpec, Preprocess]:
    """The artifact's only input and how an image becomes it; UsageError where it takes anything else."""
    spec, preprocess = artifact.manifest.image_input(), artifact.manifest.preprocess
    if spec is None or preprocess is None or len(artifact.manifest.inputs) != 1:
        raise UsageError(f"{artifact.path} does not take an image, so --data cannot feed it", hint="leave --data out")
    return spec, preprocess


def _images(artifact: Artifact, data: str) -> dict[str, Array]:
    """Preprocessed images of a data source, as many as fit into ``MAX_BYTES``."""
    from edgevit.data.source import open_data

    spec, preprocess = image_steps(artifact)
    found = open_data(data)
    images, preprocess = found.images, preprocess.after_crop() if found.cropped else preprocess
    if not len(images):
        raise UsageError(f"{data} holds no images")
    first = preprocess(images[0])
    count = min(len(images), max(1, MAX_BYTES // first.nbytes))
    return {spec.name: np.stack([first, *(preprocess(images[index]) for index in range(1, count))]).astype(spec.dtype)}
