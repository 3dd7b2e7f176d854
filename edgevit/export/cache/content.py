"""All that decides a figure, as one hash: every value that a module holds, and the code that would run.

A module is described in full: its class, its weights and buffers bit by bit, its plain attributes, its hooks. What
cannot be described has no hash, and is found out anew: objects that keep something outside Python, classes and
functions of the user's own (they import other files, and may do anything), whatever is of no package whose version is
known. So a model that is not covered costs time, never a wrong answer.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import platform
import struct
import sys
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from edgevit import cpu
from edgevit.models.eager.copying import deep

# Released packages whose code a version and the size and time of the files seen stand for; edgevit's own is hashed.
_PACKAGES = frozenset({"edgevit", "torch", "torchvision", "timm", "transformers", "numpy", "pydantic"})
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), slice, range)
_NAMED = (torch.dtype, torch.layout, torch.memory_format, torch.device)
# Environment that kernels and models listen to.
_SETTINGS = ("ATEN_", "DNNL_", "KMP_", "MKL_", "OMP_", "ONEDNN_", "TIMM_", "TORCH_")
_POINTER = struct.calcsize("P")
_IMPORTED = time.time()


class _Plain:
    """What an object holds that keeps all in its ``__dict__``: more would be out of Python's sight."""


class Undescribed(Exception):
    """Something that has no hash: not all that decides what it does can be seen."""


def digest_of(*things: Any) -> str:
    """Hex SHA-256 of all that the things are. Undescribed."""
    found = _Description()
    try:
        with deep():
            found.add(things)
    except (RuntimeError, TypeError, AttributeError, ValueError, OSError) as exc:  # of tensors and objects of odd kinds
        raise Undescribed(str(exc)) from exc
    return found.hash.hexdigest()


@functools.cache
def own_code() -> str:
    """Hex SHA-256 of every file of code and tables of this package. Undescribed where they changed since it was
    imported: what runs is then not what they say."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    files = sorted((*root.rglob("*.py"), *root.rglob("*.json")))
    if Path(__file__) not in files:
        raise Undescribed("the package is not in a folder")
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)}|{len(content)}|".encode() + content)
        if path.stat().st_mtime > _IMPORTED:
            raise Undescribed(f"{path} was changed while this program ran")
    return digest.hexdigest()


def surroundings() -> str:
    """What decides the last bits beside model and rows: versions, the processor, threads, and torch's settings."""
    settings = sorted(item for item in os.environ.items() if item[0].startswith(_SETTINGS))
    return digest_of(
        own_code(),
        (platform.python_version(), np.__version__, str(torch.__version__), torch.version.git_version),
        (cpu.arch(), sorted(cpu.flags()), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()),
        (torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.is_grad_enabled()),
        (torch.are_deterministic_algorithms_enabled(), torch.backends.mkldnn.enabled, settings),
    )


class _Description:
    """A hash of things, each with its kind and length, so that no two different ones read alike."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: dict[int, tuple[int, Any]] = {}  # with the thing itself, so that its id stays its own
        self.classes: set[type] = set()

    def put(self, kind: str, content: Any = b"") -> None:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        self.hash.update(f"{kind}|{len(data)}|".encode())
        self.hash.update(data)

    def add(self, thing: Any) -> None:
        if isinstance(thing, enum.Enum):
            self.put(f"enum {self.name(type(thing))}", thing.name)
        elif type(thing) in _PLAIN or isinstance(thing, PurePath | np.generic):
            self.put(type(thing).__name__, repr(thing))
        elif isinstance(thing, _NAMED):
            self.put("torch", str(thing))
        elif id(thing) in self.seen:  # the same object again, and what leads back to itself
            self.put("seen", str(self.seen[id(thing)][0]))
        else:
            self.seen[id(thing)] = (len(self.seen), thing)
            self.whole(thing)

    def whole(self, thing: Any) -> None:
        if isinstance(thing, Tensor):
            self.tensor(thing)
        elif isinstance(thing, np.ndarray):
            self.array(thing)
        elif isinstance(thing, Mapping):
            self.items(type(thing), thing)
        elif type(thing) in (list, tuple, set, frozenset, torch.Size):
            self.sequence(type(thing).__name__, thing if isinstance(thing, list | tuple) else _sorted(thing))
        elif isinstance(thing, tuple) and hasattr(thing, "_fields") and not hasattr(thing, "__dict__"):
            self.sequence(self.name(type(thing)), thing)
        elif isinstance(thing, type | FunctionType | BuiltinFunctionType | MethodType | functools.partial | ModuleType):
            self.code(thing)
        elif isinstance(thing, BaseModel):
            self.put(self.name(type(thing)), thing.model_dump_json())
        else:
            self.object(thing)

    def sequence(self, kind: str, things: Iterable[Any]) -> None:
        things = list(things)
        self.put(kind, str(len(things)))
        for thing in things:
            self.add(thing)

    def items(self, kind: type, found: Mapping[Any, Any]) -> None:
        if kind not in (dict, OrderedDict, defaultdict):
            raise Undescribed(f"a mapping of its own kind, {kind}")
        self.sequence(kind.__name__, [part for item in found.items() for part in item])

    def tensor(self, value: Tensor) -> None:
        if type(value) not in (Tensor, nn.Parameter) or value.layout is not torch.strided or value.is_quantized:
            raise Undescribed("a tensor of another kind")
        flat = value.detach().cpu().contiguous().reshape(-1)
        self.put("tensor", f"{value.dtype} {tuple(value.shape)} {value.stride()} {value.requires_grad} {value.device}")
        self.put("data", flat.view(torch.uint8).numpy().data if flat.numel() else b"")

    def array(self, value: np.ndarray[Any, Any]) -> None:
        if value.dtype.hasobject:
            raise Undescribed("an array of objects")
        self.put("array", f"{value.dtype} {value.shape}")
        self.put("data", value.tobytes())

    def object(self, thing: Any) -> None:
        kind, held = type(thing), vars(thing) if hasattr(thing, "__dict__") else {}
        slots = [name for base in kind.__mro__ for name in _slots(base)]
        bare = _Plain if hasattr(thing, "__dict__") else object
        if kind.__basicsize__ > bare.__basicsize__ + _POINTER * len(slots):
            raise Undescribed(f"{kind} keeps something that cannot be seen")
        self.put(self.name(kind))
        # Most of what a module holds are its empty tables of hooks.
        full = {name: value for name, value in held.items() if not (isinstance(value, dict) and not value)}
        self.items(dict, full | {name: getattr(thing, name) for name in slots if hasattr(thing, name)})

    def name(self, kind: type) -> str:
        """Of a class whose code is known, and whose methods are those that it was written with."""
        for base in kind.__mro__ if kind not in self.classes else ():
            self.covered(base.__module__)
            if "<locals>" in base.__qualname__:
                raise Undescribed(f"{base} was made inside a function")
            for method in vars(base).values():
                if isinstance(method, FunctionType):
                    self.covered(method.__module__)
        self.classes.add(kind)
        return f"{kind.__module__}:{kind.__qualname__}"

    def code(self, thing: Any) -> None:
        if isinstance(thing, functools.partial):
            self.sequence("partial", (thing.func, thing.args, thing.keywords))
        elif isinstance(thing, MethodType):
            self.sequence("method", (thing.__func__, thing.__self__))
        elif isinstance(thing, FunctionType):
            self.covered(thing.__module__)
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
            where = (thing.__module__, thing.__qualname__, thing.__code__.co_firstlineno)
            self.sequence("function", (*where, cells, thing.__defaults__, thing.__kwdefaults__))
        elif isinstance(thing, type):
            self.put("class", self.name(thing))
        elif isinstance(thing, ModuleType):
            self.covered(thing.__name__)
            self.put("module", thing.__name__)
        else:
            self.covered(thing.__module__ or "builtins")
            if not isinstance(thing.__self__, ModuleType | None):
                raise Undescribed(f"{thing} is bound to something that cannot be seen")
            self.put("builtin", f"{thing.__module__}:{thing.__qualname__}")

    def covered(self, module: str) -> None:
        """Undescribed unless a version says what the code of the module is; foreign code is told by its file too."""
        package = module.partition(".")[0]
        if package in sys.stdlib_module_names:
            return
        if package not in _PACKAGES:
            raise Undescribed(f"{module} is of no package whose code is known")
        if package != "edgevit":
            self.put("code", _stamp(module))


@functools.cache
def _stamp(module: str) -> str:
    """Version of a module's package, size and time of its file."""
    found, package = sys.modules.get(module), sys.modules.get(module.partition(".")[0])
    file = getattr(found, "__file__", None)
    known = os.stat(file) if file and os.path.exists(file) else None
    return f"{module} {getattr(package, '__version__', '')} {(known.st_size, known.st_mtime_ns) if known else ''}"


def _slots(kind: type) -> tuple[str, ...]:
    given = vars(kind).get("__slots__", ())
    return (given,) if isinstance(given, str) else tuple(given)


def _sorted(things: Iterable[Any]) -> list[str]:
    if not all(type(thing) in _PLAIN for thing in things):
        raise Undescribed("a set of objects, which has no order")
    return sorted(map(repr, things))
