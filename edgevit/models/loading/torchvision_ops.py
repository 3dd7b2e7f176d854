"""Makes torchvision, which timm imports, importable beside a CPU-only torch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

_KEPT: list[torch.library.Library] = []  # a Library's definitions vanish with the object


def declare_torchvision_ops() -> None:
    """To be called before torchvision is first imported; does nothing where that works anyway.

    Its registry wheel is a CUDA build whose native library does not load there, and its import then fails because the
    operators it describes do not exist. timm needs none of them, only the import: so they are declared, without a body.
    """
    if "torchvision" in sys.modules or torch.version.cuda is not None:
        return
    if importlib.util.find_spec("torchvision") is None or _native_library_loads():
        return
    # asked last: a finder that was asked for torchvision may have declared it
    if hasattr(torch.ops.torchvision, "nms"):
        return
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)


def _native_library_loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    library = next(folder.glob("_C.*"), None) if folder else None
    if library is None:
        return False
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")
