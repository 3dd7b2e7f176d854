"""What images some data holds, whatever the path that leads to it: known by content.

An image's digest is of its file's bytes (of its pixels, where it is no file of its own) and of its class's name, or
of what else the data says of it. Only the images that an accuracy is judged on are read, 2,000 at most and a piece at a
time: of a folder of 50,000 no more.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # manifests hold a Content, and who reads manifests reads no data
    from edgevit.data.labelled import LabelledData

_DIGITS = 8  # of each image: enough to count how many are the same, where ``sha256`` says whether all are
_MOST = 100_000


class Content(BaseModel):
    """The images of some data, in any order."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="hash of the sorted digests of all images")
    rows: str = Field(
        pattern=rf"^([0-9a-f]{{{_DIGITS}}})*$",
        max_length=_DIGITS * _MOST,
        description=f"the first {_DIGITS} hex digits of every image's digest, sorted",
    )

    def __len__(self) -> int:
        return len(self.rows) // _DIGITS

    def shared(self, other: Content) -> int:
        """How many images both hold, each as often as it is in both."""
        if self.sha256 == other.sha256:
            return len(self)
        return (self._counted() & other._counted()).total()

    def _counted(self) -> Counter[str]:
        return Counter(self.rows[start : start + _DIGITS] for start in range(0, len(self.rows), _DIGITS))


def content_of(data: LabelledData) -> Content:
    """The content of all of ``data``; ImageError for a file that cannot be read."""
    digests = sorted(_digests(data))
    total = hashlib.sha256("".join(digests).encode())
    return Content(sha256=total.hexdigest(), rows="".join(digest[:_DIGITS] for digest in digests))


def _digests(data: LabelledData) -> Iterator[str]:
    for index in range(len(data)):
        label = "" if data.labels is None else str(data.labels[index])
        name = data.classes[data.labels[index]] if data.classes and data.labels is not None else label
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(data.images.digest(index))
        if data.targets is not None:  # whose numbers mean nothing without the names
            digest.update(data.targets.digest(index) + "\0".join(data.classes or ()).encode("utf-8", "surrogateescape"))
        yield digest.hexdigest()
