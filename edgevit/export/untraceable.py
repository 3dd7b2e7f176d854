"""Why a forward cannot be traced, and at which line of whose code."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

from edgevit.errors import EdgeVitError, ExportFailed, Unsupported, first_line
from edgevit.models.eager.frames import line_of

_BY_VALUES = "data-dependent"  # in all that torch says of forwards that want to know what a tensor holds
_TO_NUMPY = (".numpy()", "__array__")


def untraceable(exc: Exception) -> EdgeVitError:
    """What torch.export's complaint means: Unsupported where no graph could hold that forward, else ExportFailed."""
    said, place = str(exc), where(exc)
    if _BY_VALUES in said:
        return Unsupported(
            f"forward asks what a tensor holds, to go on by it{place}: a graph is the same for every input",
            hint="compute all ways and pick with torch.where or gather, or write it with torch.cond",
        )
    if any(word in said for word in _TO_NUMPY):
        return Unsupported(
            f"forward leaves torch for numpy{place}: what is computed there is in no graph",
            hint="write it with torch's own operators",
        )
    return ExportFailed(
        f"torch.export cannot trace the model{place}: {first_line(exc)}",
        hint="forward must be one graph of torch's operators for every input",
    )


def where(exc: BaseException) -> str:
    """ " (m2f.py:215)": the innermost line of the user's own; "" where there is none."""
    found = [line for error in _causes(exc) if (line := line_of(_frames(error)))]
    return f" ({found[-1]})" if found else ""


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Innermost last."""
    error: BaseException | None = exc
    while error is not None:
        yield error
        error = error.__cause__


def _frames(exc: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(exc.__traceback__) if Path(frame.filename).is_file()]
