"""Any number of rows through a session, in batches that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import ParityFailed
from edgevit.runtimes.base import Session


def run_rows(session: Session, inputs: Mapping[str, Array], batch: int) -> dict[str, Array]:
    """Outputs of all rows, ``batch`` at a time; the last call is filled up with the first rows again.

    ParityFailed for an output that does not have a row per row of input.
    """
    parts = [session.infer(feed) for feed in _chunks(inputs, batch)]
    for spec in session.outputs:
        for part in parts:
            if part[spec.name].ndim == 0 or len(part[spec.name]) != batch:
                raise ParityFailed(f"{spec.name} has shape {part[spec.name].shape} for a batch of {batch}")
    rows = len(next(iter(inputs.values())))
    return {spec.name: np.concatenate([part[spec.name] for part in parts])[:rows] for spec in session.outputs}


def _chunks(inputs: Mapping[str, Array], batch: int) -> Iterator[dict[str, Array]]:
    rows = len(next(iter(inputs.values())))
    for start in range(0, rows, batch):
        picks = np.arange(start, start + batch) % rows
        yield {name: np.ascontiguousarray(array[picks]) for name, array in inputs.items()}
