"""Whether an accuracy is measured on the images of the recorded one: by their content, or by the name where none was
recorded."""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.data.content import Content, content_of
from edgevit.data.labelled import LabelledData


@dataclass(frozen=True)
class Sameness:
    """``common`` images are in both, of ``now`` and of ``then``; None where only the data's name is known."""

    now: int
    then: int
    common: int | None

    @property
    def judged(self) -> bool:
        """Whether the recorded accuracy says anything of this one."""
        return self.common != 0

    @property
    def differing(self) -> float:
        """By how much top-1 may differ, because that many images are others, each right here and wrong there."""
        return 0.0 if self.common is None else 1 - self.common / max(self.now, self.then)

    def sentence(self) -> str:
        """In brackets behind the accuracy; nothing where only the name is known."""
        if self.common is None:
            return ""
        if self.common == self.now == self.then:
            return f" (the same {self.now:,} images as at export)"
        fewer = f", which had {self.then:,}" if self.then != self.now else ""
        return f" (other images than at export{fewer}: {self.now - self.common:,} of {self.now:,} differ)"


def sameness(found: LabelledData, named: bool, images: int, content: Content | None) -> Sameness:
    """Of what is judged now and the ``images`` recorded; ``named`` says whether the data has the recorded name."""
    if content is None:
        return Sameness(len(found), images, None if named else 0)
    return Sameness(len(found), images, content.shared(content_of(found)))
