"""What the file answers as it is, in ONNX Runtime, float32, without graph optimisation: the reference of its artifacts.

There is no float64 to compare with, so the reference has float32's own rounding. Its noise is what rounding errors made
on purpose (a unit in the last place of every result) and ONNX Runtime's own optimisations do to the answers; the
tolerance is ten times that, as for every artifact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import ModelProto

from edgevit import registry, worker
from edgevit.artifact import shelf
from edgevit.artifact.golden import GOLDEN_ROWS
from edgevit.artifact.goodness import RecordedAccuracy, RecordedQuality
from edgevit.artifact.manifest import Array, BatchRange
from edgevit.cpu import checked_threads
from edgevit.data.source import open_data
from edgevit.errors import ParityFailed, Unsupported, WorkerFailed
from edgevit.export.base import Graph
from edgevit.export.from_onnx.file import OnnxFile
from edgevit.export.from_onnx.trials import jittered, rounded
from edgevit.export.prepared import Answers, Levels, Noise, Run, worst
from edgevit.images import Preprocess
from edgevit.precisions import FLOOR, precision_row
from edgevit.tasks.metrics.base import meter_for
from edgevit.tasks.metrics.measuring import Bench

CHUNK = 8  # rows of a dynamic batch that are run at once
SLACK = 30.0  # rows that differ this many times more than rounding explains depend on one another
LIMIT = 2_000_000_000  # bytes of weights that fit into a graph's own file
TIMEOUT_S = 3600.0
_SESSIONS = "edgevit.export.from_onnx.sessions"

Rows = Mapping[str, Array]


@dataclass(frozen=True)
class Scored:
    """Which of the outputs tells ``classes`` apart, and what those are called."""

    output: int
    classes: int
    labels: Sequence[str] | None


@dataclass(frozen=True)
class Original:
    """The file, asked in a worker process.

    graph    the same in standard operators: what trials are made of
    cut      the value that is the output, where the file's own is left off
    threads  None is as many as there are cores
    """

    file: OnnxFile
    graph: ir.Model
    cut: str | None
    threads: int | None

    def answers(self, rows: Rows, batch: BatchRange) -> tuple[Answers, Levels]:
        """What it answers to all rows, and the noise of that in fp32.

        ParityFailed for answers that are no numbers; Unsupported where ONNX Runtime cannot run the file, and for
        answers that change from call to call, or with the other rows of a dynamic batch.
        """
        size, count = min(max(batch.min, CHUNK), batch.max), _count(rows)
        other = batch.min if batch.min < size else batch.max
        with tempfile.TemporaryDirectory(prefix="edgevit-original-") as folder:
            source, trial = self._source(Path(folder)), _saved(jittered(self.graph), Path(folder) / "jittered.onnx")
            asked = [
                _run(*source, size, count),
                _run(*source, size, min(GOLDEN_ROWS, count)),
                _run(*source, size, count, optimised=True),
                _run(*trial, size, count, trial=True),
                _run(*source, other, min(size, count)),
            ]
            exact, golden, fused, moved, apart = _asked(rows, asked, self.threads, Path(folder))
        _require_numbers(exact)
        moved = dict(zip(exact, moved.values(), strict=True))
        levels = worst((_levels(moved, exact), _levels(fused, exact)))
        if batch.dynamic and _dependent(apart, exact, levels):
            raise Unsupported(
                "this model cannot take a dynamic batch: its answer to a row depends on the other rows of the batch",
                hint="export with --batch 1, or with the batch size that it is always called with",
            )
        return Answers(Run(exact), Run(golden), size, "float32", (self.sentence(),)), levels

    def noise(self, rows: Rows, want: Answers, levels: Levels, precision: str, keep: Collection[str]) -> Levels:
        """The error of every output of the graph in ``precision``; ``levels`` are those in fp32."""
        if (to := precision_row(precision).rounded_to) is None:
            return levels
        with tempfile.TemporaryDirectory(prefix="edgevit-rounded-") as folder:
            trial = _saved(rounded(self.graph, keep, to), Path(folder) / "rounded.onnx")
            (found,) = _asked(rows, [_run(*trial, want.group, _count(rows), trial=True)], self.threads, Path(folder))
        outputs = want.whole.outputs
        return worst((levels, _levels(dict(zip(outputs, found.values(), strict=True)), outputs)))

    def accuracy(self, data: str, preprocess: Preprocess, scored: Scored, group: int) -> RecordedAccuracy | None:
        """Top-1 on labelled data; None where its labels are not this model's classes."""
        with tempfile.TemporaryDirectory(prefix="edgevit-accuracy-") as folder:
            path, weights = self._source(Path(folder))
            payload = {
                "path": path, "folder": weights, "threads": checked_threads(self.threads), "group": group, "data": data,
                "preprocess": preprocess.model_dump_json(), **vars(scored),
            }  # fmt: skip
            found = _called("accuracy_in_worker", payload)["accuracy"]
        return RecordedAccuracy.model_validate(found) if found else None

    def quality(self, data: str, bench: Bench, group: int, notes: list[str]) -> RecordedQuality | None:
        """The task's metric; None where the data says nothing that it is judged by, as ``notes`` then may tell."""
        if meter_for(bench.task, open_data(data)) is None:
            return None
        with tempfile.TemporaryDirectory(prefix="edgevit-quality-") as folder:
            path, weights = self._source(Path(folder))
            payload = {
                "path": path, "folder": weights, "threads": checked_threads(self.threads), "group": group, "data": data,
                "task": bench.task.name, "outputs": [spec.model_dump(mode="json") for spec in bench.outputs],
                "preprocess": bench.steps.model_dump_json(), "labels": bench.labels and list(bench.labels),
            }  # fmt: skip
            answer = _called("quality_in_worker", payload)
        notes.extend(answer["notes"])
        return RecordedQuality.model_validate(answer["quality"]) if answer["quality"] else None

    def sentence(self) -> str:
        """What the reference is, for the record."""
        version = registry.version_of("|".join(registry.ONNXRUNTIMES))
        which = f"{self.file.path.name}, up to its last Softmax," if self.cut else f"{self.file.path.name} itself"
        return f"the reference is {which} in ONNX Runtime {version}: float32, without graph optimisation"

    def _source(self, folder: Path) -> tuple[str, str]:
        """The graph that is the reference, and the folder of its weights: the file itself, but where its end is cut."""
        weights = str(self.file.path.absolute().parent)
        if self.cut is None:
            return str(self.file.path.absolute()), weights
        model = ModelProto()
        model.CopyFrom(self.file.model)
        model.graph.output[0].name = self.cut
        model.graph.output[0].type.tensor_type.ClearField("shape")
        onnx.save(model, str(folder / "source.onnx"))
        return str(folder / "source.onnx"), weights


def largest_values(watched: ir.Model, graph: Graph) -> dict[str, float]:
    """Output of ``watched`` -> its largest magnitude on the calibration rows; of the graph's own inputs too."""
    with tempfile.TemporaryDirectory(prefix="edgevit-ranges-") as folder:
        path, weights = _saved(watched, Path(folder) / "watched.onnx")
        rows = Path(folder) / "rows.npz"
        np.savez(rows, **graph.calibration)  # type: ignore[arg-type]
        payload = {
            "path": path,
            "folder": weights,
            "rows": str(rows),
            "group": graph.batch.min,
            "threads": checked_threads(None),
        }
        found = _called("reach_in_worker", payload)["reached"]
    floats = {name: array for name, array in graph.calibration.items() if array.dtype.kind == "f"}
    return {**found, **{name: float(np.abs(array).max(initial=0.0)) for name, array in floats.items()}}


def _saved(model: ir.Model, path: Path) -> tuple[str, str]:
    """A graph written for the worker, and the folder of its weights."""
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, path, external_data=f"{path.name}.data" if weights > LIMIT else None)
    return str(path), str(path.parent)


def _run(
    path: str, folder: str, group: int, count: int, *, optimised: bool = False, trial: bool = False
) -> dict[str, Any]:
    """A graph, and how many rows it is asked about; a ``trial`` is a graph that we wrote."""
    return {
        "path": path, "folder": folder, "group": group, "count": count, "optimised": optimised, "trial": trial
    }  # fmt: skip


def _asked(rows: Rows, runs: list[dict[str, Any]], threads: int | None, folder: Path) -> list[dict[str, shelf.Rows]]:
    """The outputs of each run, by name."""
    given, out, scratch = folder / "rows.npz", folder / "answers.npz", shelf.Scratch()
    np.savez(given, **rows)  # type: ignore[arg-type]
    payload = {
        "rows": str(given), "out": str(out), "runs": runs, "threads": checked_threads(threads),
        "scratch": str(scratch.folder),
    }  # fmt: skip
    _called("answer_in_worker", payload)
    found: list[dict[str, shelf.Rows]] = [{} for _ in runs]
    for key, value in shelf.load_rows(out, scratch).items():
        index, _, name = key.partition(".")
        found[int(index)][name] = value
    return found


def _called(function: str, payload: dict[str, Any]) -> dict[str, Any]:
    try:
        return worker.call(f"{_SESSIONS}:{function}", payload, timeout=TIMEOUT_S)
    except WorkerFailed as exc:
        raise Unsupported(f"ONNX Runtime could not run the file: {exc}", hint=exc.hint) from exc


def _count(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def _levels(got: shelf.Named, want: shelf.Named) -> Levels:
    return Levels({name: Noise(shelf.error_of_rows(got[name], value)) for name, value in want.items()})


def _dependent(apart: shelf.Named, exact: shelf.Named, levels: Levels) -> bool:
    """Whether rows run in other groups have other answers than rounding explains."""
    found = _levels(apart, {name: value[: len(apart[name])] for name, value in exact.items()}).outputs
    return any(level.error > max(FLOOR, SLACK * levels.outputs[name].error) for name, level in found.items())


def _require_numbers(outputs: shelf.Named) -> None:
    for name, value in outputs.items():
        if value.dtype.kind == "f" and not all(np.isfinite(row).all() for row in value):
            raise ParityFailed(
                f"the file itself answers NaN or infinity: output {name}",
                hint="check its weights: equality with what is no number cannot be proved",
            )
