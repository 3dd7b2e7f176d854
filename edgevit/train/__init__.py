"""Training of small models on real labelled images. Names load when first used: importing this loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevit.train.loop import TrainResult as TrainResult
    from edgevit.train.loop import fit as fit
    from edgevit.train.options import TrainOptions as TrainOptions

_HOMES = {
    "TrainOptions": "edgevit.train.options",
    "TrainResult": "edgevit.train.loop",
    "fit": "edgevit.train.loop",
}

__all__ = ["TrainOptions", "TrainResult", "fit"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgevit.train' has no attribute {name!r}")
