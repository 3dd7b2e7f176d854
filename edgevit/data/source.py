"""A data source by its spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgevit.data import cifar, coco, crops, depth, folder, idx, masks, npz, pairs, scenes
from edgevit.data.digits import digits
from edgevit.data.fashion import fashion
from edgevit.data.labelled import LabelledData, Split, from_array
from edgevit.data.samples import samples
from edgevit.data.split import part
from edgevit.errors import UnknownName, UsageError

SCHEMES = (
    "digits",
    "fashion",
    "samples",
    "scenes",
    "scenes:SIDE",
    "pairs:samples×2",
    "pairs:PATH",
    "folder:PATH",
    "npz:PATH",
    "cifar10:PATH",
    "cifar100:PATH",
    "idx:PATH",
    "masks:PATH",
    "coco:PATH",
    "depth:PATH",
)

_SPLIT = frozenset({"digits", "fashion", "scenes", "cifar10", "cifar100", "idx"})


def open_data(spec: str, *, split: Split = "all", seed: int = 0) -> LabelledData:
    """Open a data source by its spec; ``split`` picks the fixed 80 % for training or the 20 % held out from it.

    CIFAR, IDX and folders with ``train`` and ``val``/``test`` keep their own split. Images without labels are split as
    one class. Raises UnknownName for a spec of no known kind, UsageError for a source that is missing or malformed,
    MissingDependency where scikit-learn or scikit-image is needed and absent.
    """
    if split not in ("all", "train", "held-out"):
        raise UnknownName("split", split, ("all", "train", "held-out"))
    scheme, path = _parsed(spec)
    if path is None:
        return _made(scheme, spec, split, seed)
    return _readers()[scheme](path, spec, split, seed)


def check_spec(spec: str) -> None:
    """What can be said of a data source without reading it: UnknownName and UsageError as of ``open_data``."""
    _, path = _parsed(spec)
    if path is not None and not path.exists():
        raise UsageError(f"{path}: no such file or folder", hint="check the path")


def has_own_split(spec: str) -> bool:
    """Whether what is held out of the source is the same for everybody, whoever trained on it or not."""
    return spec.partition(":")[0] in _SPLIT or pairs.scale_of(spec) is not None


def _readers() -> dict[str, Callable[[Path, str, Split, int], LabelledData]]:
    return {
        "folder": folder.read,
        "npz": npz.read,
        "cifar10": _cifar,
        "cifar100": _cifar,
        "crops": crops.read,
        "pairs": pairs.read,
        "idx": idx.read,
        "masks": masks.read,
        "coco": coco.read,
        "depth": depth.read,
    }


def _made(scheme: str, spec: str, split: Split, seed: int) -> LabelledData:
    """What installed packages bundle, or is made of it."""
    if scheme == "scenes":
        return scenes.read(spec, split, seed)
    if scale := pairs.scale_of(spec):
        return pairs.of_samples(spec, scale, split)
    if scheme == "fashion":
        return fashion(split, seed)
    return part(digits() if scheme == "digits" else samples(), split, seed)


def _parsed(spec: str) -> tuple[str, Path | None]:
    """The scheme and the path, None where it takes none."""
    scheme, colon, path = spec.partition(":")
    if scheme in ("digits", "fashion", "samples") and not colon:
        return scheme, None
    if scheme == "scenes":
        scenes.options(spec)
    if scheme == "scenes" or pairs.scale_of(spec):
        return scheme, None
    known = _readers()
    if scheme not in known and colon:
        raise UnknownName("data source", spec, SCHEMES)
    if scheme not in known:
        raise _unknown(spec)
    if not path:
        raise UsageError(f"data source {spec!r} lacks its path", hint=f"write {scheme}:PATH")
    return scheme, Path(path).expanduser()


def _unknown(spec: str) -> UsageError:
    if Path(spec).is_dir():
        return UsageError(f"data source {spec!r} is a path without its kind", hint=f"write folder:{spec}")
    if spec.endswith(".npz"):
        return UsageError(f"data source {spec!r} is a path without its kind", hint=f"write npz:{spec}")
    return UnknownName("data source", spec, SCHEMES)


def _cifar(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    images, labels, classes = cifar.read(path, split, spec.partition(":")[0])
    return LabelledData(spec, from_array(images), labels, classes)
