"""The worker's side: runs graphs on rows with ONNX Runtime. A crash ends the worker, and is a sentence elsewhere."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.artifact.shelf import Rows, Scratch, gathered, save_rows
from edgevit.errors import EdgeVitError, ExportFailed, Unsupported, first_line
from edgevit.export.accuracy import measure_accuracy
from edgevit.export.quality import measure_quality
from edgevit.images import Preprocess
from edgevit.printable import printable
from edgevit.tasks.base import load_task
from edgevit.tasks.metrics.measuring import Bench

_QUIET = 4  # fatal only: errors are raised as well
_WEIGHTS = "session.model_external_initializers_file_folder_path"
_REPEATABLE = 1e-6  # two runs of the same rows, in whatever order threads sum


class Model:
    """One opened graph, on the CPU.

    path       a file of ONNX; its weights may lie in files in ``folder``
    optimised  whether ONNX Runtime may fuse and reorder; without, every operator is computed as it is written
    trial      whether it is a graph that we wrote
    """

    def __init__(self, path: str, folder: str, threads: int, *, optimised: bool = False, trial: bool = False) -> None:
        levels = ort.GraphOptimizationLevel
        options = ort.SessionOptions()
        options.log_severity_level = _QUIET
        options.intra_op_num_threads = threads
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        options.add_session_config_entry(_WEIGHTS, folder)
        self.trial = trial
        with _in_words(trial):
            given = Path(path).read_bytes()  # as bytes: only so the weights may lie in another folder than the graph
            self.session = ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def called(self, rows: Mapping[str, Array], picks: Array) -> dict[str, Array]:
        """Outputs of one call with the picked rows."""
        feeds = {name: np.ascontiguousarray(rows[name][picks]) for name in self.inputs}
        with _in_words(self.trial):
            return dict(zip(self.outputs, self.session.run(None, feeds), strict=True))

    def once(self, rows: Mapping[str, Array], picks: Array) -> dict[str, Array]:
        """Outputs of one call with the picked rows. Unsupported for one that has not a row for each."""
        named = self.called(rows, picks)
        for name, value in named.items():
            if not isinstance(value, np.ndarray) or value.ndim == 0 or value.shape[0] != len(picks):
                shape = getattr(value, "shape", type(value).__name__)
                raise Unsupported(
                    f"output {printable(name)} is {shape} for {len(picks)} rows: its first axis is not the batch",
                    hint="export the model so that every output has one row per input row",
                )
        return named

    def grouped(
        self, rows: Mapping[str, Array], group: int, count: int, scratch: Scratch | None = None
    ) -> dict[str, Rows]:
        """Outputs of the first ``count`` rows, ``group`` at a time, the last group filled up with the first ones; those
        that are large lie in ``scratch``."""
        return gathered(self._parts(rows, group, count), count, scratch)

    def _parts(self, rows: Mapping[str, Array], group: int, count: int) -> Iterator[dict[str, Array]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for start in range(0, count, group):
            part = self.once(rows, np.arange(start, start + group) % count)
            for name, value in part.items():
                if shapes.setdefault(name, value.shape) != value.shape:
                    raise Unsupported(
                        f"the shape of output {printable(name)} depends on the image, and that of an artifact's does"
                        " not",
                        hint="export the model without the steps that pick among its answers (such as NMS)",
                    )
            yield part
            del part

    def require_steady(self, rows: Mapping[str, Array], group: int) -> None:
        """Unsupported where the same rows are answered otherwise the second time."""
        picks = np.arange(group) % len(next(iter(rows.values())))
        first, again = self.once(rows, picks), self.once(rows, picks)
        for name, value in first.items():
            scale = float(np.abs(value).max(initial=0.0)) or 1.0
            if value.dtype.kind == "f" and float(np.abs(value - again[name]).max(initial=0.0)) > _REPEATABLE * scale:
                raise Unsupported(
                    "the model's answers change from call to call: its graph draws random numbers",
                    hint="export the model in eval mode, without dropout and noise",
                )


@contextlib.contextmanager
def _in_words(trial: bool) -> Iterator[None]:
    try:
        yield
    except EdgeVitError:
        raise
    except Exception as exc:  # ONNX Runtime raises a dozen kinds of its own
        said = printable(first_line(exc))
        if trial:
            raise ExportFailed(
                f"ONNX Runtime cannot run what was made of the file's graph: {said}", hint="please report this model"
            ) from exc
        raise Unsupported(
            f"ONNX Runtime cannot run the file as it is: {said}", hint="pip install -U onnxruntime, or export it anew"
        ) from exc


def answer_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target. ``runs``: each a graph (path, folder, optimised, trial) and how many of the rows (group, count);
    the outputs of each go to the .npz ``out``. The first graph's answers must be the same twice."""
    with np.load(payload["rows"], allow_pickle=False) as stored:
        rows = {name: stored[name] for name in stored.files}
    opened: dict[tuple[str, bool], Model] = {}
    found: dict[str, Rows] = {}
    scratch = Scratch(Path(payload["scratch"]))
    for index, run in enumerate(payload["runs"]):
        key = (run["path"], run["optimised"])
        if key not in opened:
            how = {name: run[name] for name in ("optimised", "trial")}
            opened[key] = Model(run["path"], run["folder"], payload["threads"], **how)
        if index == 0:
            opened[key].require_steady(rows, run["group"])
        answers = opened[key].grouped(rows, run["group"], run["count"], scratch)
        found |= {f"{index}.{name}": value for name, value in answers.items()}
    save_rows(Path(payload["out"]), found)
    return {}


def reach_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target. Largest magnitude of every output of a graph over all rows, ``group`` at a time, by its name."""
    with np.load(payload["rows"], allow_pickle=False) as stored:
        rows = {name: stored[name] for name in stored.files}
    model = Model(payload["path"], payload["folder"], payload["threads"], trial=True)
    reached: dict[str, float] = {}
    count, group = len(next(iter(rows.values()))), payload["group"]
    for start in range(0, count, group):
        for name, value in model.called(rows, np.arange(start, start + group) % count).items():
            biggest = float(np.abs(value).max(initial=0.0))
            reached[name] = max(reached.get(name, 0.0), biggest if np.isfinite(biggest) else 1e38)
    return {"reached": reached}


def accuracy_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target. Top-1 of a classifier on labelled data, as an RecordedAccuracy in JSON, or None."""
    model = Model(payload["path"], payload["folder"], payload["threads"])
    group, (name,) = payload["group"], model.inputs

    def logits_of(rows: Array) -> Array:
        found = list(model.grouped({name: rows}, group, len(rows)).values())
        return np.asarray(found[payload["output"]])

    labels = payload["labels"]
    preprocess = Preprocess.model_validate_json(payload["preprocess"])
    found = measure_accuracy(logits_of, payload["data"], preprocess, payload["classes"], labels and tuple(labels))
    return {"accuracy": found.model_dump(mode="json") if found else None}


def quality_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target. The task's metric on data, as a RecordedQuality in JSON, or None, and notes on it."""
    model = Model(payload["path"], payload["folder"], payload["threads"])
    group, (name,) = payload["group"], model.inputs
    outputs = tuple(TensorSpec.model_validate_json(json.dumps(spec)) for spec in payload["outputs"])

    def answers(rows: Array) -> dict[str, Array]:
        found = model.grouped({name: rows}, group, len(rows)).values()
        return {spec.name: np.asarray(value) for spec, value in zip(outputs, found, strict=True)}

    labels, steps = payload["labels"], Preprocess.model_validate_json(payload["preprocess"])
    bench = Bench(load_task(payload["task"]), outputs, steps, labels and tuple(labels))
    notes: list[str] = []
    found = measure_quality(answers, payload["data"], bench, notes)
    return {"quality": found.model_dump(mode="json") if found else None, "notes": notes}
