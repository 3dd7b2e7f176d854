"""What a request asks of each of its targets, settled before any work: exporter, precision, options and folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.artifact.staging import check_vacant
from edgevit.errors import EdgeVitError, UnknownName, Unsupported
from edgevit.export.base import Exporter, Options, load_exporter, parse_options
from edgevit.precisions import INTEGER_PRECISIONS, precision_row
from edgevit.registry import Format
from edgevit.request import ExportRequest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Target:
    """One exporter with everything it was asked for, checked."""

    exporter: Exporter[Any, Any]
    precision: str
    options: Options

    @property
    def name(self) -> str:
        return self.exporter.name

    def chosen(self) -> dict[str, Any]:
        """The options that are not at their defaults."""
        return self.options.model_dump(mode="json", exclude_defaults=True)


@dataclass(frozen=True)
class Build:
    """One build to do: a target, and the free folder that its artifact goes to."""

    target: Target
    out: Path


def builds(request: ExportRequest) -> dict[str, Build | EdgeVitError]:
    """What is to be done for every target, by name, or the error that excludes it."""
    found: dict[str, Build | EdgeVitError] = {}
    for name in request.targets:
        try:
            target = choose(name, request.precision, request.options.get(name, {}), request.model.format)
            require_sizes(target, request)
            out = folder_of(request, target)
            check_vacant(out, force=request.force)
        except EdgeVitError as error:
            found[name] = error
        else:
            found[name] = Build(target, out)
    return found


def require_sizes(target: Target, request: ExportRequest) -> None:
    """Unsupported for a range of image sizes that a target's artifacts cannot have."""
    sizes, why = request.model.image_sizes, getattr(target.exporter, "one_size", "its exporter knows no other")
    if sizes is not None and why:
        raise Unsupported(
            f"{target.name} artifacts take images of one size, not of {sizes}: {why}",
            hint=f"export one size, such as --image-size {sizes.highest}, or -t onnx",
        )


def choose(
    name: str,
    precision: str | None = None,
    options: Mapping[str, Any] | None = None,
    format: Format = "torch",
) -> Target:
    """The exporter, its precision (default: its first) and its options, all checked before any work is done.

    Raises MissingDependency, UnknownName, UsageError, and Unsupported for a format of models that it does not take.
    """
    exporter = load_exporter(name, format)
    chosen = precision or exporter.precisions[0]
    _require_integers(name, chosen, exporter, format)
    if chosen not in exporter.precisions:
        raise UnknownName(f"precision of {name}", chosen, exporter.precisions)
    precision_row(chosen)  # a plug-in's too: without a row nothing says how exact its artifacts must be
    parsed = parse_options(exporter, options or {})
    parsed.require(chosen)
    return Target(exporter, chosen, parsed)


def _require_integers(name: str, chosen: str, exporter: Exporter[Any, Any], format: Format) -> None:
    """Unsupported for a precision of integers that a target, or a model of this format, cannot have."""
    if chosen not in INTEGER_PRECISIONS:
        return
    if chosen not in exporter.precisions:
        raise Unsupported(
            f"{name} artifacts cannot be {chosen} yet: their exporter writes {', '.join(exporter.precisions)}",
            hint=f"build -t onnx --precision {chosen}, or {name} in {exporter.precisions[0]}",
        )
    if format == "onnx":
        raise Unsupported(
            f"{chosen} is found on a model that torch runs, and this one is an ONNX file",
            hint="give the model as PyTorch (edgevit export --help says how), or --precision fp32",
        )


def folder_of(request: ExportRequest, target: Target) -> Path:
    """``out`` itself for one target, in it for several."""
    default = default_out(request.model.source, target.name, target.precision)
    if request.out is None:
        return default
    return request.out / default.name if request.parent or len(request.targets) > 1 else request.out


def default_out(model: str | nn.Module, target: str, precision: str) -> Path:
    """``artifacts/MODEL-TARGET-PRECISION``; a model's name is made safe for a folder."""
    stem = Path(name_of(model).rpartition("/")[2].replace(".py:", "-")).name.removesuffix(".onnx")
    safe = "".join(char if char.isalnum() or char in "._-" else "-" for char in stem)
    return Path("artifacts") / f"{safe}-{target}-{precision}"


def name_of(model: str | nn.Module) -> str:
    """A name as given; of a module, what it says that it is, or its class."""
    if isinstance(model, str):
        return model
    from edgevit.models.spec import spec_of

    spec = spec_of(model)
    return spec.name if spec else type(model).__name__
