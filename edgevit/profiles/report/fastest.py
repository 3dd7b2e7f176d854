"""Which is fastest? What was measured in turns: the answer, one plot, a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgevit.profiles.ranking.answer import COLUMNS, TIE, Ranking, Standing
from edgevit.profiles.report.figures import Figure, axis, label
from edgevit.profiles.report.markup import Markup, join, tag
from edgevit.profiles.report.sections import Plots, plain_table

NOTE = (
    "All of one ranking ran in turns on one machine, each in a process of its own. A bar is the 95 % interval of its "
    "time ÷ that of the first; those of one ranking hold together. Filled: no difference from the first can be "
    "claimed. Hollow: slower, as two rounds showed."
)


def models_of(it: Ranking) -> str:
    """The models that were ranked, in words."""
    return ", ".join(dict.fromkeys(one.model for one in it.record.entrants))


def section(found: Sequence[Ranking], plots: Plots) -> Markup | None:
    """For each ranking its answer, a plot and a table; None when there is none."""
    if not found:
        return None
    return join(tag("p", NOTE, class_="note"), *(_card(it, plots) for it in found))


def _card(it: Ranking, plots: Plots) -> Markup:
    record = it.record
    head = tag("h3", models_of(it), " ", tag("span", f"{record.device}, {record.measured}", class_="small"))
    answer = tag("p", tag("strong", it.sentence()), class_="answer")
    notes = [tag("li", note) for note in (it.measured(), *it.notes())]
    table = tag("details", tag("summary", "As a table"), plain_table(COLUMNS[1:], [row[1:] for row in it.rows()]))
    evidence = tag("ul", *notes, class_="evidence")
    return tag("article", head, answer, plots.place(intervals(it)), evidence, table, class_="wide")


def intervals(it: Ranking) -> Figure:
    """A horizontal interval for each entrant, the fastest on top, its name above it: as wide as a phone allows."""
    standings = it.standings
    ends = [end for one in standings for end in (one.ratio.low, one.ratio.high)]
    data = [_points(standings, claimed=claimed) for claimed in (False, True)]
    mixed = len({one.computed for one in standings}) > 1
    layout = {
        "xaxis": axis("time ÷ the fastest's", ends),
        "yaxis": {
            "range": [len(standings) - 0.5, -0.8],
            "showticklabels": False,
            "showgrid": False,
            "zeroline": False,
            "ticks": "",
        },
        "shapes": [_reference()],
        "annotations": [_name(one, place, precision=mixed) for place, one in enumerate(standings)],
        "showlegend": False,
        "margin": {"l": 10},
        "height": 90 + 52 * len(standings),
        "hovermode": "closest",
    }
    return Figure(data, layout, f"{models_of(it)}: {it.sentence()}")


def _points(standings: Sequence[Standing], *, claimed: bool) -> dict[str, Any]:
    """Those that are slower, or those of whom no difference can be claimed."""
    found = [(place, one) for place, one in enumerate(standings) if one.claimed == claimed]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "slower" if claimed else TIE,
        "x": [one.ratio.value for _, one in found],
        "y": [place for place, _ in found],
        "marker": {
            "size": 11,
            "color": "@c2" if claimed else "@c1",
            "symbol": "square-open" if claimed else "circle",
            "line": {"width": 2, "color": "@c2" if claimed else "@c1"},
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [one.ratio.high - one.ratio.value for _, one in found],
            "arrayminus": [one.ratio.value - one.ratio.low for _, one in found],
            "color": "@c2" if claimed else "@c1",
            "thickness": 2,
            "width": 5,
        },
        "text": [label(f"{one.label}: {said(one)}", 90) for _, one in found],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _reference() -> dict[str, Any]:
    line = {"color": "@muted", "width": 1, "dash": "dot"}
    return {"type": "line", "yref": "paper", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "line": line, "layer": "below"}


def _name(one: Standing, place: int, *, precision: bool) -> dict[str, Any]:
    text = f"{one.ratio.value:.2f}× {label(one.label)}" + (f", {label(one.computed)}" if precision else "")
    return {
        "xref": "paper", "x": 0, "xanchor": "left", "y": place, "yanchor": "bottom", "yshift": 8, "text": text,
        "showarrow": False, "font": {"color": "@ink"}, "align": "left",
    }  # fmt: skip


def said(one: Standing) -> str:
    """One standing in words."""
    interval = f"{one.ratio.value:.3f}, 95 % CI {one.ratio.low:.3f}–{one.ratio.high:.3f}"
    verdict = "slower" if one.claimed else "first" if one.ratio.low == one.ratio.high == 1 else TIE
    return f"{interval}, {verdict}; {one.computed}, error {one.error}"
