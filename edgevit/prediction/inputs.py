"""Pictures by what a user names: files, folders, globs, lists of names, videos and cameras.

Nothing is read before it is its turn. What cannot be read is a Failure in its place, and does not stop the others.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgevit import render
from edgevit.addresses import is_address
from edgevit.data.folder import EXTENSIONS
from edgevit.errors import UsageError
from edgevit.foreign import entries
from edgevit.prediction import videos
from edgevit.prediction.picture import Picture, of_file
from edgevit.prediction.results import Failure, failed

STDIN = "-"
ENDINGS = EXTENSIONS | {".avif", ".jp2", ".jpe", ".jfif", ".mpo", ".pbm", ".pnm"}  # of files that a folder is asked for
MAX_NAME = 1 << 16  # bytes of a path; systems allow 4,096
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"\0\0\0")  # how their files begin


class Inputs:
    """What ``named`` leads to, picture by picture, in the order given; a folder's content in the order of its names,
    folder by folder, a glob's in the order of its paths.

    listed   the bytes that "-" stands for: names, one a line or separated by NUL; None where "-" is a file's name
    skipped  how many files of folders and globs were passed over so far, by why
    """

    def __init__(
        self, named: Sequence[str], sampling: videos.Sampling | None = None, listed: Any | None = None
    ) -> None:
        self.named, self.listed = named, listed
        self.sampling = sampling or videos.Sampling()
        self.skipped: Counter[str] = Counter()

    def check(self) -> None:
        """Before anything is opened: UsageError where a sampling is asked for and there can be no video,
        MissingDependency for a video where nothing reads them."""
        if any(videos.is_video(name) and not is_address(Path(name)) for name in self.named):
            videos.require_reader()
        elif self.sampling.asked and not any(name == STDIN or glob.has_magic(name) for name in self.named):
            raise UsageError("--every, --fps and --frames are of videos and cameras", hint="name one, or drop them")

    @property
    def live(self) -> bool:
        """Whether pictures may come one by one, each to be answered before the next is there."""
        return any(videos.is_camera(name) or (name == STDIN and self.listed is not None) for name in self.named)

    def __iter__(self) -> Iterator[Picture | Failure]:
        for name in self.named:
            if name == STDIN and self.listed is not None:
                yield from self._of_list(self.listed)
            else:
                yield from self._of(name, patterns=True)

    def skips(self) -> str | None:
        """A sentence about what was passed over."""
        kinds = [
            f"{count:,} {why}" + ("s" if count > 1 and why != "hidden" else "")
            for why, count in sorted(self.skipped.items())
        ]
        return f"{render.counted(self.skipped.total(), 'file')} skipped: {', '.join(kinds)}" if kinds else None

    def _of(self, name: str, *, patterns: bool) -> Iterator[Picture | Failure]:
        if "\0" in name:
            yield failed(name, "no name of a file has a NUL in it")
        elif videos.is_video(name) and not os.path.isdir(name) and not is_address(Path(name)):
            if patterns and glob.has_magic(name) and not os.path.lexists(name):
                yield from self._of_glob(name)
            else:
                yield from videos.frames(name, self.sampling)
        elif os.path.isdir(name):
            yield from self._of_folder(Path(name))
        elif patterns and glob.has_magic(name) and not os.path.lexists(name) and not is_address(Path(name)):
            yield from self._of_glob(name)
        else:
            yield of_file(name)

    def _of_folder(self, folder: Path) -> Iterator[Picture | Failure]:
        found, before = False, self.skipped.copy()
        for one in self._walked(folder):
            found = True
            yield one
        if not found:
            passed = self.skipped - before
            films = f"; its {render.counted(passed['video'], 'video')} can be named" if passed["video"] else ""
            yield failed(str(folder), f"no pictures in this folder{films}")

    def _walked(self, folder: Path) -> Iterator[Picture | Failure]:
        """A folder that cannot be read is a Failure. No recursion: paths may be deeper than Python's stack."""
        below: list[Iterator[Path]] = [iter((folder,))]
        while below:
            path = next(below[-1], None)
            if path is None:
                below.pop()
            elif path != folder and (why := self._reason(path)):
                self.skipped[why] += 1
            elif path == folder or path.is_dir():
                try:
                    below.append(iter(entries(path, "check its permissions")))
                except UsageError as error:
                    yield failed(str(path), error)
            else:
                yield of_file(path)

    def _reason(self, path: Path) -> str | None:
        """Why a file or folder inside a folder is passed over."""
        if path.name.startswith("."):
            return "hidden"
        if os.path.isdir(path):
            return "linked folder" if path.is_symlink() else None  # a link may lead round in a circle
        if path.suffix.lower() in videos.ENDINGS:
            return "video"
        return None if path.suffix.lower() in ENDINGS else "no picture"

    def _of_glob(self, pattern: str) -> Iterator[Picture | Failure]:
        """A pattern that ends in ** names the folders themselves; what two ways lead to (a link) comes once."""
        pattern = os.path.expanduser(pattern)
        found = sorted(glob.glob(re.sub(r"(?<=/)\*\*/*$", "", pattern), recursive=True))
        if not found:
            yield failed(pattern, "nothing matches")
        seen: set[str] = set()
        for name in found:
            for one in self._matched(name):
                real = os.path.realpath(one.name) if isinstance(one, Picture) and one.frame is None else ""
                if not real or real not in seen:
                    yield one
                seen.add(real)

    def _matched(self, name: str) -> Iterator[Picture | Failure]:
        if os.path.isdir(name) or videos.is_video(name) or Path(name).suffix.lower() in ENDINGS:
            yield from self._of(name, patterns=False)
        else:
            self.skipped["no picture"] += 1

    def _of_list(self, listed: Any) -> Iterator[Picture | Failure]:
        for data in names_in(listed):
            if isinstance(data, Failure):
                yield data
            elif name := os.fsdecode(data.removesuffix(b"\r")):
                yield from self._of(name, patterns=False)


def names_in(listed: Any) -> Iterator[bytes | Failure]:
    """Names from a binary stream, each as soon as it is complete: a line, or up to a NUL where there are any."""
    held, separator = b"", b""
    while chunk := listed.read1(MAX_NAME):
        held += chunk
        if not separator:
            if held.startswith(_PICTURES):
                yield failed(STDIN, "standard input holds a picture or a video, and is read as a list of names")
                return
            separator = b"\0" if b"\0" in held else b"\n" if b"\n" in held else b""
        *whole, held = held.split(separator) if separator else (held,)
        yield from whole
        if len(held) > MAX_NAME:
            yield failed(STDIN, "standard input is no list of names: a line is too long")
            return
    yield held
