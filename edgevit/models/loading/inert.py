"""What trainers put beside their weights (a Namespace, a numpy scalar, a path), read without running anything of it.

``torch.load(weights_only=True)`` refuses every class that it does not know. For the names below it gets a stand-in of
ours instead of the class: it takes what the file says and does nothing with it. No other name is let in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Inert:
    """Stands for an object whose content is not needed."""

    def __new__(cls, *args: object) -> Inert:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forgotten."""


class DType:
    """Stands for a numpy.dtype: its name, and its byte order once that is told."""

    def __init__(self, name: object = "", *args: object) -> None:
        self.name = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = "=" if len(state) < 2 or state[1] not in ("<", ">") else state[1]

    def real(self) -> np.dtype[Any] | None:
        """The plain type of numbers that it names, or None for anything else (objects, records, text)."""
        plain = len(self.name) > 1 and self.name[0] in "biufc" and self.name[1:].isdigit()
        try:
            return np.dtype(f"{self.order}{self.name}") if plain else None
        except TypeError:
            return None


class NumpyArray:
    """Stands for a numpy.ndarray. ``tensor`` gives its numbers, where they are numbers."""

    def __init__(self, *args: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """A copy of the array, or None unless shape, type and bytes agree."""
        if len(self.state) != 5:
            return None
        _, shape, dtype, fortran, data = self.state
        real = dtype.real() if isinstance(dtype, DType) else None
        if real is None or not isinstance(data, bytes) or not _is_shape(shape):
            return None
        if math.prod(shape) * real.itemsize != len(data):
            return None
        try:
            array = np.ndarray(shape, real, data, order="F" if fortran else "C")
        except ValueError:  # nothing, by some absurd number of rows
            return None
        return torch.from_numpy(array.astype(real.newbyteorder("="), order="C"))


def _is_shape(value: object) -> bool:
    return isinstance(value, tuple) and all(type(side) is int and side >= 0 for side in value)


class Dict:
    """Stands for a dict of another class: its items are kept, in a plain dict."""

    def __new__(cls, *args: object) -> dict[Any, Any]:  # type: ignore[misc]  # the items are then set on what it gives
        return {}


class Sequence:
    """Stands for a list of another class: its items are kept, in a plain list."""

    def __new__(cls, *args: object) -> list[Any]:  # type: ignore[misc]
        return []


class NoBytes:
    """Stands for ``bytes``, which a pickle calls for none at all."""

    def __new__(cls, *args: object) -> bytes:  # type: ignore[misc]
        return b""


_NUMPY = ("numpy", "numpy._core", "numpy.core")  # numpy 2 renamed core to _core; files of both are about
_STAND_INS: dict[type, tuple[str, ...]] = {
    DType: ("numpy.dtype",),
    NumpyArray: tuple(f"{home}.multiarray._reconstruct" for home in _NUMPY),
    Dict: (
        "collections.defaultdict",
        "easydict.EasyDict",
        "addict.addict.Dict",
        "yacs.config.CfgNode",
        *(
            f"{home}.AttributeDict"
            for home in (
                "lightning_fabric.utilities.data",
                "lightning.fabric.utilities.data",
                "pytorch_lightning.utilities.parsing",
                "lightning.pytorch.utilities.parsing",
            )
        ),
    ),
    NoBytes: ("builtins.bytes",),
    Sequence: ("collections.deque",),
    Inert: (
        "numpy.ndarray",
        *(f"{home}.multiarray.scalar" for home in _NUMPY),
        *(f"builtins.{name}" for name in ("int", "float", "str", "bool", "list", "dict", "tuple", "frozenset")),
        *(f"builtins.{name}" for name in ("range", "slice", "object")),
        *(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
        *(f"pathlib._local.{kind}" for kind in ("Path", "PosixPath", "WindowsPath")),
        *(f"datetime.{kind}" for kind in ("datetime", "date", "time", "timedelta", "timezone")),
        "argparse.Namespace",
        "types.SimpleNamespace",
        "decimal.Decimal",
        "fractions.Fraction",
        "uuid.UUID",
        "torch.torch_version.TorchVersion",
        "typing.Any",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.base.Metadata",
        *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "String", "Boolean", "Path", "Bytes")),
    ),
}


def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """For ``torch.serialization.safe_globals``: what is used instead of each name."""
    return [(kind, name) for kind, names in _STAND_INS.items() for name in names]
