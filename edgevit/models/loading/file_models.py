"""A model from a factory in a Python file of the user's: ``path/to/file.py:factory``."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from edgevit.errors import UnknownName, UsageError, first_line
from edgevit.models.macs import dry_run

Size = tuple[int, int]


def file_model(name: str, *, num_classes: int | None, image_size: Size | None) -> nn.Module:
    """What ``factory`` of ``path/to/file.py:factory`` returns, called with the options that it takes.

    Raises UsageError or UnknownName in one sentence for a missing file or factory, one that raises, or a wrong result.
    """
    path, factory = _load_factory(name)
    if isinstance(factory, nn.Module):
        return factory  # the model itself, where a function that returns it was expected
    options = _accepted(factory, name, num_classes, image_size)
    try:
        with _importable(path.parent):
            module = factory(**options)
    except Exception as exc:
        raise UsageError(
            f"{name} raised {type(exc).__name__}: {first_line(exc)}", hint="EDGEVIT_DEBUG=1 shows where"
        ) from exc
    if not isinstance(module, nn.Module):
        raise UsageError(f"{name} returned a {type(module).__name__}, not a torch.nn.Module")
    return module


def _load_factory(name: str) -> tuple[Path, Callable[..., Any]]:
    file, _, attribute = name.rpartition(":")
    if name.endswith(".py") or not file.endswith(".py") or not attribute:
        raise UsageError(
            f"{name!r} is neither a model's name nor path/to/file.py:factory",
            hint=f"name the factory: {name}:FUNCTION" if name.endswith(".py") else "edgevit models lists the names",
        )
    path = Path(file).resolve()
    if not path.is_file():
        raise UsageError(f"no file {file}", hint="check the path")
    module = _import_file(path)
    public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    factory = getattr(module, attribute, None)
    if factory is None:
        raise UnknownName(f"factory in {file}", attribute, public)
    if not callable(factory):
        raise UsageError(f"{name} is a {type(factory).__name__}, not a function that returns a model")
    return path, factory


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"edgevit_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look a class's module up by name
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except Exception as exc:
        del sys.modules[spec.name]
        raise UsageError(f"importing {path} raised {type(exc).__name__}: {first_line(exc)}") from exc
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """``import sibling`` works while the file runs, as it does for ``python file.py``."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _accepted(
    factory: Callable[..., Any], name: str, num_classes: int | None, image_size: Size | None
) -> dict[str, Any]:
    parameters: Mapping[str, inspect.Parameter] = {}
    with suppress(TypeError, ValueError):  # a callable without a signature takes nothing
        parameters = inspect.signature(factory).parameters
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    options: dict[str, Any] = {}
    if num_classes is not None:
        if "num_classes" not in parameters and not anything:
            raise UsageError(f"{name} takes no num_classes", hint="drop --classes, or give the factory that argument")
        options["num_classes"] = num_classes
    if image_size is not None and ("image_size" in parameters or anything):
        options["image_size"] = image_size[0] if image_size[0] == image_size[1] else image_size
    return options


def declared_size(module: nn.Module) -> Size | None:
    """The module's own ``image_size`` attribute, if it is an int or a pair of them."""
    size = getattr(module, "image_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, tuple | list) and len(size) == 2 else None


def classes_of(module: nn.Module, size: Size) -> int | None:
    """C when one image gives a single float tensor (1, C), found by running without data; None when unclear."""
    result = dry_run(module, size)
    scores = isinstance(result, Tensor) and result.ndim == 2 and result.is_floating_point()
    return int(result.shape[1]) if scores else None
