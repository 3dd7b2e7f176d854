"""The file together with what is asked of it: its image, its rows, its classes, and what a manifest says of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx import ModelProto, NodeProto

from edgevit.artifact.manifest import BatchRange, ModelInfo, TensorSpec, WeightsInfo
from edgevit.artifact.shelf import Named
from edgevit.errors import UsageError
from edgevit.export.base import Graph
from edgevit.export.from_onnx.counts import count_macs, count_weights
from edgevit.export.from_onnx.ends import (
    ImagePort,
    Port,
    check_batch,
    given_rows,
    image_port,
    input_spec,
    output_spec,
    pinned_size,
    ports,
)
from edgevit.export.from_onnx.facts import OURS, Facts, facts_of
from edgevit.export.from_onnx.file import OnnxFile, read
from edgevit.export.from_onnx.graph import read_graph
from edgevit.export.from_onnx.original import Original
from edgevit.export.prepared import Answers, Run
from edgevit.export.rows import DEFAULT_DATA, MAX_ROWS, Rows, image_rows, labels_in
from edgevit.images import Preprocess
from edgevit.prediction.labels import check_labels_for
from edgevit.printable import printable
from edgevit.registry import own_version
from edgevit.request import MIN_ROWS, ExportRequest
from edgevit.steps import Steps
from edgevit.tasks.base import load_task
from edgevit.tasks.meaning import Meaning

ASSUMED_SIZE = (224, 224)
SIZE_NOTE = "it says no image size, so 224×224 is assumed; --image-size sets another"
PIXELS = "the file takes pixels as they are; {} is assumed of its pictures"
NO_SOFTMAX = "the Softmax at its end is left off: the artifact gives logits, and predict makes probabilities of them"
LOGITS = "logits"  # what the output is called then, since it is not the file's own
OTHER_LABELS = "its {} class names do not fit {} classes, and are left out"


@dataclass(frozen=True)
class Source:
    """The file, with what the request makes of its inputs.

    cut    the value that is taken as the only output, where the file's own end is left off
    notes  what was assumed
    """

    request: ExportRequest
    file: OnnxFile
    ports: tuple[Port, ...]
    image: ImagePort | None
    preprocess: Preprocess | None
    facts: Facts
    cut: str | None
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.request.model.source)

    def rows(self) -> Rows:
        """Real rows: images, or the caller's own arrays."""
        if self.request.inputs is not None:
            return Rows(given_rows(self.ports, self.request.inputs, MIN_ROWS, MAX_ROWS), "given inputs")
        if self.preprocess is None or self.image is None:
            raise UsageError(f"{self.name} does not say how images are preprocessed", hint="give inputs= arrays")
        wanted = max(MIN_ROWS, self.request.batch.max)
        found = image_rows(self.request.data or DEFAULT_DATA, self.preprocess, wanted)
        return replace(found, inputs={self.image.port.name: found.inputs["image"]})

    def graph(self, rows: Rows) -> ir.Model:
        """The graph in standard operators, pinned to the shapes of the rows."""
        batch = None if self.request.batch.dynamic else self.request.batch.min
        pinned = tuple(replace(port, sides=(batch, *rows.inputs[port.name].shape[1:])) for port in self.ports)
        return read_graph(self.file.path, pinned, self.cut)

    def classes(self, reference: Answers) -> int | None:
        """How many classes a model of images tells apart: its one output is a row of scores, or one of several is where
        that is said; None for anything else."""
        if self.image is not None and self.request.task == "classify":
            outputs = self.meaning(None).named(_specs(reference, self.request.batch))
            return next(spec.rows(1)[1] for spec in outputs if spec.role == "logits")
        first, *others = reference.whole.outputs.values()
        scores = not others and first.ndim == 2 and first.dtype == np.float32 and first.shape[1] > 1
        squashed = maker(self.file.model, "Sigmoid") is not None  # each class alone: predict would compare them
        return int(first.shape[1]) if self.image is not None and scores and not squashed else None

    def named(self, reference: Answers) -> Answers:
        """The answers under the names of the artifact's outputs: logits where the file's own end was left off."""
        if self.cut is None:
            return reference
        whole, golden = (Run(_called(LOGITS, run.outputs)) for run in (reference.whole, reference.golden))
        return replace(reference, whole=whole, golden=golden)

    def labels(self, classes: int | None) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        """Names of the classes, and what is to be said of them."""
        asked, known = self.request.labels, self.facts.labels
        if asked is not None:
            if classes is not None and len(asked) != classes:
                raise UsageError(f"{len(asked)} labels for {classes} classes", hint="one label per class, in order")
            return asked, ()
        if classes is None or (known is None and self.request.data is None):
            return None, ()
        if known is None:
            return labels_in(str(self.request.data), classes)
        return (known, ()) if len(known) == classes else (None, (OTHER_LABELS.format(len(known), classes),))

    def captured(
        self, original: Original, rows: Rows, reference: Answers, labels: tuple[str, ...] | None, classes: int | None
    ) -> Graph:
        batch = self.request.batch
        image = self.image is not None
        meaning = self.meaning(classes)
        outputs = meaning.named(_specs(reference, batch))
        check_labels_for(outputs, meaning.task.name, labels)
        return Graph(
            model=original.graph,
            inputs=tuple(input_spec(name, array, batch, image=image) for name, array in rows.inputs.items()),
            outputs=outputs,
            batch=batch,
            calibration=rows.inputs,
            metadata=self._metadata(labels),
        )

    def meaning(self, classes: int | None) -> Meaning:
        """What the outputs mean: as was asked for, else scores where the model tells classes apart."""
        asked = self.request.task
        return Meaning(load_task(asked or ("tensors" if classes is None else "classify")), said=asked is not None)

    def _metadata(self, labels: tuple[str, ...] | None) -> dict[str, str]:
        """Strings for the model file: its own, and ours."""
        found = {key: value for key, value in self.file.metadata.items() if key not in OURS}
        found |= {"model": self.name, "edgevit": own_version(), "weights": self.name}
        if self.preprocess is not None:
            found["preprocess"] = self.preprocess.model_dump_json()
        if labels is not None:
            found["labels"] = json.dumps(list(labels), ensure_ascii=False)
        return found

    def info(self, original: Original, classes: int | None) -> ModelInfo:
        return ModelInfo(
            name=self.name,
            source="onnx",
            form=self.request.form,
            task=self.meaning(classes).task.name,
            image_size=self.preprocess.size if self.preprocess else None,
            classes=classes,
            params=count_weights(original.graph),
            macs=count_macs(original.graph),
            weights=WeightsInfo(origin=self.name, state_sha256=self.file.sha256),
        )


def _called(name: str, outputs: Named) -> Named:
    """The only output under another name."""
    (value,) = outputs.values()
    return {name: value}


def read_source(request: ExportRequest) -> Source:
    """The file, and what the request makes of it. The errors of each step; nothing is run."""
    path = Path(str(request.model.source))
    shown = printable(str(path))
    file = read(path)
    found, facts = ports(file.model), facts_of(file.metadata)
    check_batch(found, request.batch, shown)
    if request.inputs is not None:
        return Source(request, file, found, None, None, facts, None, ())
    image = image_port(found, shown, request.model.steps.channels)
    size = pinned_size(image, request.model.image_size, facts.size, shown)
    notes = () if size else (SIZE_NOTE,)
    preprocess, said = _preprocess(image, facts, size or ASSUMED_SIZE, request.model.steps)
    cut = maker(file.model, "Softmax")
    notes = (*notes, *said, *((NO_SOFTMAX,) if cut else ()))
    return Source(request, file, found, image, preprocess, facts, cut.input[0] if cut else None, notes)


def _preprocess(
    image: ImagePort, facts: Facts, size: tuple[int, int], steps: Steps
) -> tuple[Preprocess, tuple[str, ...]]:
    """How an image becomes the input, and what is to be said of it. UsageError for a mean or std of what takes pixels
    as they are."""
    known, baked = facts.preprocess, image.port.dtype == "uint8"
    if baked and (steps.mean or steps.std or steps.range):
        raise UsageError(
            f"{image.port} takes pixels as they are, with no mean or std before it",
            hint="leave --mean, --std and --range out",
        )
    plain = Preprocess(size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)) if baked else None
    found, notes = steps.onto(known or plain, size, image.channels)
    if known is None and plain is not None and not steps.said():
        notes = (PIXELS.format(f"a centre crop of {plain.crop_pct:g}, {plain.interpolation},"),)
    source = (facts.source,) if known and facts.source else ()
    return found.model_copy(update={"layout": image.layout, "baked": baked}), (*source, *notes)


def maker(model: ModelProto, op_type: str) -> NodeProto | None:
    """The node of that type that makes the only output, through nothing but Identity; None where it is another."""
    if len(model.graph.output) != 1:
        return None
    made = {name: node for node in model.graph.node for name in node.output}
    node = made.get(model.graph.output[0].name)
    while node is not None and node.op_type == "Identity":
        node = made.get(node.input[0])
    return node if node is not None and node.op_type == op_type else None


def _specs(reference: Answers, batch: BatchRange) -> list[TensorSpec]:
    return [output_spec(name, array, batch) for name, array in reference.whole.outputs.items()]
