"""Small data of every dense kind, written as others write it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, size: tuple[int, int] = (6, 4), shade: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 2, 3)).save(path)
    return path


def index_png(path: Path, values, mode: str = "L") -> Path:
    """A PNG of class numbers: grey of 8 bits, or a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        made = Image.frombytes("P", made.size, made.tobytes())
        made.putpalette([value % 256 for value in range(768)])
    made.save(path)
    return path


def masks(folder: Path, count: int = 5, classes: str | None = "sky\nsea\n") -> Path:
    for index in range(count):
        picture(folder / "images" / f"{index}.png", shade=index)
        index_png(folder / "masks" / f"{index}.png", [[0, 0, 0, 1, 1, 255]] * 4)
    if classes is not None:
        (folder / "classes.txt").write_text(classes)
    return folder


def idx(path: Path, values) -> Path:
    array = np.asarray(values, np.uint8)
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.tobytes())
    return path


SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]  # x 1 to 4, y 1 to 3


def annotations(**changes) -> dict:
    """One image of 6×4 with two objects, another without any."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 6, "height": 4},
            {"id": 9, "file_name": "b.png", "width": 6, "height": 4},
        ],
        "categories": [{"id": 20, "name": "dog"}, {"id": 3, "name": "ant"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 20, "bbox": [1, 1, 3, 2], "segmentation": [SQUARE], "iscrowd": 0},
            {
                "id": 2,
                "image_id": 7,
                "category_id": 3,
                "bbox": [0, 0, 1, 4],
                "segmentation": {"size": [4, 6], "counts": [0, 4, 20]},
                "iscrowd": 1,
            },
        ],
        **changes,
    }


def coco(folder: Path, name: str = "annotations/instances_val.json", **changes) -> Path:
    picture(folder / "val" / "a.png")
    picture(folder / "val" / "b.png", shade=77)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(annotations(**changes)))
    return folder
