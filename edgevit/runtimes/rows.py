"""Any number of rows through a session, in batches that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgevit.artifact.manifest import Array, Manifest
from edgevit.errors import ParityFailed, UsageError
from edgevit.runtimes.base import Session


def manifest_of(manifest: Manifest, rows: Mapping[str, Array], file: Path) -> Manifest:
    """What the manifest says of rows that ``file`` holds: of images of their size, where it takes a range of sizes.
    UsageError unless the artifact takes them."""
    specs, sizes = {spec.name: spec for spec in manifest.inputs}, manifest.image_sizes
    if set(rows) != set(specs):
        raise UsageError(
            f"{file} holds {', '.join(rows)}; the artifact takes {', '.join(specs)}", hint="store one array for each"
        )
    for name, spec in specs.items():
        array = rows[name]
        if sizes is not None and spec.sides:
            manifest = manifest.at(spec.taken(array.shape, sizes))
            spec = next(one for one in manifest.inputs if one.name == name)
        if str(array.dtype) != spec.dtype or array.shape[1:] != spec.rows(1)[1:]:
            wanted = "×".join(map(str, ("rows", *spec.rows(1)[1:])))
            found = "×".join(map(str, array.shape))
            raise UsageError(
                f"{file}: {name} is {array.dtype} {found}; the artifact takes {spec.dtype} {wanted}",
                hint="store it so",
            )
    return manifest


def run_rows(session: Session, inputs: Mapping[str, Array], batch: int) -> dict[str, Array]:
    """Outputs of all rows, ``batch`` at a time; the last call is filled up with the first rows again.

    ParityFailed for an output that does not have a row per row of input.
    """
    parts = [part for _, part in rows_in_turn(session, inputs, batch)]
    return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in session.outputs}


def rows_in_turn(session: Session, inputs: Mapping[str, Array], batch: int) -> Iterator[tuple[int, dict[str, Array]]]:
    """The same call by call, so that no more is held than one: the first row of each, and the outputs of its rows."""
    rows = len(next(iter(inputs.values())))
    for start in range(0, rows, batch):
        picks = np.arange(start, start + batch) % rows
        found = session.infer({name: np.ascontiguousarray(array[picks]) for name, array in inputs.items()})
        for spec in session.outputs:
            if found[spec.name].ndim == 0 or len(found[spec.name]) != batch:
                raise ParityFailed(f"{spec.name} has shape {found[spec.name].shape} for a batch of {batch}")
        yield start, {spec.name: found[spec.name][: rows - start] for spec in session.outputs}
