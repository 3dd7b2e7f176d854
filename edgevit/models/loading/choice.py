"""A model as it was asked for, before torch is imported: whose its name is, and whether its files are there."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from edgevit import registry
from edgevit.errors import Unsupported, UsageError
from edgevit.models import zoo
from edgevit.models.loading.hints import factories_of, unknown
from edgevit.request import ModelChoice

_HEADED = ("zoo", "torchvision", "hf")  # whose models come with the head that they have


class Named(NamedTuple):
    """``source`` is "zoo", "file", or the prefix of a row of ``registry.SOURCES``, whose own name follows."""

    source: str
    name: str


def named(model: str) -> Named:
    """Whose model it is, by how the name is written. Nothing is looked up but the prefix."""
    prefix, colon, rest = model.partition(":")
    if colon and prefix in registry.rows("source"):
        return Named(prefix, rest)
    return Named("file" if colon or model.endswith(".py") else "zoo", model)


def check(model: ModelChoice) -> None:
    """What can be said of a choice before it is loaded: its name is known, its files are there.

    Raises UnknownName, UsageError, MissingDependency, and Unsupported for an ONNX file, which torch does not load.
    """
    if not isinstance(model.source, str):
        return
    if model.format == "onnx":
        raise Unsupported(
            f"{model.source} is an ONNX file, a graph without PyTorch's modules",
            hint="edgevit export and edgevit benchmark take it as it is; for anything else give the model as PyTorch",
        )
    source, name = named(model.source)
    if source in ("zoo", "file"):
        if model.pretrained:
            raise UsageError(
                f"{model.source} has no published weights to download",
                hint=f"--pretrained is for {', '.join(prefixes())}; use --weights",
            )
        name = zoo_row(name).name if source == "zoo" else str(file_of(name)[0])
    else:
        row = registry.row("source", source)
        registry.need(f"{source}:{name or 'NAME'}", row.packages, row.install)
        if not name:
            raise UsageError(f"{model.source} names no model", hint=f"write {source}:NAME")
    if model.classes == 0 and source in _HEADED:
        raise Unsupported(
            f"{model.source} is not made without its head",
            hint="--classes 0 is for timm:NAME, and for a file's factory that takes num_classes",
        )
    if model.weights is not None:
        existing(weights_path(file_and_set(model.weights)[0], name))


def prefixes() -> list[str]:
    """How models of libraries are written: "timm:NAME", …"""
    return [f"{prefix}:NAME" for prefix in registry.rows("source")]


def zoo_row(name: str) -> zoo.ZooRow:
    """The zoo's model called ``name``; UnknownName that says what was meant otherwise."""
    if zoo.ALIASES.get(name, name) not in zoo.ZOO:
        raise unknown(name)
    return zoo.row(name)


def file_of(name: str) -> tuple[Path, str]:
    """The file of ``path/to/file.py:factory``, which is there, and the name behind the colon; UsageError otherwise."""
    file, _, attribute = name.rpartition(":")
    bare = name.rstrip(":")
    if bare.endswith(".py"):
        if not os.path.isfile(bare):
            raise UsageError(f"no file {bare}", hint="check the path")
        found = factories_of(Path(bare))
        hint = f"name one: {bare}:{f' or {bare}:'.join(found)}" if found else f"name the factory: {bare}:FUNCTION"
        raise UsageError(f"{bare} does not say which of its models is meant", hint=hint)
    if not file.endswith(".py") or not attribute:
        raise unknown(name)
    if not os.path.isfile(file):
        raise UsageError(f"no file {file}", hint="check the path")
    return Path(file).resolve(), attribute


# --- weights -----------------------------------------------------------------------------------------------------


def file_and_set(weights: str) -> tuple[str, str | None]:
    """FILE and KEY of "FILE#KEY"."""
    file, mark, key = weights.rpartition("#")
    return (file, key) if mark and not Path(weights).exists() else (weights, None)


def weights_path(weights: str, model: str) -> Path:
    """A file as given, or a bare name such as "digits" that stands for weights shipped with the package."""
    if Path(weights).suffix or "/" in weights or Path(weights).exists():
        return Path(weights)
    if weights in zoo.shipped_weights(model):
        return Path(str(resources.files("edgevit.models") / "weights" / f"{model}-{weights}.safetensors"))
    having = [name for name in zoo.ZOO if weights in zoo.shipped_weights(name)]
    if having:
        raise UsageError(
            f"the package ships no {weights!r} weights for {model}",
            hint=f"they exist for {', '.join(having)}; or make your own with edgevit train",
        )
    raise UsageError(
        f"no weights at {weights}", hint="give a file of safetensors or torch, or train with edgevit train"
    )


def existing(path: Path) -> Path:
    """The path of weights that are there; UsageError otherwise."""
    if not path.exists():
        raise UsageError(f"no weights at {path}", hint="check the path")
    return path
