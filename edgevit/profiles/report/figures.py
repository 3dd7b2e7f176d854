"""The plots as plotly figures: plain dictionaries. Colours are names ("@c1", "@ink") that the page's theme fills in."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgevit.artifact.goodness import unit_of
from edgevit.profiles.report.collect import Row
from edgevit.profiles.report.groups import Group, front
from edgevit.profiles.report.thin import ecdf

COLOURS = 8  # of the categorical palette in page.css
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "pentagon", "star", "hexagram")
LABELLED = 14  # points up to which each has its name beside it


@dataclass(frozen=True)
class Figure:
    """``said`` is what the plot shows in words, for those who cannot see it."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]
    said: str

    def record(self) -> dict[str, Any]:
        return {"data": self.data, "layout": self.layout}


def label(value: object, width: int = 40) -> str:
    """A name as plotly may show it: its own markup and placeholders are made harmless, long names are cut."""
    name = " ".join(str(value).split())
    name = name if len(name) <= width else f"{name[: width - 1]}…"
    return html.escape(name, quote=False).replace("%{", "% {")


def colour(index: int) -> str:
    return f"@c{index % COLOURS + 1}"


def ink(index: int) -> str:
    """Text on that colour."""
    return f"@on{index % COLOURS + 1}"


def dash(index: int) -> str:
    return DASHES[index % len(DASHES)]


def axis(title: str, values: Iterable[float] = (), **more: Any) -> dict[str, Any]:
    """An axis; logarithmic where its values span more than a decade."""
    positive = [value for value in values if value > 0]
    wide = bool(positive) and max(positive) > 10 * min(positive)
    log = {"type": "log", "dtick": "D2" if max(positive) < 1000 * min(positive) else 1} if wide else {}
    return {"title": {"text": title}, **log, **more}


def short_names(rows: Sequence[Row]) -> list[str]:
    """Model names where they tell the rows apart, folder names where not."""
    models = [row.manifest.model.name if row.manifest else row.name for row in rows]
    return models if len(set(models)) == len(models) else [row.name for row in rows]


def p50(row: Row) -> float:
    """Median in ms of a measured row."""
    if row.stored is None or row.stored.p50_ms is None:
        raise ValueError(f"{row.name} has no numbers")
    return row.stored.p50_ms


@dataclass(frozen=True)
class Trade:
    """What a trade-off plot sets against the latency: ``worth`` orders the front, ``value`` is drawn."""

    title: str
    value: Callable[[Row], float]
    worth: Callable[[Row], float]
    better: str


def quality(metric: str, better: str) -> Trade:
    """Of rows that are judged by one metric: accuracies in percent, every other as its field writes it."""
    unit = unit_of(metric)

    def value(row: Row) -> float:
        return (row.quality.value if row.quality else math.nan) * (100 if unit == "%" else 1)

    up = better == "higher"
    where = f"left and {'up' if up else 'down'} is better"
    return Trade(f"{metric}, {unit}" if unit else metric, value, value if up else lambda row: -value(row), where)


SIZE = Trade("size, MB", lambda row: (row.size or 0) / 1e6, lambda row: -(row.size or 0), "left and down is better")


def trade_off(group: Group, trade: Trade) -> Figure:
    """Latency against accuracy or size, with the Pareto front of the STEADY rows; the others are hollow."""
    rows = group.rows
    names = short_names(rows)
    ahead = front(rows, p50, trade.worth)
    data = [_front_line(ahead, trade)]
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        side = _side(p50(row), [p50(other) for other in rows]) if len(rows) <= LABELLED else None
        data.append(_point(row, label(name), index, trade, side))
    layout = {
        "xaxis": axis("p50 latency, ms", [p50(row) for row in rows], **_room([p50(row) for row in rows])),
        "yaxis": {"title": {"text": trade.title}, **_room([trade.value(row) for row in rows])},
        "showlegend": False,
        "height": 340,
        "hovermode": "closest",
    }
    best = ", ".join(row.name for row in ahead) or "no STEADY row"
    return Figure(data, layout, f"{trade.title} against p50 latency in group {group.letter}; Pareto front: {best}")


def _room(values: Sequence[float]) -> dict[str, Any]:
    """Space around the points for their names. Nothing for a logarithmic axis, which plotly fits well."""
    known = [value for value in values if value == value]
    if not known or min(known) <= 0 or max(known) > 10 * min(known):
        return {}
    margin = 0.22 * (max(known) - min(known)) or 0.05 * max(known)
    return {"range": [min(known) - margin, max(known) + margin]}


def _side(value: float, among: Sequence[float]) -> str:
    """Where a point's name goes so that it stays inside the plot: away from the nearer edge."""
    low, high = min(among), max(among)
    place = (value - low) / (high - low) if high > low else 0.5
    return "right" if place < 0.3 else "left" if place > 0.7 else "center"


def _front_line(ahead: Sequence[Row], trade: Trade) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "x": [p50(row) for row in ahead],
        "y": [trade.value(row) for row in ahead],
        "line": {"color": "@muted", "width": 1.5, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }


def _point(row: Row, name: str, index: int, trade: Trade, side: str | None) -> dict[str, Any]:
    low, high = _interval(row)
    verdict = row.verdict
    symbol = SYMBOLS[index % len(SYMBOLS)]
    return {
        "type": "scatter",
        "mode": "markers+text" if side else "markers",
        "name": name,
        "x": [p50(row)],
        "y": [trade.value(row)],
        "text": [name if row.steady else f"{name} ({verdict})"],
        "textposition": f"top {side or 'center'}",
        "cliponaxis": False,
        "textfont": {"color": "@ink"},
        "marker": {
            "size": 11,
            "color": colour(index),
            "symbol": symbol if row.steady else f"{symbol}-open",
            "line": {"width": 2, "color": colour(index)},
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - p50(row)],
            "arrayminus": [p50(row) - low],
            "color": colour(index),
            "thickness": 1.5,
            "width": 0,
        },
        "hovertemplate": (
            f"<b>{name}</b><br>{verdict}<br>p50 %{{x:.4g}} ms (95 % CI {low:.4g}–{high:.4g})"
            f"<br>{trade.title}: %{{y:.4g}}<extra></extra>"
        ),
    }


def _interval(row: Row) -> tuple[float, float]:
    """95 % interval of the median; the median itself where there is none."""
    found = row.stored.p50_interval95_ms if row.stored else None
    return found or (p50(row), p50(row))


def distributions(group: Group) -> Figure:
    """Empirical distribution of each row's samples; the lines differ in colour and dash."""
    data, spans = [], []
    for index, row in enumerate(group.rows):
        samples = row.stored.samples_ms if row.stored else []
        values, shares = ecdf(samples)
        spans += [values[0], values[-1]]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label(row.name if row.steady else f"{row.name} ({row.verdict})"),
                "x": _rounded(values),
                "y": _rounded(shares),
                "line": {"shape": "hv", "color": colour(index), "dash": dash(index), "width": 2},
                "hovertemplate": "%{y:.1f} % of the samples take at most %{x:.4g} ms",
            }
        )
    guides = [_guide(share) for share in (50, 90, 99)]
    layout = {
        "xaxis": axis("latency, ms", spans),
        "yaxis": {"title": {"text": "samples at or below, %"}, "range": [0, 101], "tickvals": [0, 25, 50, 75, 90, 99]},
        "shapes": guides,
        "height": 380,
        "hovermode": "closest",
        "showlegend": True,
    }
    said = "; ".join(f"{row.name}: half of the samples within {p50(row):.4g} ms" for row in group.rows)
    return Figure(data, layout, f"Latency distributions in group {group.letter}. {said}")


def _guide(share: float) -> dict[str, Any]:
    line = {"color": "@grid", "width": 1, "dash": "dot"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": share, "y1": share, "line": line, "layer": "below"}


def _rounded(values: Iterable[float]) -> list[float]:
    """Six significant digits: finer than any clock here, and half of the page's size."""
    return [float(f"{value:.6g}") for value in values]
