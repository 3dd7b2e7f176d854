"""Where the milliseconds went: layers of one model on several targets, cut into the same parts so that they compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgevit.profiles.report.collect import Row
from edgevit.profiles.report.figures import COLOURS, Figure, colour, ink, label
from edgevit.runtimes.base import LayerTime

UNKNOWN, OTHER, WHOLE = "(module unknown)", "(other)", "(the model itself)"
MAX_SHARE = 1 / 3  # a module with more of the time is cut into its children
Path = tuple[str, ...]
FIELDS = {"module": "PyTorch module", "op": "operator", "unit": "unit that ran it"}


@dataclass(frozen=True)
class Breakdown:
    """ms of each part for each row: ``ms[part][index of row]``; parts in the order they run."""

    model: str
    field: str
    rows: tuple[Row, ...]
    ms: dict[str, list[float]]

    def total(self, index: int) -> float:
        return sum(values[index] for values in self.ms.values())


def models_with_layers(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that hold layers, by model."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.stored and row.stored.layers and row.stored.layers.layers and row.manifest:
            found.setdefault(row.manifest.model.name, []).append(row)
    return found


def break_down(model: str, rows: Sequence[Row], field: str) -> Breakdown:
    """``field`` is "module", "op" or "unit". Modules are cut alike for all rows; what has no colour is summed up."""
    layers = [row.stored.layers.layers if row.stored and row.stored.layers else [] for row in rows]
    cut = _cut([layer for found in layers for layer in found]) if field == "module" else frozenset()
    ms: dict[str, list[float]] = {}
    for index, found in enumerate(layers):
        for layer in found:
            part = _part(layer, field, cut)
            ms.setdefault(part, [0.0] * len(rows))[index] += layer.ms
    return Breakdown(model, field, tuple(rows), _largest(ms))


def _part(layer: LayerTime, field: str, cut: frozenset[Path]) -> str:
    if field != "module":
        return str(getattr(layer, field)) or UNKNOWN
    if layer.module is None:
        return UNKNOWN
    path = _path(layer)
    return next((".".join(path[:depth]) for depth in range(len(path), 0, -1) if path[:depth] in cut), WHOLE)


def _path(layer: LayerTime) -> Path:
    return tuple(layer.module.split(".")) if layer.module else ()


def _cut(layers: Sequence[LayerTime]) -> frozenset[Path]:
    """Modules to show: the model's children, and the children of what holds over a third of the time while there are
    colours for them."""
    paths = [(path, layer.ms) for layer in layers if (path := _path(layer))]
    cut = {path[:1] for path, _ in paths}
    closed: set[Path] = set()
    while open_parts := cut - closed:
        spent = {part: sum(ms for path, ms in paths if path[: len(part)] == part) for part in open_parts}
        largest = max(sorted(spent), key=lambda part: spent[part])
        children = {path[: len(largest) + 1] for path, _ in paths if path[: len(largest)] == largest}
        heavy = spent[largest] > MAX_SHARE * sum(ms for _, ms in paths)
        if heavy and children != {largest} and len(cut | children) - 1 <= COLOURS:
            cut = (cut - {largest}) | children
            closed |= {largest} & children
        else:
            closed.add(largest)
    return frozenset(cut)


def _largest(ms: dict[str, list[float]]) -> dict[str, list[float]]:
    """As many named parts as there are colours; the rest as one, and what is unknown last."""
    named = [part for part in ms if part not in (UNKNOWN, WHOLE)]
    kept = set(sorted(named, key=lambda part: -sum(ms[part]))[:COLOURS])
    found = {part: ms[part] for part in named if part in kept}
    rest = [ms[part] for part in named if part not in kept]
    if rest:
        found[OTHER] = [sum(values) for values in zip(*rest, strict=True)]
    return found | {part: ms[part] for part in (WHOLE, UNKNOWN) if part in ms}


def bars(it: Breakdown, names: Sequence[str]) -> Figure:
    """One stacked bar for each row; a part has the same colour in all of them. ``names`` are the bars'."""
    data = []
    for index, (part, values) in enumerate(it.ms.items()):
        plain = part not in (OTHER, UNKNOWN, WHOLE)
        marker = {"color": colour(index) if plain else "@grid", "line": {"color": "@paper", "width": 1}}
        if not plain:
            marker["pattern"] = {"shape": {OTHER: "/", UNKNOWN: "x", WHOLE: "."}[part], "fgcolor": "@muted"}
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label(part),
                "y": [label(name, 44) for name in names],
                "x": [float(f"{value:.5g}") for value in values],
                "marker": marker,
                "text": [label(part) if plain else ""] * len(values),
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "insidetextfont": {"color": ink(index) if plain else "@ink"},
                "customdata": [100 * value / (it.total(row) or 1) for row, value in enumerate(values)],
                "hovertemplate": f"<b>{label(part)}</b><br>%{{y}}<br>%{{x:.4g}} ms, "
                "%{customdata:.1f} %<extra></extra>",
            }
        )
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "ms of one inference, layers timed one by one"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "automargin": True, "ticklabelposition": "outside"},
        "height": 150 + 56 * len(names),
        "bargap": 0.35,
        "uniformtext": {"mode": "hide", "minsize": 10},
        "showlegend": True,
        "legend": {"traceorder": "normal"},
    }
    tops = "; ".join(f"{name}: {_top(it, index)}" for index, name in enumerate(names))
    return Figure(data, layout, f"Time by {FIELDS[it.field]} of {it.model}. {tops}")


def _top(it: Breakdown, index: int) -> str:
    part = max(it.ms, key=lambda name: it.ms[name][index])
    return f"most in {part}, {it.ms[part][index]:.3g} of {it.total(index):.3g} ms"
