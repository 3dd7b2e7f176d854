"""Why a forward cannot be traced, and at which line of whose code."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from edgevit.errors import EdgeVitError, ExportFailed, Unsupported, first_line

_NOT_THEIRS = (Path(torch.__file__).parent, Path(__file__).parents[1])
_BY_VALUES = "data-dependent"  # in all that torch says of forwards that want to know what a tensor holds
_TO_NUMPY = (".numpy()", "__array__")


def untraceable(exc: Exception) -> EdgeVitError:
    """What torch.export's complaint means: Unsupported where no graph could hold that forward, else ExportFailed."""
    said, where = str(exc), line_of(exc)
    if _BY_VALUES in said:
        return Unsupported(
            f"forward asks what a tensor holds, to go on by it{where}: a graph is the same for every input",
            hint="compute all ways and pick with torch.where or gather, or write it with torch.cond",
        )
    if any(word in said for word in _TO_NUMPY):
        return Unsupported(
            f"forward leaves torch for numpy{where}: what is computed there is in no graph",
            hint="write it with torch's own operators",
        )
    return ExportFailed(
        f"torch.export cannot trace the model{where}: {first_line(exc)}",
        hint="forward must be one graph of torch's operators for every input",
    )


def line_of(exc: BaseException) -> str:
    """ " (m2f.py:215)": the innermost line that is neither torch's nor ours; "" where there is none."""
    places = [place for error in _causes(exc) for place in _places(error)]
    return f" ({places[-1]})" if places else ""


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Innermost last."""
    error: BaseException | None = exc
    while error is not None:
        yield error
        error = error.__cause__


def _places(exc: BaseException) -> Iterator[str]:
    for frame in traceback.extract_tb(exc.__traceback__):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in _NOT_THEIRS):
            yield f"{path.name}:{frame.lineno}"
