"""The page's sections below the table: plots, one card for each measurement, layers, environment, provenance, terms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgevit import render
from edgevit.artifact.manifest import Manifest
from edgevit.profiles.record import ProfileRecord
from edgevit.profiles.report import breakdown, cells, figures
from edgevit.profiles.report.collect import Collection, Row
from edgevit.profiles.report.groups import Group, shown
from edgevit.profiles.report.markup import Markup, join, tag
from edgevit.profiles.report.over_time import over_time, thinning

Figures = dict[str, Any]


class Plots:
    """Collects the figures of a page: ``place`` gives the element that a figure is drawn into."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    def place(self, *drawn: figures.Figure, caption: str = "", names: Sequence[str] = ()) -> Markup:
        """An element for one figure, or for several of which buttons called ``names`` choose one."""
        ids = []
        for figure in drawn:
            ids.append(f"f{len(self.figures)}")
            self.figures[ids[-1]] = figure.record()
        height = f"min-height:{drawn[0].layout['height']}px"
        plot = tag(
            "div", class_="plot", role="img", aria_label=drawn[0].said, data_figure=ids[0], style=height, tabindex=-1
        )
        chosen = [
            _button(name, which, figure.said, pressed=not index)
            for index, (name, which, figure) in enumerate(zip(names, ids, drawn, strict=bool(names)))
        ]
        buttons = tag("div", *chosen, class_="choice", role="group", aria_label="What to show") if chosen else None
        return tag("figure", tag("figcaption", caption) if caption else None, buttons, plot)


def _button(name: str, shows: str, said: str, *, pressed: bool) -> Markup:
    return tag("button", name, type="button", data_show=shows, data_said=said, aria_pressed=str(pressed).lower())


def trade_offs(found: Collection, groups: Sequence[Group], plots: Plots) -> Markup:
    """Quality and size against latency, one plot for each group, each metric and each set of data."""
    note = tag(
        "p",
        "The dotted line is the Pareto front of the STEADY rows: no other row is faster and at least as good. Hollow "
        "points are not STEADY and stand outside the ranking. Bars are 95 % confidence intervals of the median.",
        class_="note",
    )
    if not groups:
        return tag("p", "Nothing was measured, so there is nothing to plot.")
    good = [plots.place(figures.trade_off(part, trade), caption=said) for part, trade, said in _by_data(groups)]
    if not good:
        good = [tag("p", "No quality is recorded: edgevit profile --data SRC measures it.", id="no-quality")]
    sizes = [
        plots.place(figures.trade_off(group, figures.SIZE), caption=f"{group.letter} · {group.conditions}")
        for group in groups
    ]
    left = join(tag("h3", "Quality and latency"), tag("div", *good, class_="grid"))
    right = join(tag("h3", "Size and latency"), tag("div", *sizes, class_="grid"))
    return join(note, left, right)


def _by_data(groups: Sequence[Group]) -> list[tuple[Group, figures.Trade, str]]:
    """Each group cut by what its rows were judged by and on: those of different data are not ranked either."""
    found: dict[tuple[str, str, str, str, str, int], list[Row]] = {}
    for group in groups:
        for row in group.rows:
            if it := row.quality:
                key = (group.letter, it.metric, it.better, row.quality_of, it.data, it.images)
                found.setdefault(key, []).append(row)
    by_letter = {group.letter: group for group in groups}
    made = []
    for (letter, metric, better, whose, data, images), rows in found.items():
        whole = by_letter[letter]
        said = f"{letter} · {whole.conditions} · {metric} of the {whose} on {images} images of {data}"
        made.append((Group(letter, whole.key, whole.fields, tuple(rows)), figures.quality(metric, better), said))
    return made


def distributions(groups: Sequence[Group], plots: Plots) -> Markup:
    note = tag(
        "p",
        "A point (x, y) says: y % of the samples took at most x ms. A steep line is a steady engine; the top right end "
        "is its tail. Above 2,000 samples every 0.1 % one is drawn, and the 200 slowest all.",
        class_="note",
    )
    drawn = [
        plots.place(figures.distributions(group), caption=f"{group.letter} · {group.conditions}") for group in groups
    ]
    return join(note, tag("div", *drawn, class_="grid"))


def measurements(groups: Sequence[Group], plots: Plots) -> Markup:
    """One card for each measured row: verdict, evidence, figures, samples over time."""
    made = [_card(row, group, plots) for group in groups for row in group.rows]
    return tag("div", *made, class_="grid cards")


def _counted(it: ProfileRecord) -> str:
    """How many samples there are, and of which process."""
    by_process = f" of {', '.join(str(part.samples) for part in it.processes)} by process"
    return f"{len(it.samples_ms):,}{by_process if len(it.processes) > 1 else ''}"


def _card(row: Row, group: Group, plots: Plots) -> Markup:
    it = row.stored
    if it is None:
        raise ValueError(f"{row.name} has no numbers")
    head = tag("h3", f"{group.letter} · {row.name} ", cells.badge(row.verdict))
    reasons = [tag("li", reason) for reason in it.reasons]
    if it.unmonitored:
        reasons.append(tag("li", f"unmonitored, so not known to be clean: {', '.join(it.unmonitored)}"))
    facts = {
        "samples": _counted(it),
        "load": render.ms(it.load_ms),
        "first inference": render.ms(it.first_ms),
        "inputs": it.inputs,
        "measured (UTC)": row.measurement.measured if row.measurement and row.measurement.measured else "unknown",
    }
    thinned = tag("p", said, class_="small") if (said := thinning(row)) else None
    evidence = tag("ul", *reasons, class_="evidence") if reasons else tag("p", "No doubt was found.", class_="evidence")
    plot = plots.place(over_time(row))
    return tag("article", head, evidence, _facts(facts), plot, thinned, _percentiles(row), class_="card")


def _facts(facts: Mapping[str, object]) -> Markup:
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()), class_="facts")


def _percentiles(row: Row) -> Markup | None:
    """All percentiles with their intervals, folded away."""
    found = row.stored.percentiles if row.stored else {}
    if not found:
        return None
    lines = []
    for name, one in found.items():
        interval = one.interval95_ms
        estimate = cells.number(one.estimate_ms) if one.estimate_ms is not None else f"needs ≥ {one.needs:,}"
        between = f"{cells.number(interval[0])}–{cells.number(interval[1])}" if interval else "—"
        lines.append((name, estimate, cells.number(one.raw_ms), between))
    columns = ("percentile", "estimate, ms", "of the samples, ms", "95 % interval, ms")
    return tag("details", tag("summary", "All percentiles"), plain_table(columns, lines))


def plain_table(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> Markup:
    """A small table; what is wide scrolls inside its own box. The first column heads its rows."""
    header = tag("thead", tag("tr", *(tag("th", column, scope="col") for column in columns)))
    body = [tag("tr", tag("th", line[0], scope="row"), *(tag("td", cell) for cell in line[1:])) for line in lines]
    table = tag("table", header, tag("tbody", *body), class_="plain")
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"Table by {columns[0]}")


BARS = (
    "A part has one colour in all bars of a model. Timing single layers slows them down, so a bar is longer than the "
    "latency above; what compares is where the time goes. Bars of different groups were run under different conditions."
)


def layers(found: Collection, groups: Sequence[Group], plots: Plots) -> Markup | None:
    """Stacked bars of each model that has layers, and the same as a table; None when no row has any."""
    letters = {id(row): group.letter for group in groups for row in group.rows}
    models = breakdown.models_with_layers(found.rows)
    if not models:
        return None
    made = []
    for model, rows in models.items():
        names = [f"{letters[id(row)]} · {row.name}" for row in rows]
        cuts = {title: breakdown.break_down(model, rows, field) for field, title in breakdown.FIELDS.items()}
        drawn = [breakdown.bars(cut, names) for cut in cuts.values()]
        place = plots.place(*drawn, names=[f"by {title}" for title in cuts])
        made.append(
            tag("article", tag("h3", model), place, *(_parts(cut, names) for cut in cuts.values()), class_="wide")
        )
    return join(tag("p", BARS, class_="note"), *made)


def _parts(cut: breakdown.Breakdown, names: Sequence[str]) -> Markup:
    lines = [
        (part, *(f"{cells.number(ms)} ms ({ms / (cut.total(index) or 1):.0%})" for index, ms in enumerate(values)))
        for part, values in cut.ms.items()
    ]
    title = breakdown.FIELDS[cut.field]
    return tag("details", tag("summary", f"Table by {title}"), plain_table((title, *names), lines))


def environments(groups: Sequence[Group]) -> Markup:
    """Each machine once, with the groups that were measured on it."""
    found: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for group in groups:
        for row in group.rows:
            here = {
                key: value
                for key, value in (row.stored.environment if row.stored else {}).items()
                if key != "load_1min"
            }
            letters = found.setdefault(json.dumps(here, sort_keys=True, default=str), (here, []))[1]
            if group.letter not in letters:
                letters.append(group.letter)
    cards = [
        tag("article", tag("h3", f"Measured here: {', '.join(letters)}"), _facts(_readable(here)), class_="card")
        for here, letters in found.values()
    ]
    return tag("div", *cards, class_="grid") if cards else tag("p", "Nothing was measured.")


def _readable(here: Mapping[str, Any]) -> dict[str, str]:
    readable = {}
    for key, value in here.items():
        if isinstance(value, list | tuple):
            value = ", ".join(map(str, value)) or "no sign"
        if key.endswith("_bytes") and isinstance(value, int | float):
            key, value = key.removesuffix("_bytes"), render.si(value, "B")
        readable[key.replace("_", " ")] = shown(value) if not isinstance(value, dict) else json.dumps(value)
    return readable


def provenance(found: Collection) -> Markup:
    """For each artifact: who made it from which weights, its files and profiles, each with its SHA-256."""
    seen: dict[str, list[Row]] = {}
    for row in found.rows:
        seen.setdefault(str(row.path), []).append(row)
    return join(*(_origin(path, rows) for path, rows in seen.items()))


def _made(manifest: Manifest) -> dict[str, object]:
    """How an artifact was made, of what, and how it was proved."""
    weights, parity = manifest.model.weights, manifest.parity
    proof = f"{parity.status}, {parity.images} rows, {parity.runtime}" if parity.runtime else parity.status
    return {
        "made by": f"edgevit {manifest.edgevit}, {manifest.created}",
        "model": f"{manifest.model.name} ({manifest.model.source}, {manifest.model.form} form)",
        "weights": weights.origin,
        "state SHA-256": tag("code", weights.state_sha256),
        "proof": f"{proof}; {parity.reason}" if parity.reason else proof,
        "built with": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()) or "unknown",
    }


def _origin(path: str, rows: Sequence[Row]) -> Markup:
    manifest = rows[0].manifest
    if manifest is None:
        return tag("details", tag("summary", path), tag("p", rows[0].reason))
    facts = _made(manifest)
    lines = [(name, tag("code", digest)) for name, digest in manifest.files.items()]
    lines += [
        (f"profiles/{row.measurement.file.name}", tag("code", row.measurement.sha256))
        for row in rows
        if row.measurement
    ]
    entry = next((digest for name, digest in manifest.files.items() if name.startswith(manifest.entry)), "")
    summary = tag(
        "summary", tag("strong", rows[0].name), " ", tag("span", f"{manifest.entry} {entry[:12]}", class_="small")
    )
    shown_path = tag("p", path, class_="small")
    return tag("details", summary, shown_path, _facts(facts), plain_table(("file", "SHA-256"), lines), class_="origin")


def terms() -> Markup:
    """What the words of the page mean."""
    verdicts = [tag("div", tag("dt", cells.badge(name)), tag("dd", said)) for name, said in cells.MEANINGS.items()]
    sentences = (
        "p50 is the median of all samples. p90 and p99 are early-stopping estimates, as in MLPerf LoadGen: the true "
        "value is above them in at most 1 of 100 measurements. Too few samples give no number.",
        "Rows are compared only when the conditions in their comparability key agree (device, clocks, threads, batch, "
        "tier, runtime and version, provider, scenario, preprocessing). Other rows are in groups of their own.",
        "Two medians that differ are not yet a proof: edgevit compare runs artifacts in turns and says what may be "
        "claimed.",
    )
    return join(*(tag("p", sentence) for sentence in sentences), tag("dl", *verdicts, class_="terms"))
