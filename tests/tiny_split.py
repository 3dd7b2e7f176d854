"""A tiny trunk on real digits, trained for a moment: 4 classes, 2 blocks of 3 heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgevit.data.source import open_data

FACTORY = """
from edgevit.models.families.vit import VisionTransformer, ViTConfig, uniform_blocks

def build(num_classes=4, image_size=8):
    model = VisionTransformer(ViTConfig((8, 8), 4, 24, uniform_blocks(2, HEADS, 8, 48), num_classes))
    model.image_size = (8, 8)
    return model
"""


def write_model(folder: Path, *, heads: int = 3) -> str:
    """``file.py:factory`` of the trunk."""
    (folder / "tiny_vit.py").write_text(FACTORY.replace("HEADS", str(heads)))
    return f"{folder / 'tiny_vit.py'}:build"


def write_digits(folder: Path, *, classes: int = 4, images: int = 240, without: int | None = None) -> str:
    """``npz:PATH`` of the first digits of some classes; ``without`` leaves the images of one out."""
    digits = open_data("digits")
    if digits.labels is None:
        raise ValueError("digits have labels")
    rows = np.flatnonzero(digits.labels < classes)[:images]
    rows = rows[digits.labels[rows] != without]
    path = folder / f"digits-{classes}-{images}-{without}.npz"
    pixels = np.stack([digits.images[int(row)] for row in rows])
    np.savez(path, images=pixels, labels=digits.labels[rows], classes=np.array([str(i) for i in range(classes)]))
    return f"npz:{path}"
