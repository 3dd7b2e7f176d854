"""From folders to rows: each artifact with its newest measurement of a kind, or with the reason why it has none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit import registry
from edgevit.artifact.goodness import Quality
from edgevit.artifact.manifest import MANIFEST, Manifest
from edgevit.artifact.opened import Artifact
from edgevit.disk import why
from edgevit.errors import BadArtifact, UsageError, one_line
from edgevit.profiles.ranking.answer import Ranking
from edgevit.profiles.ranking.record import content_of
from edgevit.profiles.record import ProfileRecord
from edgevit.profiles.report.rankings import rankings
from edgevit.profiles.stored import Measurement, read

SAID = 3  # artifacts whose reasons are told in one line


@dataclass(frozen=True)
class Row:
    """One artifact and one measurement of it, or the ``reason`` in words why there are no numbers.

    manifest   None when it cannot be read
    size       bytes of the model files, or None
    """

    name: str
    path: Path
    manifest: Manifest | None
    size: int | None
    measurement: Measurement | None = None
    reason: str | None = None

    @property
    def stored(self) -> ProfileRecord | None:
        """The measurement that may be shown: none where there is a reason against it."""
        return self.measurement.stored if self.measurement and not self.reason else None

    @property
    def steady(self) -> bool:
        return self.stored is not None and self.stored.verdict == "STEADY"

    @property
    def verdict(self) -> str:
        """The measurement's own verdict; FAILED also for a failed artifact, NOT MEASURED without numbers."""
        if self.stored:
            return self.stored.verdict
        parity = self.manifest.parity.status if self.manifest else "failed"
        failed = parity == "failed" or (self.measurement and self.measurement.stored.verdict == "FAILED")
        return "FAILED" if failed else "NOT MEASURED"

    @property
    def quality(self) -> Quality | None:
        """How good its answers are: the artifact's own when its profile has it, else the source model's at export."""
        return self._own_quality or (self.manifest.how_good() if self.manifest else None)

    @property
    def quality_of(self) -> str:
        """Whose ``quality`` is."""
        return "artifact" if self._own_quality else "source model"

    @property
    def _own_quality(self) -> Quality | None:
        return self.stored.how_good() if self.stored else None


@dataclass(frozen=True)
class Collection:
    """All rows, what was ranked in turns, the newest first, and sentences about files that were left out."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    rankings: tuple[Ranking, ...] = ()

    @property
    def measured(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.stored)

    @property
    def nothing_shown(self) -> str | None:
        """Why no figure is in the report, and the next step; None where there is one."""
        if self.measured:
            return None
        reasons = dict.fromkeys(f"{row.name}: {row.reason}" for row in self.rows[:SAID])
        more = f"; and {len(self.rows) - SAID} more" if len(self.rows) > SAID else ""
        able = next((row.path for row in self.rows if row.manifest and row.manifest.parity.status == "verified"), "DIR")
        return f"no measurement to show ({'; '.join(reasons)}{more}): edgevit profile {able} makes one"


def _nothing(folders: Sequence[Path], problems: Sequence[str]) -> UsageError:
    where = ", ".join(map(str, folders)) or "no folder"
    return UsageError(
        f"no artifact in {where}: {'; '.join(problems) or 'name one'}",
        hint=f"give artifacts (folders with an {MANIFEST}), or parents of them: edgevit export makes one, edgevit "
        "profile measures it",
    )


def collect(folders: Sequence[Path]) -> Collection:
    """Rows of every artifact in ``folders``. A folder without one is a problem among others; UsageError, which says it
    of each, when none of them has any."""
    found: list[Path] = []
    problems: list[str] = []
    for folder in folders:
        here, wrong = artifact_folders(folder)
        found += here
        problems += wrong
    if not found:
        raise _nothing(folders, problems)
    unique = list({path.resolve(): path for path in found}.values())
    rows: list[Row] = []
    for path, name in zip(unique, _names(unique), strict=True):
        made, wrong = _rows_or_reason(path, name)
        rows += made
        problems += wrong
    ranked, wrong = rankings(unique, _contents(rows))
    return Collection(tuple(rows), tuple(dict.fromkeys([*problems, *wrong])), ranked)


def _contents(rows: Sequence[Row]) -> dict[str, str]:
    """Names of the sound artifacts by the hash of their content."""
    sound = [(row.manifest, row.name) for row in reversed(rows) if row.manifest and row.size is not None]
    return {content_of(it.files): name for it, name in sound if it.parity.status != "failed"}


def artifact_folders(folder: Path) -> tuple[list[Path], list[str]]:
    """``folder`` itself when it is an artifact, else every artifact below it, builds in progress left aside; and
    sentences about what could not be looked into or holds none."""
    if not folder.is_dir():
        return [], [f"{folder} is not a folder" + ("" if os.path.lexists(folder) else ": it does not exist")]
    if os.path.isfile(folder / MANIFEST):
        return [folder], []
    found: list[Path] = []
    unread: list[OSError] = []
    for parent, names, files in os.walk(folder, onerror=unread.append):
        if MANIFEST in files:
            found.append(Path(parent))
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))
    problems = [f"{error.filename} cannot be looked into: {why(error)}" for error in unread]
    if not found and not problems:
        problems.append(f"{folder} holds no artifact")
    return found, problems


def _rows_or_reason(path: Path, name: str) -> tuple[list[Row], list[str]]:
    """``rows_of``, or a row that says what came in its way."""
    try:
        return rows_of(path, name)
    except Exception as exc:  # whatever it is, the other folders are worth a report
        return [Row(name, path, None, None, reason=one_line(exc))], []


def _names(paths: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents as it takes to tell them apart."""
    resolved = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, resolved)) + 1):
        names = ["/".join(parts[-depth:]) for parts in resolved]
        if len(set(names)) == len(names):
            break
    return names


def rows_of(path: Path, name: str) -> tuple[list[Row], list[str]]:
    """One row for each newest measurement, or one row with a reason; and sentences about profiles left out."""
    try:
        artifact = Artifact.open(path)
    except BadArtifact as exc:
        return [Row(name, path, None, None, reason=str(exc))], []
    manifest = artifact.manifest
    try:
        artifact.check_seal()
        artifact.check_files()
        size = artifact.size_bytes()
    except BadArtifact as exc:
        return [Row(name, path, manifest, None, reason=str(exc))], []
    if manifest.parity.status != "verified":
        return [Row(name, path, manifest, size, reason=_unproved(manifest))], []
    measurements, problems = _measurements(path)
    if not measurements:
        reason = problems[-1] if problems else _unmeasured(manifest)
        return [Row(name, path, manifest, size, reason=reason)], problems
    return [Row(name, path, manifest, size, one, _against(one, manifest)) for one in measurements], problems


def _unproved(manifest: Manifest) -> str:
    reason = manifest.parity.reason or "no reason was recorded"
    return reason if manifest.parity.status == "unverified" else f"failed verification: {reason}"


def _unmeasured(manifest: Manifest) -> str:
    """Why a verified artifact has no measurement: no engine here can run it, or nobody asked."""
    sentences = []
    for name, row in registry.rows("runtime").items():
        if manifest.target in row.formats and row.can_profile:
            here = row.on_this_machine()
            if here.able:
                return "not measured yet: edgevit profile measures it"
            sentences.append(f"{name} {here.sentence}")
    return f"not measured: {'; '.join(sentences) or f'no runtime for {manifest.target} is installed'}"


def _against(measurement: Measurement, manifest: Manifest) -> str | None:
    """Why a measurement's numbers may not be shown, or None."""
    it = measurement.stored
    if it.files and it.files != manifest.files:
        return "its files changed after this measurement: profile again"
    if it.verdict == "FAILED" or not it.samples_ms or it.p50_ms is None:
        return next(iter(it.reasons), "the measurement failed and left no reason").removeprefix("FAILED: ")
    return None


def _measurements(path: Path) -> tuple[list[Measurement], list[str]]:
    """The newest measurement of each series, by the time in the file names; sentences about unreadable files."""
    newest: dict[object, Measurement] = {}
    problems = []
    for file in _profile_files(path):
        try:
            found = read(file)
        except BadArtifact as exc:
            problems.append(str(exc))
            continue
        newest[found.series] = found
    return list(newest.values()), problems


def _profile_files(path: Path) -> Iterable[Path]:
    return sorted((path / "profiles").glob("*.json"), key=lambda file: file.name)
