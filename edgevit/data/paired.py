"""Two folders of files that belong together by their names: pictures, and what is true of each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from edgevit.data.folder import EXTENSIONS, HELD_OUT_FOLDERS, files_of
from edgevit.data.labelled import LabelledData, Split
from edgevit.data.split import part
from edgevit.errors import UsageError


@dataclass(frozen=True)
class Layout:
    """How a source of this kind lies on the disk.

    first, second  the folders' names; the first holds the pictures that a model sees
    endings        of the second's files
    hint           the next step for whoever has something else
    """

    first: str
    second: str
    endings: Collection[str]
    hint: str


@dataclass(frozen=True)
class Pairs:
    """Files of the first folder and those of the second that belong to them.

    own  whether they are the part that was asked for already
    """

    first: list[Path]
    second: list[Path]
    own: bool

    def part(self, data: LabelledData, split: Split, seed: int) -> LabelledData:
        """The asked part of data that these files are."""
        return data if self.own else part(data, split, seed)


def pairs_in(path: Path, layout: Layout, split: Split) -> Pairs:
    """All pairs; those of ``train/`` and ``val/`` or ``test/``, where the two folders lie in each of them.

    UsageError for a folder that is missing or empty, and for a file that is in one of them alone.
    """
    train, held = path / "train", next((path / name for name in HELD_OUT_FOLDERS if (path / name).is_dir()), None)
    if (path / layout.first).is_dir() or not train.is_dir() or held is None:
        return Pairs(*_matched(path, layout), own=False)
    parts = {"train": [train], "held-out": [held], "all": [train, held]}[split]
    found = [_matched(one, layout) for one in parts]
    return Pairs([one for first, _ in found for one in first], [one for _, second in found for one in second], own=True)


def _matched(path: Path, layout: Layout) -> tuple[list[Path], list[Path]]:
    first = _named(path / layout.first, EXTENSIONS, layout.hint)
    second = _named(path / layout.second, layout.endings, layout.hint)
    if alone := sorted(first.keys() ^ second.keys()):
        where = layout.first if alone[0] in first else layout.second
        more = f", as {len(alone) - 1} more are in one folder" if len(alone) > 1 else ""
        raise UsageError(f"{path}: {alone[0]} is in {where}/ alone{more}", hint="give both folders the same names")
    names = sorted(first)
    return [first[name] for name in names], [second[name] for name in names]


def _named(folder: Path, endings: Collection[str], hint: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", hint=hint)
    found = files_of(folder, endings, deep=False)
    if not found:
        kind = "images" if endings is EXTENSIONS else " or ".join(sorted(endings))
        raise UsageError(f"{folder}: no {kind} in this folder", hint=hint)
    if len(named := {path.stem: path for path in found}) < len(found):
        raise UsageError(f"{folder}: two pictures have the same name but for their endings", hint="rename one of them")
    return named
