"""``edgevit.profiles.compare``: is B faster than A? A race of two, seen from A."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgevit.errors import UsageError
from edgevit.profiles.difference import Difference, difference_of
from edgevit.profiles.ranking.race import Progress, Terms, race
from edgevit.sizes import as_size


def compare(
    first: Path | str,
    second: Path | str | None = None,
    *,
    runtimes: Sequence[str] = (),
    threads: int | None = None,
    provider: str | None = None,
    batch: int | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    data: str | None = None,
    blocks: int | None = None,
    seconds: float | None = None,
    trust: bool = False,
    options: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Difference:
    """Measure two artifacts, or one on two runtimes, in turns.

    ``runtimes`` is none (each target's own), one for both, or one each. ``blocks`` is the fewest blocks of a round, at
    least 9; the others are those of ``Terms``. Raises as ``race`` does.
    """
    if len(runtimes) > 2:
        raise UsageError(f"a comparison is of two, and {len(runtimes)} runtimes were given", hint="give one or two")
    paths = [first] if second is None else [first, second]
    size = None if image_size is None else as_size(image_size)
    terms = Terms(threads, provider, batch, data, blocks, seconds, trust, dict(options or {}), image_size=size)
    return difference_of(race(paths, runtimes, terms, progress))
