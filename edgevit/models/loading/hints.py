"""What was meant by a model's name that nothing answers to: a library's model, a folder, a file of something else.

Readable without torch: libraries are not imported, the names of their models are read from their source.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from edgevit import registry
from edgevit.errors import UnknownName, UsageError
from edgevit.foreign import TEXT_BYTES, read_bounded
from edgevit.models import zoo

_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_LISTED = 6
_LIBRARIES = ("timm", "torchvision")
# Both mark the functions that make their models with a decorator of this name.
_REGISTERED = re.compile(r"^@register_model\b(?:\(name=\"(\w+)\"\))?.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def unknown(name: str) -> UsageError:
    """The error for a MODEL that is neither the zoo's, nor a library's, nor a file's factory."""
    if Path(name).exists():
        return UsageError(f"{name} is {_thing(Path(name))}, not a model's name", hint=_of_path(name))
    prefix, colon, rest = name.partition(":")
    if colon:
        return _unknown_prefix(name, prefix, rest)
    known = [*zoo.ZOO, *zoo.ALIASES]
    found = _exactly(name) or [*difflib.get_close_matches(name, known, n=1, cutoff=0.8), *_nearly(name)]
    if not found and _HUB_ID.fullmatch(name) and Path(name).suffix not in _WEIGHTS:
        found = [f"timm:hf-hub:{name}" if name.startswith("timm/") else f"hf:{name}"]
    if not found and "/" in name:
        return UnknownName("model", name, known, hint="there is no such path; edgevit models lists the zoo's names")
    return UnknownName("model", name, known, hint=f"did you mean {' or '.join(found)}?" if found else None)


def factories_of(file: Path) -> list[str]:
    """Functions and classes of a Python file that may make a model, in its order; none where it cannot be read."""
    with suppress(SyntaxError, ValueError, UsageError):
        body = ast.parse(read_bounded(file, TEXT_BYTES, "a Python file")).body
        named = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        return [name for name in named if not name.startswith("_")][:_LISTED]
    return []


def _thing(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return "a file of weights" if path.suffix in _WEIGHTS else "a file"


def _of_path(name: str) -> str:
    path = Path(name)
    if (path / "config.json").is_file():
        return f"transformers' models are written hf:{name}"
    if path.suffix in _WEIGHTS:
        return f"name the model that they are of, and add --weights {name}"
    return "write path/to/file.py:factory; edgevit models lists the zoo's names"


def _unknown_prefix(name: str, prefix: str, rest: str) -> UsageError:
    near = difflib.get_close_matches(prefix, registry.rows("source"), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}:{rest}?" if near else "edgevit models lists the names"
    return UsageError(f"{name!r} is neither a model's name nor path/to/file.py:factory", hint=hint)


def _exactly(name: str) -> list[str]:
    """Models of installed libraries that are called so; a tag of weights behind a dot is kept."""
    return [f"{prefix}:{name}" for prefix in _LIBRARIES if name.partition(".")[0] in registered(prefix)]


def _nearly(name: str) -> Iterator[str]:
    for prefix in _LIBRARIES:
        yield from (f"{prefix}:{near}" for near in difflib.get_close_matches(name, registered(prefix), 1, 0.8))


@cache
def registered(package: str) -> frozenset[str]:
    """Names of the models that an installed library makes; none where it is not installed, or written otherwise."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations or () if spec else ()
    texts = (path.read_text("utf-8", "replace") for folder in folders for path in Path(folder).glob("models/**/*.py"))
    return frozenset(name or function for text in texts for name, function in _REGISTERED.findall(text))
