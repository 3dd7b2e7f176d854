"""The same rows as Markdown, CSV or JSON. Rows with different comparability keys are kept in tables of their own."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from edgevit import render
from edgevit.printable import as_json as json_text
from edgevit.printable import printable
from edgevit.profiles.ranking.answer import COLUMNS as RANKED
from edgevit.profiles.ranking.answer import Ranking
from edgevit.profiles.report.collect import Collection, Row
from edgevit.profiles.report.fastest import models_of
from edgevit.profiles.report.groups import Group, groups_of, separation, shown

COLUMNS = (
    "artifact", "target", "verdict", "p50", "p90", "p99", "rows/s", "memory", "size", "quality",
    "max rel. error",
)  # fmt: skip
_LINK = re.compile(r"(?i):(?=//)|www(?=\.)")  # what many renderers make a link of, unless a backslash follows
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # a spreadsheet would run a cell that begins so


IDENTITY = ("artifact", "path", "model", "target", "precision", "bytes")
PROOF = ("parity", "max_rel", "tolerance")
QUALITY = ("metric", "value", "value_of", "value_data")
FIGURES = (
    "runtime", "runtime_and_version", "provider", "threads", "batch", "scenario", "tier", "p50_ms", "p50_ci95_ms",
    "p90_ms", "p99_ms", "throughput", "samples", "load_ms", "first_ms", "peak_rss_bytes", "key", "measured", "profile",
    "profile_sha256",
)  # fmt: skip


def record(row: Row) -> dict[str, Any]:
    """One row as JSON-ready values; figures that cannot be given are None and ``reason`` or ``reasons`` say why."""
    known = {
        **_of_artifact(row),
        **_of_quality(row),
        "verdict": row.verdict,
        "reason": row.reason,
        **_of_measurement(row),
        **_of_file(row),
        "reasons": list(row.stored.reasons) if row.stored else [],
    }
    names = (*IDENTITY, *PROOF, *QUALITY, "verdict", "reason", *FIGURES, "reasons")
    return {name: known.get(name) for name in names}


def _of_artifact(row: Row) -> dict[str, Any]:
    """Who it is and how it was proved."""
    found = {"artifact": row.name, "path": str(row.path), "bytes": row.size}
    if row.manifest is None:
        return found
    manifest, parity = row.manifest, row.manifest.parity
    return found | {
        "model": manifest.model.name,
        "target": manifest.target,
        "precision": manifest.precision,
        "parity": parity.status,
        "max_rel": parity.max_rel,
        "tolerance": parity.tolerance,
    }


def _of_quality(row: Row) -> dict[str, Any]:
    """What its answers are judged by, how good they are, whose they are and on what data."""
    found = row.quality
    values = (found.metric, found.value, row.quality_of, found.data) if found else ()
    return dict(zip(QUALITY, values, strict=False))


def _of_measurement(row: Row) -> dict[str, Any]:
    """The figures that may be shown, under the names that they are kept by."""
    it = row.stored
    if it is None:
        return {}
    interval = it.p50_interval95_ms
    return {name: getattr(it, name, None) for name in FIGURES} | {
        "runtime_and_version": it.key_fields.get("runtime"),
        "p50_ci95_ms": list(interval) if interval else None,
        "measured": row.measurement.measured if row.measurement else None,
    }


def _of_file(row: Row) -> dict[str, Any]:
    """Where the measurement lies, also one that may not be shown."""
    it = row.measurement
    return {"profile": str(it.file), "profile_sha256": it.sha256} if it else {}


def _group_record(group: Group, differs: str) -> dict[str, Any]:
    return {"letter": group.letter, "key": group.key, "fields": dict(group.fields), "differs": differs or None}


def as_json(found: Collection) -> str:
    """``{rows, groups: [{letter, key, fields, differs}], problems, rankings}``; medians rank only within one
    group, and ``rankings`` were measured in turns."""
    groups = groups_of(found.rows)
    apart = ["", *separation(groups)]
    return (
        json_text(
            {
                "rows": [record(row) for row in found.rows],
                "groups": [_group_record(*each) for each in zip(groups, apart, strict=False)],
                "problems": list(found.problems),
                "rankings": [{"models": models_of(it), **it.as_record()} for it in found.rankings],
            }
        )
        + "\n"
    )


def comma_separated(found: Collection) -> str:
    """One line for each row, in the fields of ``record``. Text that a spreadsheet would run gets an apostrophe."""
    written = io.StringIO()
    records = [record(row) for row in found.rows]
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(records[0])
    for line in records:
        writer.writerow([_cell(value) for value in line.values()])
    return written.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    if isinstance(value, str):
        return f"'{printable(value)}" if value.strip().startswith(_FORMULA) else printable(value)
    return "" if value is None else value


def markdown(found: Collection) -> str:
    """One table for each comparability key, the rows without numbers with their reasons, and what keeps keys apart."""
    groups = groups_of(found.rows)
    lines = ["# edgevit report", ""]
    for group in groups:
        lines += [f"## {group.letter}: {_plain(group.conditions)}", ""]
        lines += [f"Device: {_plain(shown(group.fields.get('device')))}. Key: `{group.key}`.", ""]
        lines += [*_table(COLUMNS, [_line(row) for row in group.rows]), ""]
        lines += [*_doubts(group), ""] if _doubts(group) else []
    if apart := separation(groups):
        lines += [*(f"- {_plain(sentence)}" for sentence in apart), ""]
    if blank := [row for row in found.rows if not row.stored]:
        rows = [(row.name, _target(row), row.verdict, row.reason or "", render.si(row.size, "B")) for row in blank]
        lines += ["## Not measured", "", *_table(("artifact", "target", "verdict", "reason", "size"), rows), ""]
    if found.problems:
        lines += ["## Left out", "", *(f"- {_plain(problem)}" for problem in found.problems), ""]
    for ranking in found.rankings:
        lines += _fastest(ranking)
    return "\n".join(lines)


def _fastest(it: Ranking) -> list[str]:
    """The answer of one ranking, its table, and what else has to be known."""
    notes = [f"- {_plain(note)}" for note in (f"{it.record.device}, {it.record.measured}", it.measured(), *it.notes())]
    title, answer = f"## Which is fastest? {_plain(models_of(it))}", f"**{_plain(it.sentence())}**"
    return [title, "", *_table(RANKED, it.rows()), "", *notes, "", answer, ""]


def _doubts(group: Group) -> list[str]:
    return [
        f"- {_plain(row.name)}: {_plain(reason)}" for row in group.rows if row.stored for reason in row.stored.reasons
    ]


def _line(row: Row) -> tuple[str, ...]:
    it, parity = row.stored, row.manifest.parity if row.manifest else None
    return (
        row.name,
        _target(row),
        row.verdict,
        *(render.ms(value) for value in ((it.p50_ms, it.p90_ms, it.p99_ms) if it else (None,) * 3)),
        "—" if it is None or it.throughput is None else f"{it.throughput:,.1f}",
        render.si(it.peak_rss_bytes if it else None, "B"),
        render.si(row.size, "B"),
        row.quality.figure() if row.quality else "—",
        "—" if parity is None or parity.max_rel is None else f"{parity.max_rel:.1e}",
    )


def _target(row: Row) -> str:
    return f"{row.manifest.target} {row.manifest.precision}" if row.manifest else "—"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *([_plain(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: nothing in a file may become a cell, a link or a tag."""
    flat = printable(" ".join(text.split()))
    plain = "".join(f"\\{char}" if char in "\\`*[]|<>#~@" else "&amp;" if char == "&" else char for char in flat)
    return _LINK.sub(r"\g<0>\\", plain)
