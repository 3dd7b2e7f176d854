"""Rows for experiments, which want to see all of them together: of large ones a sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from edgevit.artifact.manifest import Array, Sample
from edgevit.artifact.sampling import sample_of, sampled
from edgevit.artifact.shelf import Named
from edgevit.proof.ranked import ranks_of
from edgevit.proof.reference import Reference


def samples_of(outputs: Named) -> dict[str, Sample]:
    """The samples that are kept of those outputs whose rows are too large to be kept whole."""
    ranks = ranks_of(outputs)
    found = {
        name: sample_of(rows, ranked=ranks is not None and name in ranks.members) for name, rows in outputs.items()
    }
    return {name: sample for name, sample in found.items() if sample is not None}


def expected(reference: Reference) -> dict[str, Array]:
    """The reference's outputs."""
    found = {}
    for name, rows in reference.known.items():
        sample = None if name in reference.samples else _sample(reference, name)
        found[name] = np.asarray(rows) if sample is None else np.stack([_thin(row, sample) for row in rows])
    return {name: _as_thin(value) if name in reference.samples else value for name, value in found.items()}


def thinned(parts: Iterable[tuple[int, Mapping[str, Array]]], reference: Reference) -> dict[str, Array]:
    """An artifact's outputs, which come in parts, as ``expected`` has the reference's."""
    samples = {name: _sample(reference, name) for name in reference.known}
    found: dict[str, list[Array]] = {}
    for _, outputs in parts:
        for name, value in outputs.items():
            sample = samples.get(name)
            found.setdefault(name, []).extend(value if sample is None else [_thin(row, sample) for row in value])
    return {name: np.stack(rows) for name, rows in found.items()}


def _sample(reference: Reference, name: str) -> Sample | None:
    if name in reference.samples:
        return reference.samples[name].sample
    return sample_of(reference.outputs[name], ranked=False)


def _thin(row: Array, sample: Sample) -> Array:
    return sampled(row, sample).reshape(-1, 1)


def _as_thin(rows: Array) -> Array:
    # an axis more than logits have: what betrays a permutation of classes betrays nothing of a sample
    return rows.reshape(len(rows), -1, 1)
