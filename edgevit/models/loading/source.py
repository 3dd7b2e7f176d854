"""From a model's name to a ready module: zoo name, ``timm:NAME`` and the like, or ``path/to/file.py:factory``, with
weights.

Weights fit a model completely or not at all: every mismatch is named, and nothing is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from edgevit import registry
from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.models import zoo
from edgevit.models.eager.faults import require_tree
from edgevit.models.eager.wrappers import in_float32, plain, unwrapped
from edgevit.models.loading import file_models
from edgevit.models.loading.checkpoint import Checkpoint, CheckpointMeta, read_checkpoint
from edgevit.models.loading.choice import check, file_and_set, named, weights_path
from edgevit.models.loading.drawn import Drawn
from edgevit.models.loading.fitting import Convert, Taken, load_weights
from edgevit.models.loading.published import Maker, Wanted
from edgevit.models.loading.timm_models import import_timm as import_timm
from edgevit.models.spec import ModelSpec, attach_spec, spec_of
from edgevit.request import ModelChoice, image_sides
from edgevit.sizes import ImageSize
from edgevit.steps import OF_CHANNELS, Steps

RANDOM = "random (seed 0)"
BY_FACTORY = "its factory's own"
ASSUMED_SIZE = (224, 224)  # of a model of the user's that says nothing, as of most published ones
SIZE_NOTE = "it says no image size, so 224×224 is assumed; --image-size sets another"


def create_model(
    name: str,
    *,
    weights: Path | str | None = None,
    num_classes: int | None = None,
    image_size: ImageSize | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """A module in train form and eval mode, with its ``ModelSpec`` attached (``edgevit.models.spec.spec_of``).

    ``weights`` is a file (safetensors or torch's, by its content; our keys or timm's, in whatever wrapper) or the name
    of weights that the package ships ("digits"); without it they are random from seed 0, the same on every call.
    Averaged weights are taken before others; "FILE#KEY" says which of a file's sets. What a checkpoint of ours says
    about classes, image size, labels and preprocessing holds unless given here; ``pretrained`` is for libraries'
    models, as timm's.
    Raises UnknownName, UsageError, MissingDependency, EdgeVitError (no network).
    """
    return load(
        ModelChoice(name, None if weights is None else str(weights), pretrained, num_classes, image_sides(image_size))
    )


def load(model: ModelChoice) -> nn.Module:
    """The module that was chosen, in eval mode; one that was given, out of its wrappers. Errors of ``create_model``."""
    if not isinstance(model.source, str):
        require_tree(model.source)
        return plain(model.source.eval())
    check(model)
    source, name = named(model.source)
    if source == "zoo":
        module = _from_zoo(name, model)
    elif source == "file":
        module = _from_file(name, model)
    else:
        module = _from_library(registry.row("source", source), name, model)
    return _prepared(module.eval(), model.steps)


def _prepared(module: nn.Module, steps: Steps) -> nn.Module:
    """``module`` with the steps that were said, and with what is assumed where nobody said any."""
    spec = spec_of(module)
    if spec is None or spec.image_size is None or spec.channels not in OF_CHANNELS:
        return module
    preprocess, notes = steps.onto(spec.preprocess, spec.image_size, spec.channels)
    return attach_spec(module, replace(spec, preprocess=preprocess, notes=(*spec.notes, *notes)))


def state_sha256(module: nn.Module) -> str:
    """Hex SHA-256 over the sorted state dict: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, torch.Tensor):  # "extra state" of a module, in whatever form it likes
            continue
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


# --- zoo ---------------------------------------------------------------------------------------------------------


def _from_zoo(name: str, asked: ModelChoice) -> nn.Module:
    row = zoo.row(name)
    weights = _weights(asked, row.name)
    meta = weights.meta
    if meta is not None and zoo.ALIASES.get(meta.model, meta.model) != row.name:
        raise UsageError(
            f"these weights are of {meta.model}, not of {row.name}", hint=f"use {meta.model}, or other weights"
        )
    size = asked.image_size or (meta.image_size if meta else (row.image_size, row.image_size))
    classes = _classes(asked, meta.num_classes if meta else row.num_classes)
    if row.num_classes is None and classes is not None:
        raise UsageError(f"{row.name} has no classes", hint="leave --classes out")
    module = build(row, num_classes=classes, image_size=size)
    home = import_module(row.path.partition(":")[0])
    converts = [home.from_timm] if hasattr(home, "from_timm") else []
    resize = getattr(home, "resize_state", None) if asked.image_size is not None else None
    if resize is not None:
        converts.append(lambda state: resize(state, module)[0])
    taken = weights.into(module, *converts)
    origin = taken.origin
    if resize is not None and taken.source and (note := resize(taken.source, module)[1]):
        origin = f"{origin} ({note})"
    spec = ModelSpec(
        row.name, "zoo", size, _zoo_preprocess(row, size, meta), classes,
        origin=origin, task=row.task, notes=taken.notes,
    )  # fmt: skip
    return attach_spec(module, _with_meta(spec, weights, meta))


def build(row: zoo.ZooRow, *, num_classes: int | None, image_size: ImageSize) -> nn.Module:
    """The row's model with random weights from seed 0; torch's own random state is left as it was."""
    module, _, function = row.path.partition(":")
    builder: Callable[..., nn.Module] = getattr(import_module(module), function)
    with _seeded():
        try:
            if num_classes is None:
                return builder(image_size=image_size)
            return builder(num_classes=num_classes, image_size=image_size)
        except ValueError as exc:  # the builders' own words for a size that they cannot take
            raise UsageError(f"{row.name}: {exc}", hint=f"its own image size is {row.image_size}") from exc


def _zoo_preprocess(row: zoo.ZooRow, size: tuple[int, int], meta: CheckpointMeta | None) -> Preprocess:
    if meta is not None and meta.preprocess is not None:
        return meta.preprocess.model_copy(update={"size": size})
    look = row.pixels
    return Preprocess(
        size=size,
        mean=look.mean,
        std=look.std,
        crop=look.crop,
        crop_pct=look.crop_pct,
        interpolation=look.interpolation,
    )


def _with_meta(spec: ModelSpec, weights: Weights, meta: CheckpointMeta | None) -> ModelSpec:
    if meta is None:
        return spec
    task = spec.task or meta.task
    integers = None if meta.integers is None else (str(weights.file), meta.integers)
    return replace(spec, labels=meta.labels, data=meta.data, accuracy=meta.accuracy, task=task, integers=integers)


# --- libraries and files -----------------------------------------------------------------------------------------


def _from_library(row: registry.Row, name: str, asked: ModelChoice) -> nn.Module:
    written = f"{row.name}:{name}"
    weights = _weights(asked, written)
    meta = weights.meta
    make: Maker = row.load()
    classes = _classes(asked, meta.num_classes if meta else None)
    with _seeded():
        model = make(Wanted(name, classes, asked.image_size, asked.pretrained))
    taken = weights.into(model.module, *([model.from_original] if model.from_original else ()))
    origin = f"{row.name} pretrained" if asked.pretrained else taken.origin
    labels = model.labels if origin != RANDOM else None
    spec = ModelSpec(
        written, row.name, model.image_size, model.preprocess, model.num_classes,
        labels=labels, origin=origin, notes=(*model.notes, *taken.notes),
    )  # fmt: skip
    if meta is not None and meta.labels is None:
        meta = meta.model_copy(update={"labels": labels})
    return attach_spec(model.module, _with_meta(spec, weights, meta))


def _from_file(name: str, asked: ModelChoice) -> nn.Module:
    weights = _weights(asked, name)
    meta = weights.meta
    classes = _classes(asked, meta.num_classes if meta else None)
    size = asked.image_size or (meta.image_size if meta else None)
    with _seeded(), Drawn() as drawn:
        made = file_models.file_model(name, num_classes=classes, image_size=size)
        file_models.give_shapes(made.module, size or made.image_size or ASSUMED_SIZE, asked.steps.channels)
        module = unwrapped(made.module)
        own = spec_of(module)  # a factory may itself call create_model, or attach what it knows
        size = size or (own.image_size if own else None) or file_models.declared_size(module, name) or made.image_size
        notes = () if size else (SIZE_NOTE,)
        size = size or ASSUMED_SIZE
    taken = weights.into(module) if weights.checkpoint else _of_factory(module, drawn)
    module = in_float32(module)
    channels, found = file_models.look(module, size, asked.steps.channels)
    preprocess = (meta and meta.preprocess) or (own and own.preprocess) or None
    spec = ModelSpec(
        name,
        "file",
        size,
        preprocess,
        found,
        labels=own.labels if own else None,
        origin=own.origin if own and weights.checkpoint is None else taken.origin,
        channels=channels,
        notes=(*notes, *taken.notes),
    )
    return attach_spec(module, _with_meta(spec, weights, meta))


def _of_factory(module: nn.Module, drawn: Drawn) -> Taken:
    """The weights that a factory made: its own, unless any of them are random."""
    random = drawn.names(module)
    if not random:
        return Taken(BY_FACTORY)
    known = len(module.state_dict()) > 2 * len(random)
    few = f"{', '.join(random[:3])}{', …' if len(random) > 3 else ''}"
    return Taken(RANDOM, (f"the factory drew {few} at random, and loads nothing into them",) if known else ())


# --- weights -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """The asked-for weights before they are in a model; without any, what is loaded is nothing.

    wanted   which set of the file, by the key that it lies under
    file     that they are in
    """

    path: str = RANDOM
    wanted: str | None = None
    checkpoint: Checkpoint | None = None
    file: Path | None = None

    @property
    def meta(self) -> CheckpointMeta | None:
        return self.checkpoint.meta if self.checkpoint else None

    def into(self, module: nn.Module, *converts: Convert) -> Taken:
        """Load them; UsageError when they do not fit."""
        if self.checkpoint is None:
            return Taken(RANDOM)
        return load_weights(module, self.checkpoint.sets, self.path, converts, self.wanted)


def _weights(asked: ModelChoice, model: str) -> Weights:
    if asked.weights is None:
        return Weights()
    given, wanted = file_and_set(asked.weights)
    file = weights_path(given, model)
    return Weights(given, wanted, read_checkpoint(file), file)


def _classes(asked: ModelChoice, known: int | None) -> int | None:
    return known if asked.classes is None else asked.classes


# --- small things ------------------------------------------------------------------------------------------------


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield
