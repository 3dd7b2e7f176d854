"""The manifest: what is said about an artifact, field by field, and how files with a schema version are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from edgevit.artifact.formulas import side_of
from edgevit.artifact.goodness import IntegerReport, Loss, Quality, RecordedAccuracy, RecordedQuality, how_good
from edgevit.artifact.schema import Error, Fraction, Strict
from edgevit.errors import BadArtifact, UnknownName, UsageError
from edgevit.foreign import parse_json
from edgevit.images import Preprocess
from edgevit.precisions import precision_row
from edgevit.registry import newer_line
from edgevit.sizes import Sides, SizeRange, as_sizes

SCHEMA_VERSION: Literal[2] = 2
MANIFEST = "edgevit.json"
SIGNATURE = "edgevit.sig"
QUANT = "quant.json"  # the plan of an artifact's integers

Array = np.ndarray[Any, Any]
Checked = TypeVar("Checked", bound=BaseModel)
Role = Literal[
    "image", "mask", "logits", "features", "labels", "scores", "boxes", "masks", "picture", "depth", "tensor"
]


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or not pure.parts:
        raise ValueError(f"{path!r} is not a relative path inside the artifact")
    return path


MAX_RANK, MAX_BATCH = 16, 1 << 20
MAX_VALUES = 1 << 31  # of one tensor: 8 GiB of float32; more is a mistake, or meant to take all memory


def _known(precision: str) -> str:
    try:
        return precision_row(precision).name
    except UnknownName as exc:
        raise ValueError(f"{exc}; {exc.hint}") from exc


def _range(given: Any) -> SizeRange:
    try:
        found = as_sizes(given)
    except UsageError as exc:
        raise ValueError(str(exc)) from exc
    if not isinstance(found, SizeRange):
        raise ValueError(f"{found} is one size, and no range of them")
    return found


Sizes = Annotated[SizeRange, PlainValidator(_range), PlainSerializer(str), WithJsonSchema({"type": "string"})]
KnownPrecision = Annotated[str, AfterValidator(_known)]
RelativePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=MAX_VALUES)]


class TensorSpec(Strict):
    """One input or output. ``shape`` holds "batch" where the first axis is dynamic; where an artifact takes a range of
    image sizes, it is that of the size which the model was made for, and ``sides`` says how it follows another."""

    name: str
    dtype: Literal["float32", "float16", "uint8", "int32", "int64", "bool"]
    shape: tuple[Side | Literal["batch"], ...] = Field(max_length=MAX_RANK)
    role: Role
    sides: dict[str, str] = Field(default={}, description='axis -> formula of height and width: {"2": "height//4"}')

    @model_validator(mode="after")
    def _fits(self) -> TensorSpec:
        if "batch" in self.shape[1:]:
            raise ValueError(f"only the first side of {self.name} can be the batch")
        if not set(self.sides) <= {str(axis) for axis in range(1, len(self.shape))}:
            raise ValueError(f"{self.name} has no such axes as {', '.join(self.sides)}")
        if math.prod(side for side in self.shape if side != "batch") > MAX_VALUES:
            raise ValueError(f"{self.name} has more than {MAX_VALUES:,} values")
        return self

    def rows(self, count: int) -> tuple[int, ...]:
        """The shape of ``count`` rows."""
        return (count, *(side for side in self.shape[1:] if side != "batch"))

    def at(self, size: tuple[int, int]) -> TensorSpec:
        """The same for images of (height, width). ValueError for a formula that gives no side."""
        if not self.sides:
            return self
        sides = {int(axis): side_of(formula, size) for axis, formula in self.sides.items()}
        shape = tuple(sides.get(axis, side) for axis, side in enumerate(self.shape))
        return TensorSpec(name=self.name, dtype=self.dtype, shape=shape, role=self.role, sides=self.sides)

    def spans(self, batch: tuple[int, int], sizes: SizeRange | None) -> list[tuple[int, int]]:
        """The lowest and the highest that each side may be."""
        ends = [self, self] if sizes is None else [self.at(sizes.lowest), self.at(sizes.highest)]
        both = zip(*(end.shape for end in ends), strict=True)
        return [batch if low == "batch" or high == "batch" else (low, high) for low, high in both]

    def taken(self, shape: tuple[int, ...], sizes: SizeRange) -> Sides:
        """The size of the images in an array of that shape, if it is an input; UsageError unless it is in the range."""
        known = {formula: shape[int(axis)] for axis, formula in self.sides.items() if len(shape) == len(self.shape)}
        if not known:  # no image, or whatever it is, it fits no shape
            return sizes.lowest
        return sizes.require((known.get("height", sizes.height.low), known.get("width", sizes.width.low)), self.name)

    def shown(self) -> str:
        """Its shape in words: "1×3×height×width"."""
        return "×".join(self.sides.get(str(axis), str(side)) for axis, side in enumerate(self.shape))


class BatchRange(Strict):
    """Rows per call that the artifact takes, both ends included."""

    min: int = Field(ge=1, le=MAX_BATCH)
    max: int = Field(ge=1, le=MAX_BATCH)

    @model_validator(mode="after")
    def _ordered(self) -> BatchRange:
        if self.min > self.max:
            raise ValueError(f"a batch of {self.min} to {self.max} rows holds none")
        return self

    @property
    def dynamic(self) -> bool:
        return self.min != self.max

    def __str__(self) -> str:
        return f"{self.min}-{self.max}" if self.dynamic else str(self.min)


class WeightsInfo(Strict):
    """Where the weights came from. ``state_sha256`` is of the loaded state dict: a rebuilt source can be checked."""

    origin: str = Field(description="a path, 'digits', 'timm pretrained' and the like, or 'random (seed 0)'")
    state_sha256: Sha256

    @property
    def random(self) -> bool:
        return self.origin.startswith("random (seed")  # a file may be called random too

    def doubts(self) -> tuple[str, ...]:
        """What a reader of answers should know: one sentence, or none."""
        return ("the weights are random: its speed and size are real, its answers mean nothing",) if self.random else ()


class ModelInfo(Strict):
    name: str
    source: str = Field(
        pattern=r"^[\w-]+$", description="zoo, file, module, onnx, or the library it is of: timm, hf, …"
    )
    form: Literal["train", "deploy"]
    task: str = Field(description="what the outputs mean: classify, embed, segment, …, or a plug-in's")
    image_size: tuple[int, int] | None
    classes: int | None
    params: int
    macs: int = Field(description="multiply-accumulates of one row")
    weights: WeightsInfo

    @field_validator("task", mode="before")
    @classmethod
    def _renamed(cls, task: Any) -> Any:
        return "classify" if task == "classifier" else task  # as schema 1 called it


class OutputParity(Strict):
    """Differences of one output from the float64 reference, over all compared rows."""

    max_abs: Error
    max_rel: Error = Field(
        description="max abs error / max abs reference; of integers and booleans the share that differs, "
        "of those whose decision is clear of noise where that is known"
    )
    cosine: float = Field(description="the lowest cosine similarity of any row")
    clear: Fraction | None = Field(
        default=None, description="share of the values whose decision, or rank, no noise explains away"
    )
    changed: Fraction | None = Field(
        default=None, description="share of all values that differ, or whose rank does, clear or not"
    )
    values: int | None = Field(default=None, ge=0, description="values, or ranks, that clear is a share of")
    turned: int | None = Field(default=None, ge=0, description="how many that are not clear differ by more than noise")

    median: Error | None = Field(default=None, description="max_rel of the median row, where it has a bound")

    @property
    def unclear(self) -> tuple[int, int]:
        """How many values are not clear, and of how many."""
        count = self.values or 0
        return count - round((1.0 if self.clear is None else self.clear) * count), count


class OutputBound(Strict):
    """How far one output may lie from the reference."""

    tolerance: float = Field(gt=0, description="bound on max_rel, 10 × noise, within the precision's limits")
    noise: Error | None = Field(default=None, description="max_rel of the eager model in this precision")
    decided: bool = Field(
        default=False,
        description="golden.npz says which values are clear of noise, and only those must agree; noise and tolerance "
        "are then of the margins that they were decided by",
    )
    hanging: Error | None = Field(
        default=None,
        description="where values hang on decisions inside the model that noise may turn, and golden.npz says which: "
        "bound on max_rel of those, 10 × the noise of a model that decides by itself; beyond it they count as turned",
    )

    median: Error | None = Field(
        default=None, description="bound on max_rel of the median of 16 rows or more, of an artifact of integers"
    )

    @property
    def marked(self) -> bool:
        """Whether golden.npz says which values are clear."""
        return self.decided or self.hanging is not None


class Sample(Strict):
    """What golden.npz keeps of each of its rows of an output, where they are large."""

    axes: int = Field(ge=0, le=1, description="axes of a row that are kept whole: its ranks, where it has ranks")
    stride: int = Field(ge=1, description="of the other axes, taken as one, every so many-th value is kept")
    scale: Error = Field(description="the largest magnitude in the whole golden rows, which errors are a share of")


class Kernels(Strict):
    """What an engine made of an artifact's integers, after its fusion."""

    operators: int = Field(ge=1, description="of the graph that are integers")
    kernels: dict[str, int] | None = Field(description="that ran in integers, by kind; null off the device's engine")
    floats: dict[str, int] = Field(description="convolutions and matrix products that ran in floats, by kind")
    unmet: tuple[str, ...] = Field(default=(), description="operators of integers that ran in floats all the same")
    alone: bool = Field(default=False, description="weights alone are integers, which run in floats")

    def sentence(self) -> str:
        """``23 of 23 operators ran in integers (23 QGemm); in floats 1 Conv, 9 MatMul``."""
        if self.alone:
            return f"{self.operators} operators multiply floats by weights that are stored as integers"
        if self.kernels is None:
            return f"{self.operators} operators of integers; which of them a device computes so was never run by us"
        both = (self.kernels, self.floats)
        ran, floats = (", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "none" for kinds in both)
        unmet = f", and of the plan {', '.join(self.unmet)}" if self.unmet else ""
        return (
            f"{sum(both[0].values())} of {self.operators} operators ran in integers ({ran}); in floats {floats}{unmet}"
        )


class LayerProof(Kernels):
    """Every operator of an artifact's integers, run alone on what its plan makes of real rows; the scales, zero points
    and axes of each are the plan's."""

    rows: int = Field(ge=1)
    worst: Error = Field(description="error of a float result, as a share of its largest value")
    steps: Fraction = Field(
        description="share of the results that are one step from the plan's, or made of such an input"
    )


class Parity(Strict):
    """The proof. ``unverified`` always carries a reason; ``failed`` carries the likeliest cause in ``reason``."""

    status: Literal["verified", "unverified", "failed"]
    reason: str | None = None
    max_abs: Error | None = None
    max_rel: Error | None = Field(default=None, description="the worst output's max abs error / max abs reference")
    cosine: float | None = None
    top1_agreement: Fraction | None = Field(
        default=None, description="share of the rows of top1_rows with the reference's top-1; less than 1 fails"
    )
    top1_rows: int | None = Field(default=None, ge=0, description="rows whose margin exceeds 4 × the noise")
    tolerance: float = Field(gt=0, description="bound on max_rel, 10 × noise, within the precision's limits")
    noise: Error | None = Field(
        default=None, description="max_rel of the eager model in this precision against float64, the worst output's"
    )
    bounds: dict[str, OutputBound] = Field(default={}, description="of each output; without: tolerance, of all")
    images: int = Field(default=0, ge=0, description="rows compared")
    batches: tuple[int, ...] = Field(default=(), description="batch sizes that were proved")
    sizes: tuple[str, ...] = Field(default=(), description="sizes of images that were proved, of a range of them")
    runtime: str | None = None
    outputs: dict[str, OutputParity] = Field(default={})
    layers: LayerProof | None = Field(default=None, description="of an artifact of integers, at export")

    def decisions(self) -> Iterator[str]:
        """A sentence for every output that decisions have a part in: how much of it no noise explains away."""
        for name, figures in self.outputs.items():
            if figures.clear is None:
                continue
            bound = self.bounds.get(name)
            if bound is not None and bound.hanging is not None and figures.values:
                yield f"{name}: {self._hanging(figures)}"
                continue
            changed = "none" if not figures.changed else f"{figures.changed:.4%}"
            yield f"{name}: {figures.clear:.2%} is clear of noise, all of it agrees; of all values {changed} differ"

    def _hanging(self, figures: OutputParity) -> str:
        unclear, count = figures.unclear
        differ = f"{figures.turned:,} of them differ" if figures.turned else "none of them differs"
        others = ", all others agree" if self.status != "failed" and unclear < count else ""
        return f"{unclear:,} of {count:,} values hang on a decision too close to call, {differ}{others}"

    def hanging(self) -> str:
        """The share of values that hang on decisions, in short; "" where none does."""
        found = [one.unclear for name, one in self.outputs.items() if (own := self.bounds.get(name)) and own.hanging]
        unclear, count = (sum(part) for part in zip(*found, strict=True)) if found else (0, 0)
        return f"{unclear:,} of {count:,} values too close to call" if unclear else ""

    def at_sizes(self) -> str:
        """The sizes that were proved, in a sentence's words; "" where there is one."""
        return f", images of {', '.join(self.sizes)}" if self.sizes else ""

    def record(self) -> dict[str, Any]:
        """The object ``parity`` of every ``--json``: the fields outside scripts rely on."""
        names = {"status", "reason", "max_abs", "max_rel", "cosine", "top1_agreement", "tolerance", "images"}
        return self.model_dump(mode="json", include=names)


class PrecisionReport(Strict):
    """What the built graph really holds, counted after the build."""

    requested: str
    layers: dict[str, int] = Field(
        description="number of compute nodes (conv, matmul, …) by the type of their weights or inputs"
    )
    kept_fp32: dict[str, str] = Field(default={}, description="module kept in fp32 -> why")


class ReparamSummary(Strict):
    folded: dict[str, int] = Field(description="kind of fold -> how many")
    left: dict[str, str] = Field(description="module still there -> why")
    max_rel_error: float = Field(description="float64, random inputs, randomised statistics")


class Manifest(Strict):
    """edgevit.json. Strict: an unknown field is an error, and a newer schema is refused."""

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    edgevit: str = Field(description="version that wrote this")
    created: str = Field(description="UTC, ISO 8601")
    target: str
    precision: KnownPrecision
    options: dict[str, str | int | float | bool] = Field(default={})
    entry: RelativePath = Field(description="the file or folder a runtime opens")
    model: ModelInfo
    labels: tuple[str, ...] | None = None
    batch: BatchRange
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    image_sizes: Sizes | None = Field(default=None, description="that it takes, as --image-size has them: 128-512/32")
    preprocess: Preprocess | None
    parity: Parity
    precision_report: PrecisionReport
    reparam: ReparamSummary | None = None
    accuracy: RecordedAccuracy | None = None
    quality: RecordedQuality | None = None
    integers: IntegerReport | None = None
    loss: Loss | None = Field(default=None, description="what the artifact's own answers cost on data, in bf16")
    sampled: dict[str, Sample] = Field(default={}, description="outputs of whose golden rows a sample is kept")
    versions: dict[str, str] = Field(default={}, description="packages that took part in the build")
    lock: dict[str, str | int | list[int]] = Field(
        default={}, description="what a target checks before it opens the file"
    )
    notes: tuple[str, ...] = ()
    files: dict[RelativePath, Sha256]
    seal: Sha256 | None = Field(default=None, description="hash of all the rest, see seal.py")

    @model_validator(mode="after")
    def _fits(self) -> Manifest:
        names = [spec.name for spec in (*self.inputs, *self.outputs)]
        if not self.inputs or not self.outputs or len(set(names)) != len(names):
            raise ValueError("a model has inputs and outputs, each with a name of its own")
        if not set(self.sampled) <= {spec.name for spec in self.outputs if spec.shape[1:]}:
            raise ValueError("a sample is kept of an output with rows")
        logits = self.logits_output()  # of queries, earlier versions counted "nothing" as a class
        count = logits.shape[-1] if logits else None
        if self.labels is not None and count is not None and len(self.labels) != count:
            raise ValueError(f"there are {len(self.labels)} labels for {count} classes")
        if self.labels is not None and not all(label.strip() for label in self.labels):
            raise ValueError("a label is empty")
        if any(math.prod(spec.rows(self.batch.max)) > MAX_VALUES for spec in (*self.inputs, *self.outputs)):
            raise ValueError(f"a batch of {self.batch.max} rows has more than {MAX_VALUES:,} values")
        self._fits_sizes()
        return self

    def _fits_sizes(self) -> None:
        """ValueError where what follows the image's size is at odds with the sizes, or with the shapes."""
        specs, sizes, steps = (*self.inputs, *self.outputs), self.image_sizes, self.preprocess
        if sizes is None:
            if any(spec.sides for spec in specs):
                raise ValueError("sides follow an image's size, and there is no range of sizes")
            return
        if steps is None or steps.size not in sizes:
            raise ValueError(f"image_sizes are {sizes}, and preprocess makes images of none of them")
        if any(spec.at(steps.size).shape != spec.shape for spec in specs):
            raise ValueError("the shape of a tensor is not what its sides make of the size of preprocess")
        highest = [spec.at(sizes.highest).rows(self.batch.max) for spec in specs]
        if any(math.prod(shape) > MAX_VALUES for shape in highest):
            raise ValueError(f"a batch of {self.batch.max} rows of {sizes.highest} has more than {MAX_VALUES:,} values")

    def at(self, size: tuple[int, int] | None) -> Manifest:
        """What it says of images of one size, as if it took no other; None: of the size that it was made for.
        UsageError for a size that it does not take."""
        steps, sizes = self.preprocess, self.image_sizes
        if size is None or steps is None or size == steps.size:
            if size is not None and steps is None:
                raise UsageError(f"{self.model.name} takes no images, so they have no size", hint="leave it out")
            return self
        if sizes is None:
            raise UsageError(
                f"{self.model.name} was exported for images of {Sides(*steps.size)}, not {Sides(*size)}",
                hint=f"export it with --image-size {Sides(*size)}, or with a range of them: 128-512/32",
            )
        chosen = sizes.require(size, self.model.name)
        specs = {kind: tuple(spec.at(chosen) for spec in getattr(self, kind)) for kind in ("inputs", "outputs")}
        return self.model_copy(update={**specs, "preprocess": steps.at(chosen)})

    def cost(self) -> Loss | None:
        """What its precision costs on data, where somebody measured it."""
        return self.integers.loss if self.integers else self.loss

    def how_good(self) -> Quality | None:
        """How good the source model's answers were at export, whatever their task; None where nobody measured it."""
        return how_good(self.accuracy, self.quality)

    def image_input(self) -> TensorSpec | None:
        """The input that preprocessed images go to, or None."""
        return next((spec for spec in self.inputs if spec.role == "image"), None)

    def logits_output(self) -> TensorSpec | None:
        """The output that has one score for each class of a row; those of many queries in a row are none."""
        return next((spec for spec in self.outputs if spec.role == "logits" and len(spec.shape) == 2), None)

    def class_count(self) -> int | None:
        """How many classes the answers tell apart; None for what does not say."""
        return count_classes(self.outputs, self.model.task)


def count_classes(outputs: Sequence[TensorSpec], task: str) -> int | None:
    """How many classes have scores; None where none has. The last score of each of many queries is "nothing"."""
    for spec in outputs:
        if spec.role == "logits" and len(spec.shape) in (2, 3) and isinstance(count := spec.shape[-1], int):
            return count - (len(spec.shape) == 3 and task != "tensors")
    return next((spec.rows(1)[1] for spec in outputs if spec.role == "masks" and len(spec.shape) == 4), None)


def parse_manifest(text: str, path: Path) -> Manifest:
    """The manifest in ``text``; BadArtifact names the first field that is wrong."""
    return parse_versioned(text, path / MANIFEST, Manifest, SCHEMA_VERSION, "manifest", "folder", "export anew")


def parse_versioned(
    text: str, file: Path, schema: type[Checked], newest: int, kind: str, copied: str, anew: str
) -> Checked:
    """The ``schema`` in ``text``, which is ``file``'s: JSON with a ``schema_version`` up to ``newest``.

    BadArtifact names the first field that is wrong. ``kind`` is what errors call it; they say to copy the ``copied``
    again, or how to make it ``anew``.
    """
    try:
        raw = parse_json(text)
    except ValueError as exc:
        raise BadArtifact(f"{file} is not JSON: {exc}", hint=f"copy the {copied} again, or {anew}") from exc
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if type(version) is not int:  # pydantic takes True and 1.0 for a Literal[1]
        raise BadArtifact(f"{file}: schema_version is {version!r}, no number of a schema", hint=anew)
    if version > newest:
        raise BadArtifact(
            f"{file.parent} has {kind} schema {version}; this edgevit reads up to {newest}",
            hint=newer_line(),
        )
    try:
        return schema.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or f"the {kind}"
        if first["type"] == "extra_forbidden":
            raise BadArtifact(
                f"{file}: {field} is nothing that this edgevit knows: a newer one wrote it, or it was edited",
                hint=newer_line(),
            ) from exc
        raise BadArtifact(f"{file}: {field}: {first['msg'].lower()}", hint=anew) from exc
