"""One picture that is looked at: a file not read yet, or pixels; its name, and its place in a video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgevit.addresses import shown
from edgevit.artifact.manifest import Array
from edgevit.errors import EdgeVitError
from edgevit.images import decode, with_channels
from edgevit.prediction.results import Failure, failed


@dataclass(frozen=True)
class Picture:
    """A picture by its name.

    source          a file, decoded when it is looked at; or (H, W, 3) uint8 RGB, or (H, W, 4) with alpha
    frame, seconds  those of ``Result``
    """

    name: str
    source: Path | Array
    frame: int | None = None
    seconds: float | None = None

    def pixels(self, channels: int = 3) -> Array:
        """(H, W, channels) uint8: 3 of RGB, 4 with alpha; ImageError for a file that is no picture."""
        if isinstance(self.source, Path):
            return decode(self.source, channels=channels)
        return with_channels(self.source, channels)

    def failure(self, error: EdgeVitError | str) -> Failure:
        """Why there is no answer for it."""
        name = shown(self.source) if isinstance(self.source, Path) else self.name
        return failed(name, error, frame=self.frame, seconds=self.seconds)


def of_file(path: Path | str) -> Picture:
    return Picture(str(Path(path)), Path(path))
