"""The headline: what was found in a few sentences, and the table of all rows, grouped by comparability key."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgevit.profiles.report import cells
from edgevit.profiles.report.collect import Collection, Row
from edgevit.profiles.report.fastest import models_of
from edgevit.profiles.report.figures import p50
from edgevit.profiles.report.groups import Group, counted, shown
from edgevit.profiles.report.markup import Markup, join, tag

Cell = tuple[Markup, float | str | None]
NUMBERS = {
    "p50": "p50, ms",
    "p90": "p90, ms",
    "p99": "p99, ms",
    "rate": "rows/s",
    "memory": "memory",
}
COLUMNS = {
    "name": "artifact",
    "verdict": "verdict",
    **NUMBERS,
    "size": "size",
    "quality": "quality",
    "error": "max rel. error",
}
HINTS = {
    "p50": "median of all samples, with its 95 % confidence interval",
    "p90": "early-stopping estimate: the true p90 is above it in at most 1 of 100 measurements",
    "p99": "early-stopping estimate: the true p99 is above it in at most 1 of 100 measurements",
    "rate": "rows of one stream per second spent in calls",
    "memory": "peak resident memory above what the process held before the model was opened",
    "size": "bytes of the model files",
    "quality": "how good the answers are on data that says what is true, by the metric of the task, and whose they are",
    "error": "largest output error of the proof ÷ largest reference output, and the tolerance",
}


def findings(found: Collection, groups: Sequence[Group]) -> Markup:
    """Counts, the answers of what ran in turns, and for each group the STEADY row with the lowest median."""
    steady = sum(row.steady for row in found.rows)
    artifacts = len({row.path for row in found.rows})
    figures = [
        (artifacts, "artifact" if artifacts == 1 else "artifacts"),
        (len(found.measured), "measurements"),
        (steady, "of them STEADY"),
        (len(found.rows) - len(found.measured), "without numbers, reason given"),
    ]
    tiles = [
        tag("li", tag("span", count, class_="count"), tag("span", what, class_="what"), class_="tile")
        for count, what in figures
    ]
    answers = [tag("li", tag("a", models_of(it), href="#fastest"), f": {it.sentence()}.") for it in found.rankings]
    sentences = [*answers, *(tag("li", _leader(group)) for group in groups)]
    return join(tag("ul", *tiles, class_="tiles"), tag("ul", *sentences, class_="sentences") if sentences else None)


def _leader(group: Group) -> Markup:
    steady = [row for row in group.rows if row.steady]
    name = tag("strong", f"{group.letter} · {group.fields.get('runtime')}")
    if not steady:
        total = len(group.rows)
        what = "its row is" if total == 1 else f"none of its {total} rows is"
        return join(name, f": {what}{' not' if total == 1 else ''} STEADY, so nothing is ranked.")
    best = min(steady, key=p50)
    among = f" of {len(steady)} STEADY rows" if len(steady) > 1 else ", the only STEADY row"
    return join(name, f": lowest median{among}: ", tag("strong", best.name), f", {cells.number(p50(best))} ms.")


def table(found: Collection, groups: Sequence[Group]) -> Markup:
    """Filter and sort controls, and the table; each group is a body of its own, sorted within itself."""
    bodies = [_group_body(group, _cut(group, groups)) for group in groups]
    blank = [row for row in found.rows if not row.stored]
    if blank:
        head = _heading("Without numbers", "what could not be measured here, and why")
        bodies.append(tag("tbody", head, *map(_blank_line, blank), role="rowgroup"))
    header = tag("thead", tag("tr", *(_header(key) for key in COLUMNS), role="row"), role="rowgroup")
    caption = tag("caption", "All artifacts. Column heads sort within each group.", class_="hidden")
    whole = tag("table", caption, header, *bodies, id="rows", role="table")
    count = tag("p", counted(len(found.rows), "row"), id="count", role="status", class_="small")
    return join(
        _controls(found), count, tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label="Table")
    )


def _cut(group: Group, groups: Sequence[Group]) -> str:
    """What keeps a group from being ranked against the first, or nothing."""
    if group is groups[0]:
        return ""
    return f"not ranked against {groups[0].letter}: differs in {group.apart_from(groups[0])}"


def _controls(found: Collection) -> Markup:
    verdicts = list(dict.fromkeys(row.verdict for row in found.rows))
    targets = list(dict.fromkeys(row.manifest.target for row in found.rows if row.manifest))
    words = tag("input", type="search", id="words", placeholder="model, target, runtime …", autocomplete="off")
    orders = [("", "as found"), *((key, title) for key, title in COLUMNS.items())]
    chosen = [
        tag("label", "Filter", words),
        tag("label", "Verdict", _choice("verdict", [("", "all"), *((v, v.replace("_", " ")) for v in verdicts)])),
        tag("label", "Target", _choice("target", [("", "all"), *((name, name) for name in targets)])),
        tag("label", "Sort by", _choice("order", orders), class_="narrow"),
    ]
    return tag("form", *chosen, id="controls", aria_label="Filter and sort the table", hidden=True)


def _choice(name: str, options: Sequence[tuple[str, str]]) -> Markup:
    return tag("select", *(tag("option", shown_as, value=value) for value, shown_as in options), id=name)


def _header(key: str) -> Markup:
    arrow = tag("span", class_="arrow", aria_hidden="true")
    button = tag("button", COLUMNS[key], arrow, type="button", data_sort=key, title=HINTS.get(key))
    kind = "text" if key in ("name", "verdict") else "figure"
    return tag("th", button, scope="col", role="columnheader", data_col=key, class_=kind, aria_sort="none")


def _heading(title: str, *lines: str) -> Markup:
    said = [tag("span", line, class_="small") for line in lines if line]
    cell = tag("th", tag("span", title, class_="main"), *said, scope="rowgroup", role="rowheader", colspan=len(COLUMNS))
    return tag("tr", cell, class_="group", role="row")


def _group_body(group: Group, cut: str) -> Markup:
    slowest = max(map(p50, group.rows))
    fields = f"{shown(group.fields.get('device'))} · clocks {shown(group.fields.get('clocks'))} · key {group.key}"
    head = _heading(f"{group.letter} · {group.conditions}", fields, cut)
    return tag("tbody", head, *(_line(row, slowest) for row in group.rows), role="rowgroup", data_key=group.key)


def _name(row: Row) -> Cell:
    manifest = row.manifest
    what = f"{manifest.model.name} · {manifest.target} {manifest.precision}" if manifest else "manifest unreadable"
    return join(tag("span", row.name, class_="main"), tag("span", what, class_="small")), row.name


def _line(row: Row, slowest: float) -> Markup:
    it = row.stored
    made: dict[str, Cell] = {
        "name": _name(row),
        "verdict": (cells.badge(row.verdict), list(cells.SIGNS).index(row.verdict)),
        "p50": cells.median_cell(row, slowest),
        "p90": cells.percentile(row, "p90", it.p90_ms if it else None),
        "p99": cells.percentile(row, "p99", it.p99_ms if it else None),
        "rate": cells.rate_cell(row),
        "memory": cells.memory_cell(row),
        **_constant(row),
    }
    return _tr(row, [_td(key, made[key]) for key in COLUMNS])


def _constant(row: Row) -> dict[str, Cell]:
    """What is known of an artifact without measuring it."""
    return {"size": cells.size_cell(row), "quality": cells.quality_cell(row), "error": cells.error_cell(row)}


def _blank_line(row: Row) -> Markup:
    known = _constant(row)
    reason = tag("td", row.reason, class_="reason", colspan=len(NUMBERS), role="cell", data_label="why")
    verdict = cells.badge(row.verdict), list(cells.SIGNS).index(row.verdict)
    return _tr(
        row, [_td("name", _name(row)), _td("verdict", verdict), reason, *(_td(key, known[key]) for key in known)]
    )


def _tr(row: Row, made: Sequence[Markup]) -> Markup:
    manifest, it = row.manifest, row.stored
    words = [row.name, row.verdict, row.verdict.replace("_", " "), row.reason or ""]
    words += [manifest.model.name, manifest.target, manifest.precision] if manifest else []
    words += [it.runtime, it.provider or "", it.tier, it.scenario] if it else []
    target = manifest.target if manifest else ""
    return tag(
        "tr",
        *made,
        role="row",
        class_="row",
        data_words=" ".join(words).lower(),
        data_verdict=row.verdict,
        data_target=target,
    )


def _td(key: str, cell: Cell) -> Markup:
    content, order = cell
    kind = "text" if key in ("name", "verdict") else "figure"
    name: Callable[..., Markup] = tag
    if key == "name":
        return name("th", content, scope="row", role="rowheader", class_=kind, data_col=key, data_order=order)
    return name("td", content, role="cell", class_=kind, data_col=key, data_order=order, data_label=COLUMNS[key])
