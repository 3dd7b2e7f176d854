"""A model from a Python file of the user's: ``path/to/file.py:factory``, a function, a class, or a ready module."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import io
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edgevit.errors import UnknownName, UsageError
from edgevit.foreign import TEXT_BYTES, read_bounded
from edgevit.models.eager.faults import contained, require_tree
from edgevit.models.eager.heads import ends_in_head
from edgevit.models.loading.choice import file_of
from edgevit.models.loading.visiting import visiting
from edgevit.models.macs import asked_of_copy, dry_run
from edgevit.sizes import Size, as_size

_OURS = {"num_classes": "--classes N", "image_size": "--image-size N"}  # the arguments that a factory may take


@dataclass(frozen=True)
class FileModel:
    """What a factory gave, and the image size that it was called with, or has as its default."""

    module: nn.Module
    image_size: Size | None


def file_model(name: str, *, num_classes: int | None, image_size: Size | None) -> FileModel:
    """What ``factory`` of ``path/to/file.py:factory`` returns, called with the options that it takes.

    Raises UsageError or UnknownName in one sentence for a missing file or factory, one that raises, or a wrong result.
    """
    path, found = _named(name)
    parameters = _parameters(found)
    options = _accepted(parameters, name, num_classes, image_size)
    made = found
    if not isinstance(found, nn.Module):
        _require_nothing_else(parameters, options, name)
        with visiting(path, name):
            made = found(**options)
    if not isinstance(made, nn.Module):
        raise UsageError(f"{name} returned {_kind(made)}, not a torch.nn.Module", hint=_instead(made))
    require_tree(made)
    default = getattr(parameters.get("image_size"), "default", None)
    if image_size is None and default is not None and default is not inspect.Parameter.empty:
        image_size = as_size(default, f"the default image_size of {name}")
    return FileModel(made, image_size)


def declared_size(module: nn.Module, name: str) -> Size | None:
    """The module's own ``image_size`` attribute; UsageError where that is no size, None where there is none."""
    size = getattr(module, "image_size", None)
    return None if size is None else as_size(size, f"image_size of {name}")


def give_shapes(module: nn.Module, size: Size, channels: int | None = None) -> None:
    """Lazy layers take their shapes from one image of so many ``channels`` (None: 3): before weights are loaded into
    them, or they are copied."""
    if any(nn.parameter.is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        with suppress(Exception), torch.no_grad(), contained():  # whoever runs it next says why it cannot
            module.eval()(torch.zeros(1, channels or 3, *(declared_size(module, "the model") or size)))


def look(module: nn.Module, size: Size, asked: int | None = None) -> tuple[int, int | None]:
    """How many channels of an image the module takes, and C when one image gives the (1, C) scores of a head, else
    None.

    Found by running without data, first with as many as were ``asked`` for; 3 where it runs with none.
    """
    first = next((layer.in_channels for layer in module.modules() if isinstance(layer, nn.Conv2d)), 1)
    for channels in dict.fromkeys((asked or 3, 3, first, 1, 4)):
        result = dry_run(module, size, channels)
        if not isinstance(result, Exception):
            scores = isinstance(result, Tensor) and result.ndim == 2 and result.is_floating_point()
            headed = scores and asked_of_copy(ends_in_head, module, size, channels)
            return channels, int(result.shape[1]) if headed else None
    return 3, None


# --- the file ----------------------------------------------------------------------------------------------------


def _named(name: str) -> tuple[Path, Any]:
    """The file, and what it calls by the name behind the colon."""
    path, attribute = file_of(name)
    module = _import_file(path)
    found = getattr(module, attribute, None)
    if found is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName(f"factory in {name.rpartition(':')[0]}", attribute, public)
    if not callable(found):
        raise UsageError(
            f"{name} is {_kind(found)}, not a function that returns a model",
            hint="name a function or a class that makes one, or a torch.nn.Module",
        )
    return path, found


def _import_file(path: Path) -> ModuleType:
    heard = io.StringIO()
    with visiting(path, f"importing {path}", heard):
        tree = ast.parse(read_bounded(path, TEXT_BYTES, "a Python file"), str(path))
        level = max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)
        return _run(f"edgevit_model_{path.stem}", path) if level == 0 else _run_in_its_package(path, level)


def _run(name: str, path: Path, **options: Any) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, **options)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _run_in_its_package(path: Path, level: int) -> ModuleType:
    """``from . import layers`` and ``from ..blocks import X``: the folders above are packages, those with an
    ``__init__.py`` and as many as the file's own dots say. They get a name that no installed package has."""
    while (path.parents[level] / "__init__.py").is_file():
        level += 1
    top = path.parents[level - 1]
    name = f"edgevit_models_{top.name.replace('.', '_')}"
    for old in [module for module in sys.modules if f"{module}.".startswith(f"{name}.")]:
        del sys.modules[old]
    if (top / "__init__.py").is_file():
        _run(name, top / "__init__.py", submodule_search_locations=[str(top)])
    else:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(top)]
    return importlib.import_module(".".join((name, *path.relative_to(top).with_suffix("").parts)))


# --- the factory -------------------------------------------------------------------------------------------------


def _parameters(found: Any) -> Mapping[str, inspect.Parameter]:
    if isinstance(found, nn.Module):
        return {}
    with suppress(TypeError, ValueError):  # a callable without a signature takes nothing
        return inspect.signature(found).parameters
    return {}


def _accepted(
    parameters: Mapping[str, inspect.Parameter], name: str, num_classes: int | None, image_size: Size | None
) -> dict[str, Any]:
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    options: dict[str, Any] = {}
    if num_classes is not None:
        if "num_classes" not in parameters and not anything:
            raise UsageError(f"{name} takes no num_classes", hint="drop --classes, or give the factory that argument")
        options["num_classes"] = num_classes
    if image_size is not None and ("image_size" in parameters or anything):
        options["image_size"] = image_size[0] if image_size[0] == image_size[1] else tuple(image_size)
    return options


def _require_nothing_else(parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any], name: str) -> None:
    """UsageError for an argument that has no default and that nobody gave."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    lacking = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in variable
        and parameter.name not in given
    ]
    if lacking:
        known = [_OURS[one] for one in lacking if one in _OURS]
        hint = (
            f"add {' and '.join(known)}" if len(known) == len(lacking) else "give it defaults, or a function around it"
        )
        raise UsageError(f"{name} needs {' and '.join(lacking)}", hint=hint)


def _kind(value: object) -> str:
    word = type(value).__name__
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def _instead(made: object) -> str | None:
    """What may have been meant."""
    inner = made if isinstance(made, tuple | list) else made.values() if isinstance(made, Mapping) else ()
    if any(isinstance(one, nn.Module) for one in inner):
        return "return the model alone"
    if isinstance(made, type) and issubclass(made, nn.Module):
        return f"return an instance: {made.__name__}()"
    if inspect.isawaitable(made):
        return "the factory must not be async"
    if isinstance(made, Mapping) and any(isinstance(one, Tensor) for one in inner):
        return "return the model, and give its state dict with --weights"
    return None
