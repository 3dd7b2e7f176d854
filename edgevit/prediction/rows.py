"""Answers about rows of a model's own inputs, as an .npz holds them: for models that take no picture, or more than one
input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array, Manifest
from edgevit.artifact.opened import Artifact
from edgevit.bundle.opened import is_bundle
from edgevit.data.npz import read_rows
from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.prediction.predictor import proved
from edgevit.prediction.results import Failure, Prediction, failed
from edgevit.runtimes.base import Session, open_session
from edgevit.runtimes.rows import manifest_of, run_rows
from edgevit.tasks.base import load_task
from edgevit.tasks.reading import Reading

Answers = Iterator[Prediction | Failure]


@contextmanager
def rows_answered(
    path: Path, files: Sequence[Path], *, top: int, labels: Sequence[str] | None, keep: bool = False, **opening: Any
) -> Iterator[tuple[Answers, Sequence[str]]]:
    """One result for each row of the ``files`` together, as they come, and the columns of a table of them. ``keep``
    leaves the outputs in the results. ``opening`` is that of ``open_session``. ParityFailed for an artifact that failed
    its proof, UsageError for a bundle, and for rows that the artifact does not take."""
    if is_bundle(path):
        raise UsageError(f"{path} is a bundle, which takes pictures", hint="drop --inputs, or name a part's folder")
    if top < 1:
        raise UsageError(f"top must be 1 or more, got {top}")
    rows, file = read_together(files)
    artifact = Artifact.open(path)
    artifact.check_seal()
    reading = _reading(manifest_of(proved(artifact, labels).manifest, rows, file), labels, top)
    with open_session(artifact, **opening) as session:
        yield _answers(session, reading, rows, file, keep=keep), reading.columns


def read_together(files: Sequence[Path]) -> tuple[dict[str, Array], Path]:
    """The rows of several files, each of other inputs, and the file that has most; one row of a file goes with all
    rows of the others. UsageError for an input that two of them hold, and for other numbers of rows."""
    found: dict[str, Array] = {}
    holding: dict[str, Path] = {}
    for file in files:
        for name, array in read_rows(file).items():
            if name in holding:
                raise UsageError(f"{holding[name]} and {file} both hold {name}", hint="leave one of them out")
            found[name], holding[name] = array, file
    most = max(found, key=lambda name: len(found[name]))
    count = len(found[most])
    for name, array in found.items():
        if len(array) not in (1, count):
            raise UsageError(
                f"{holding[most]} has {count} rows, {holding[name]} has {len(array)}",
                hint="as many in each, or one that goes with all of the others",
            )
    whole = {name: np.broadcast_to(array, (count, *array.shape[1:])) for name, array in found.items()}
    return whole, holding[most]


def _answers(session: Session, reading: Reading, rows: dict[str, Array], file: Path, *, keep: bool) -> Answers:
    """A call of the largest batch at a time, so that the outputs of one call are held."""
    manifest = session.artifact.manifest
    count, doubts = len(next(iter(rows.values()))), manifest.model.weights.doubts()
    for first in range(0, count, manifest.batch.max):
        some = {name: array[first : first + manifest.batch.max] for name, array in rows.items()}
        made = run_rows(session, some, max(manifest.batch.min, len(next(iter(some.values())))))
        for index in range(min(manifest.batch.max, count - first)):
            name = f"{file}[{first + index}]"
            row = {output: array[index] for output, array in made.items()}
            answer = reading.answer(row, reading.steps.size)
            if answer is None:
                yield failed(name, "the model's output holds NaN or infinity; run edgevit verify")
            else:
                yield Prediction(name, answer, doubts=doubts, outputs=row if keep else None)


def _reading(manifest: Manifest, labels: Sequence[str] | None, top: int) -> Reading:
    """What reads answers about rows: places are in the model's own pixels, where it has any."""
    image = manifest.image_input() or manifest.inputs[0]
    steps = manifest.preprocess or Preprocess(size=manifest.model.image_size or (1, 1))
    names = tuple(labels) if labels else manifest.labels
    return Reading(load_task(manifest.model.task), image, steps.after_crop(), manifest.outputs, names, top)
