"""The inputs that are measured with: real rows, never zeros (sparse or denormal inputs can change the speed)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit.artifact.manifest import Array, Manifest, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.data.npz import read_rows
from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.runtimes.rows import manifest_of

MAX_BYTES = 256 << 20  # of rows held by the worker


@dataclass(frozen=True)
class Given:
    """What is fed instead of the golden rows, where anything is.

    data   images of a data source
    file   an .npz of rows of the model's own inputs
    size   of images, out of the range that the artifact takes; None: the size that it was made for
    """

    data: str | None = None
    file: Path | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        said = [flag for flag, value in (("--data", self.data), ("--image-size", self.size)) if value]
        if self.file is not None and said:
            raise UsageError(
                f"--inputs are the model's own inputs, and {said[0]} is of images", hint="give one of them"
            )

    @property
    def called(self) -> str:
        """In a record."""
        return self.data or (f"rows of {self.file}" if self.file else "golden")

    def manifest(self, artifact: Artifact) -> Manifest:
        """What the artifact's manifest says of the size that is fed. UsageError for one that it does not take."""
        if self.file is not None:
            return manifest_of(artifact.manifest, read_rows(self.file), self.file)
        return artifact.manifest.at(self.size)


GOLDEN_FEEDS = Given()


def write(artifact: Artifact, path: Path, *, batch: int, given: Given = GOLDEN_FEEDS) -> Path:
    """An .npz of arrays (calls, *input shape) by input name, in batches: of the golden rows, or of what is given."""
    if given.file is not None:
        rows: Mapping[str, Array] = read_rows(given.file)
    elif given.data is not None:
        rows = _images(artifact, given.data, given.size)
    else:
        rows = _golden(artifact, given.size)
    np.savez(path, **{name: batches(array, batch) for name, array in rows.items()})  # type: ignore[arg-type]
    return path


def _golden(artifact: Artifact, size: tuple[int, int] | None) -> dict[str, Array]:
    """The golden rows; of another size than the artifact's own the golden pictures, at that size."""
    manifest = artifact.manifest.at(size)
    if manifest.inputs == artifact.manifest.inputs:
        return artifact.golden()[0]
    spec, preprocess = image_steps(artifact, size)
    return {spec.name: preprocess.batch(artifact.golden_pixels()).astype(spec.dtype, copy=False)}


def batches(rows: Array, batch: int) -> Array:
    """(n, …) rows -> (calls, batch, …): every row once, in rotation, so that a batch larger than n repeats them."""
    count = len(rows)
    calls = max(1, -(-count // batch))
    picks = np.arange(calls * batch) % count
    found: Array = rows[picks].reshape(calls, batch, *rows.shape[1:])
    return found


def image_steps(artifact: Artifact, size: tuple[int, int] | None = None) -> tuple[TensorSpec, Preprocess]:
    """The artifact's only input and how an image becomes it, at one of the sizes that it takes; UsageError where it
    takes anything else."""
    manifest = artifact.manifest.at(size)
    spec, preprocess = manifest.image_input(), manifest.preprocess
    if spec is None or preprocess is None or len(artifact.manifest.inputs) != 1:
        raise UsageError(f"{artifact.path} does not take an image, so --data cannot feed it", hint="leave --data out")
    return spec, preprocess


def _images(artifact: Artifact, data: str, size: tuple[int, int] | None) -> dict[str, Array]:
    """Preprocessed images of a data source, as many as fit into ``MAX_BYTES``."""
    from edgevit.data.source import open_data

    spec, preprocess = image_steps(artifact, size)
    found = open_data(data)
    images, preprocess = found.images, found.steps(preprocess)
    if not len(images):
        raise UsageError(f"{data} holds no images")
    first = preprocess(images[0])
    count = min(len(images), max(1, MAX_BYTES // first.nbytes))
    return {spec.name: np.stack([first, *(preprocess(images[index]) for index in range(1, count))]).astype(spec.dtype)}
