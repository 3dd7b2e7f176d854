"""The zoo: inert rows, one per model, readable without torch. A new model is one row here and one builder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from edgevit.errors import UnknownName

COUNTS_FILE = "zoo.json"
COUNTED = ("params", "macs", "params_train", "macs_train")
Triple = tuple[float, float, float]

FMVIT = "FMViT (arXiv 2311.05707), reconstruction: the authors released no code"
EFFICIENTFORMER = "EfficientFormer (arXiv 2206.01191)"
EFFICIENTFORMER_V2 = "EfficientFormerV2 (arXiv 2212.08059)"
VIT = "ViT (arXiv 2010.11929), DeiT (arXiv 2012.12877)"


@dataclass(frozen=True, slots=True)
class Pixels:
    """How an image of any size becomes the model's input, as in ``edgevit.images.Preprocess``."""

    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    crop: Literal["center", "squash", "pad"] = "center"
    crop_pct: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"


SETR = "SETR (arXiv 2012.15840): a plain ViT and deconvolutions"
SESR = "SESR (arXiv 2103.09404), reconstruction, in colour"
IMAGENET = Pixels()
IMAGENET_95 = Pixels(crop_pct=0.95)  # what EfficientFormer's published accuracies use
SMALL = Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop="squash", crop_pct=1.0, interpolation="bilinear")

# What is made larger is not made smaller first: other pictures than the model's own size are asked about in tiles.
AS_THEY_ARE = Pixels(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop="pad", crop_pct=1.0)


@dataclass(frozen=True, slots=True)
class ZooRow:
    """One model. ``path`` is the builder, ``module:function``; sizes are the builder's defaults.

    task    what the outputs mean
    small   the contract suite takes it through every target: one of each family, which builds in seconds
    """

    name: str
    path: str
    summary: str
    source: str
    image_size: int = 224
    num_classes: int | None = 1000
    pixels: Pixels = IMAGENET
    task: str = "classify"
    small: bool = False


def _family(module: str, names: Mapping[str, str], source: str, pixels: Pixels) -> list[ZooRow]:
    return [ZooRow(name, f"{module}:{name}", text, source, pixels=pixels) for name, text in names.items()]


def _tiny(module: str, name: str, summary: str, source: str, image_size: int, small: bool = True) -> ZooRow:
    path = f"{module}:{name}"
    return ZooRow(name, path, summary, source, image_size=image_size, num_classes=10, pixels=SMALL, small=small)


def _dense(path: str, summary: str, source: str, image_size: int, task: str, small: bool = True) -> ZooRow:
    """A row of another task than classify; ``path`` below the families."""
    segments = task == "segment"
    return ZooRow(
        path.partition(":")[2],
        f"edgevit.models.families.{path}",
        summary,
        source,
        image_size=image_size,
        num_classes=11 if segments else None,
        pixels=SMALL if segments else AS_THEY_ARE,
        task=task,
        small=small,
    )


_FMVIT, _EFFICIENTFORMER, _VIT = (f"edgevit.models.families.{name}" for name in ("fmvit", "efficientformer", "vit"))
_EFFICIENTFORMER_V2 = "edgevit.models.families.efficientformer_v2"

_ROWS = [
    *_family(_FMVIT, {f"fmvit_{s}": f"FMViT-{s.upper()}" for s in "tsmbl"}, FMVIT, IMAGENET),
    _tiny(_FMVIT, "fmvit_nano", "a tiny FMViT for tests and demos", FMVIT, 32),
    *_family(
        _EFFICIENTFORMER,
        {f"efficientformer_l{n}": f"EfficientFormer-L{n}" for n in "137"},
        EFFICIENTFORMER,
        IMAGENET_95,
    ),
    _tiny(_EFFICIENTFORMER, "efficientformer_nano", "a tiny EfficientFormer for tests and demos", EFFICIENTFORMER, 32),
    *_family(
        _EFFICIENTFORMER_V2,
        {f"efficientformerv2_{s}": f"EfficientFormerV2-{s.upper()}" for s in ("s0", "s1", "s2", "l")},
        EFFICIENTFORMER_V2,
        IMAGENET_95,
    ),
    _dense("segmenter:segmenter_nano", "a tiny ViT that labels every pixel, patch 8", SETR, 64, "segment"),
    *(
        _dense(f"sesr:sesr_nano_x{n}", f"a tiny super-resolver, ×{n}", SESR, 48, "restore", small=n == 2)
        for n in (2, 3, 4)
    ),
    *_family(
        _VIT, {f"vit_{s}": f"ViT/DeiT-{s.title()}, patch 16" for s in ("tiny", "small", "base", "large")}, VIT, IMAGENET
    ),
    _tiny(_VIT, "vit_nano", "a tiny ViT for tests and demos, patch 4", VIT, 32),
    _tiny(
        _VIT, "vit_edvit", "the trunk that ED-ViT splits on digits: 12 layers, 12 heads of 16, patch 4", VIT, 16, False
    ),
]

ZOO: Mapping[str, ZooRow] = {row.name: row for row in _ROWS}

# DeiT is ViT's architecture with another training recipe, and its state dicts load into these.
ALIASES: Mapping[str, str] = {f"deit_{size}": f"vit_{size}" for size in ("tiny", "small", "base")}


def names() -> list[str]:
    """Every zoo name, in the order of the table."""
    return list(ZOO)


def row(name: str) -> ZooRow:
    """The row called ``name`` (or an alias of it); UnknownName with the nearest names otherwise."""
    name = ALIASES.get(name, name)
    if name not in ZOO:
        raise UnknownName("model", name, [*ZOO, *ALIASES])
    return ZOO[name]


def list_models(details: bool = False) -> list[Any]:
    """Zoo names; with ``details`` a dict per model, with the fields of ``edgevit models --json``.

    ``params`` and ``macs`` are those of the deploy form at the default image size. They are not counted anew: ``make
    zoo`` writes them to zoo.json, and what it has not counted yet is None.
    """
    if not details:
        return names()
    counted, unknown = stored_counts(), dict.fromkeys(COUNTED)
    return [
        {
            "name": row.name,
            **counted.get(row.name, unknown),
            "image_size": row.image_size,
            "source": row.source,
            "weights": shipped_weights(row.name),
        }
        for row in ZOO.values()
    ]


def stored_counts() -> dict[str, dict[str, int]]:
    """What ``make zoo`` counted, by the name of the model."""
    found: dict[str, dict[str, int]] = json.loads((resources.files("edgevit.models") / COUNTS_FILE).read_text("utf-8"))
    return found


def shipped_weights(name: str) -> list[str]:
    """Names that ``--weights`` takes for this model because the package ships them, e.g. ``["digits"]``."""
    folder = resources.files("edgevit.models") / "weights"
    prefix, suffix = f"{name}-", ".safetensors"
    files = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(
        file[len(prefix) : -len(suffix)] for file in files if file.startswith(prefix) and file.endswith(suffix)
    )
