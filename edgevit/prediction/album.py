"""Answers as pictures: PNG files in a folder, or one by its name. No input is written over."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgevit.artifact.files import replaced, sync_folder
from edgevit.disk import writing
from edgevit.errors import EdgeVitError, UsageError
from edgevit.images import ImageError, encoded
from edgevit.prediction.inputs import STDIN
from edgevit.prediction.results import Prediction, Result, failed
from edgevit.prediction.videos import is_camera, is_video

ENDING = ".png"
MAX_FRAMES = 10_000  # of one video or camera that are drawn: a camera never ends
MAX_NAME = 200  # bytes of a name before what makes it unique; file systems allow 255
_NO_NAMES = str.maketrans(dict.fromkeys('/\\:*?"<>|', "-"))  # that some file system does not take


@dataclass
class Album:
    """Where pictures are drawn to.

    path    a folder, made when the first picture is there; or the file of a single picture
    single  whether it is that file
    """

    path: Path
    force: bool
    single: bool
    _names: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, out: str | None, *, force: bool) -> Album | None:
        """That of a path that is a folder, ends as one, or has the ending of a picture; None for any other."""
        if out is None or out in ("", STDIN):
            return None
        path = Path(out)
        folder = os.path.isdir(out) or out.endswith(("/", os.sep)) or not path.suffix
        if not folder and path.suffix.lower() != ENDING:
            return None
        return cls(path, force, single=not folder)

    def check(self, named: Sequence[str]) -> None:
        """Before anything is opened: UsageError for what exists, and where an input could be written over."""
        if self.single:
            self._check_file(named)
            return
        if os.path.lexists(self.path) and not os.path.isdir(self.path):
            raise UsageError(f"{self.path} is no folder", hint="name another one")
        filled = os.path.isdir(self.path) and any(os.scandir(self.path))
        if filled and not self.force:
            raise UsageError(f"{self.path} holds files", hint="choose another folder, or replace them with --force")
        if filled and STDIN in named:
            raise UsageError(f"{self.path} holds files, and may hold what stdin will name", hint="choose a new folder")
        for name in named:
            self._check_apart(name, filled)

    def _check_file(self, named: Sequence[str]) -> None:
        name = named[0] if len(named) == 1 else STDIN
        if (
            name == STDIN
            or os.path.isdir(name)
            or is_video(name)
            or (glob.has_magic(name) and not os.path.exists(name))
        ):
            raise UsageError(f"{self.path} takes one picture", hint=f"for more name a folder: -o {self.path.stem}")
        if os.path.exists(name) and os.path.exists(self.path) and os.path.samefile(name, self.path):
            raise UsageError(f"{self.path} is one of the inputs", hint="name another file")
        if os.path.lexists(self.path) and not self.force:
            raise UsageError(f"{self.path} exists", hint="choose another name, or replace it with --force")

    def _check_apart(self, name: str, filled: bool) -> None:
        """A folder that is searched while pictures come into it would give them as inputs; one that held inputs would
        lose them."""
        own = os.path.realpath(self.path)
        for found in glob.glob(os.path.expanduser(name), recursive=True) or [name]:
            real = os.path.realpath(found)
            if os.path.isdir(real) and _lies_in(own, real):
                hint = "choose a folder elsewhere, or name the pictures instead of their folder"
                raise UsageError(f"{self.path} lies in {found}, which is searched for pictures", hint=hint)
            if filled and not is_camera(found) and _lies_in(real, own):
                raise UsageError(f"{self.path} holds {found}, which is an input", hint="choose another folder")

    def drawn(self, results: Iterable[Result]) -> Iterator[Result]:
        """The results, each answer written as a picture before it is handed on. A Failure where one is gone meanwhile;
        EdgeVitError where the disk does not take it, and for a video without end."""
        for result in results:
            yield self._drawn(result) if isinstance(result, Prediction) else result

    def _drawn(self, result: Prediction) -> Result:
        if result.frame is not None and len(self._names) >= MAX_FRAMES:
            raise EdgeVitError(
                f"{MAX_FRAMES:,} pictures are drawn, and {result.image} goes on",
                hint="--every, --fps and --frames take fewer",
            )
        try:
            picture = result.drawn()
        except ImageError as error:
            return failed(result.image, error, frame=result.frame, seconds=result.seconds)
        if picture is None:
            return result
        path = self.path if self.single else self.path / self._free(result)
        self._write(path, encoded(picture))
        return replace(result, written=str(path))

    def _free(self, result: Prediction) -> str:
        """A name that no other picture of this album has, whether or not the file system tells small from large."""
        stem = Path(result.image).stem.translate(_NO_NAMES).lstrip(".")
        stem = os.fsdecode(os.fsencode(stem)[:MAX_NAME]) or "picture"
        stem += "" if result.frame is None else f"-{result.frame:06d}"
        name, count = stem, 1
        while name.casefold() in self._names:
            count += 1
            name = f"{stem}-{count}"
        self._names.add(name.casefold())
        return name + ENDING

    def _write(self, path: Path, data: bytes) -> None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path) and not (self.force and path.is_file()):
                raise UsageError(f"{path} has come into being meanwhile", hint="choose another name")
            with replaced(path) as scratch, scratch.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            sync_folder(path.parent)


def _lies_in(path: str, folder: str) -> bool:
    """Whether it is that folder, or below it."""
    return path == folder or path.startswith(os.path.join(folder, ""))
