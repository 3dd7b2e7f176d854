"""Accuracy and size of ED-ViT against the number of parts, drawn from what edvit_digits.py has measured so far.

    python benchmarks/edvit_figure.py [-o docs/figures/edvit.svg]

Rows of the variant "ours": means over seeds, with 95 % t intervals where there are two seeds or more. Sizes are those
of the weights, as the rows say; the trunk's follow from its widths. Written as SVG by hand: no plotting library that is
used here draws one, and this one follows the reader's light or dark theme.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from edvit_digits import ROOT, T_95, load, source_config

from edgevit.split.prune import size_of

FIGURE = ROOT / "docs" / "figures" / "edvit.svg"
WIDTH, HEIGHT = 935, 420
TOP, BOTTOM = 110, 340
LEFT_PANEL, RIGHT_PANEL = (70, 420), (560, 860)
STYLE = """
svg { --ground: #ffffff; --ink: #1f2328; --soft: #59636e; --line: #d9dee3; --c1: #0072b2; --c2: #b84a00; --c3: #00795a }
@media (prefers-color-scheme: dark) {
svg { --ground: #0d1117; --ink: #e6edf3; --soft: #a3adb8; --line: #343b44; --c1: #56b4e9; --c2: #f5a35c; --c3: #3ecf9f }
}
text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--ink) }
.title { font-size: 16px; font-weight: 600 } .soft { fill: var(--soft) } .mid { text-anchor: middle }
.end { text-anchor: end } .grid { stroke: var(--line) } .trunk { stroke: var(--soft); stroke-dasharray: 2 3 }
.c1 { stroke: var(--c1) } .c2 { stroke: var(--c2) } .c3 { stroke: var(--c3) }
.curve { fill: none; stroke-width: 2 } .c2.curve { stroke-dasharray: 7 4 } .c3.curve { stroke-dasharray: 2 3 }
.mark { fill: var(--ground); stroke-width: 2 } .bar { stroke-width: 1.5 }
"""


@dataclass(frozen=True)
class Point:
    """Mean and half width of the 95 % interval, 0 for a single seed."""

    parts: int
    mean: float
    half: float = 0.0


@dataclass(frozen=True)
class Curve:
    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """Positions in the drawing. ``y`` takes a value of the panel's axis."""

    left: float
    right: float
    parts: tuple[int, ...]
    y: Callable[[float], float]

    def x(self, parts: int) -> float:
        return self.left + (self.parts.index(parts) + 0.5) * (self.right - self.left) / len(self.parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=FIGURE)
    out = parser.parse_args().out
    rows = [row for row in load()["rows"] if row["variant"] == "ours"]
    if not rows:
        raise SystemExit("no rows of the variant ours: python benchmarks/edvit_digits.py --only ours measures them")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(figure(rows))
    print(out)


def figure(rows: Sequence[dict[str, Any]]) -> str:
    """The whole SVG."""
    parts = tuple(sorted({row["parts"] for row in rows}))
    seeds = sorted({sum(row["parts"] == count for row in rows) for count in parts})
    counted = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    over = f"Means of {counted} seeds, with 95 % intervals." if seeds[-1] > 1 else "One seed."
    title = "ED-ViT on handwritten digits, by the number of parts"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{title}</title>",
            f"<desc>{escape(described(rows, parts))}</desc>",
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" style="fill: var(--ground)"/>',
            text(20, 32, title, "title"),
            text(20, 54, f"{over} Left: held-out accuracy. Right: size of the weights.", "soft"),
            *accuracy_panel(rows, parts),
            *size_panel(rows, parts),
            "</svg>",
            "",
        ]
    )


def described(rows: Sequence[dict[str, Any]], parts: Sequence[int]) -> str:
    """The figures as a sentence a number of parts."""
    found = {curve.name: {point.parts: point.mean for point in curve.points} for curve in accuracies(rows)}
    return " ".join(
        f"{count} parts: "
        + ", ".join(f"{name} {of[count]:.2f} %" for name, of in found.items() if count in of)
        + f", one sub-model {largest(rows, count) / 1e6:.2f} MB."
        for count in parts
    )


# --- what is drawn ---------------------------------------------------------------------------------------------------


def accuracies(rows: Sequence[dict[str, Any]]) -> list[Curve]:
    """In per cent."""
    return [
        Curve("all parts", points(rows, lambda row: row["fused"])),
        Curve("one missing", points(rows, lambda row: row["missing_one"] and row["missing_one"]["mean"])),
        Curve("two missing", points(rows, lambda row: row["missing_two"] and row["missing_two"]["mean"])),
    ]


def points(rows: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float | None]) -> tuple[Point, ...]:
    by_parts: dict[int, list[float]] = {}
    for row in rows:
        if (found := value(row)) is not None:
            by_parts.setdefault(row["parts"], []).append(100 * found)
    return tuple(Point(parts, *over_seeds(values)) for parts, values in sorted(by_parts.items()))


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its interval."""
    if len(values) < 2:
        return values[0], 0.0
    return statistics.mean(values), T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def largest(rows: Sequence[dict[str, Any]], parts: int) -> float:
    """Bytes of the largest sub-model."""
    return max(size["bytes"] for row in rows if row["parts"] == parts for size in row["sizes"])


def together(rows: Sequence[dict[str, Any]], parts: int) -> float:
    """Bytes of all sub-models."""
    return max(sum(size["bytes"] for size in row["sizes"]) for row in rows if row["parts"] == parts)


def accuracy_panel(rows: Sequence[dict[str, Any]], parts: tuple[int, ...]) -> list[str]:
    curves = accuracies(rows)
    trunk = 100 * statistics.mean(row["trunk"] for row in rows)
    lowest = min(point.mean - point.half for curve in curves for point in curve.points)
    step = 1 if lowest > 94 else 2 if lowest > 88 else 5
    low = step * math.floor(lowest / step)
    panel = Panel(*LEFT_PANEL, parts, lambda value: BOTTOM - (min(value, 100) - low) / (100 - low) * (BOTTOM - TOP))
    ticks = [(value, f"{value} %") for value in range(low, 101, step)]
    lines = [*axes(panel, ticks), *legend(panel, [curve.name for curve in curves])]
    lines += trunk_line(panel, trunk, f"{trunk:.1f} %")
    for index, curve in enumerate(curves):
        lines += drawn(panel, curve, index + 1, shift=8 * (index - 1))
    return lines


def size_panel(rows: Sequence[dict[str, Any]], parts: tuple[int, ...]) -> list[str]:
    """Megabytes on a logarithmic axis."""
    one = Curve("largest sub-model", tuple(Point(count, largest(rows, count) / 1e6) for count in parts))
    every = Curve("all together", tuple(Point(count, together(rows, count) / 1e6) for count in parts))
    trunk = size_of(source_config(), 0).bytes / 1e6
    low, high = math.log10(0.6 * min(point.mean for point in one.points)), math.log10(2 * trunk)
    panel = Panel(*RIGHT_PANEL, parts, lambda value: BOTTOM - (math.log10(value) - low) / (high - low) * (BOTTOM - TOP))
    ticks = [(10.0**power, f"{10.0**power:g} MB") for power in range(math.ceil(low), math.floor(high) + 1)]
    lines = [*axes(panel, ticks), *legend(panel, [one.name, every.name])]
    lines += trunk_line(panel, trunk, f"{trunk:.1f} MB")
    for index, curve in enumerate((one, every)):
        lines += drawn(panel, curve, index + 1)
    for point in one.points:
        lines.append(text(panel.x(point.parts), panel.y(point.mean) + 22, f"{point.mean:.2g}", "soft mid"))
    return lines


# --- how it is drawn -------------------------------------------------------------------------------------------------


def text(x: float, y: float, said: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def axes(panel: Panel, ticks: Sequence[tuple[float, str]]) -> list[str]:
    lines = []
    for value, said in ticks:
        lines.append(line(panel.left, panel.y(value), panel.right, panel.y(value), "grid"))
        lines.append(text(panel.left - 8, panel.y(value) + 4, said, "soft end"))
    lines += [text(panel.x(count), BOTTOM + 22, str(count), "mid") for count in panel.parts]
    lines.append(text((panel.left + panel.right) / 2, BOTTOM + 48, "parts N", "soft mid"))
    return lines


def trunk_line(panel: Panel, value: float, said: str) -> list[str]:
    y = panel.y(value)
    return [
        line(panel.left, y, panel.right, y, "trunk"),
        text(panel.right + 6, y - 3, "trunk", "soft"),
        text(panel.right + 6, y + 13, said, "soft"),
    ]


def legend(panel: Panel, names: Sequence[str]) -> list[str]:
    lines = []
    x = panel.left
    for index, name in enumerate(names, 1):
        lines.append(line(x, TOP - 30, x + 26, TOP - 30, f"curve c{index}"))
        lines.append(mark(x + 13, TOP - 30, index))
        lines.append(text(x + 32, TOP - 26, name))
        x += 46 + 7.2 * len(name)
    return lines


def drawn(panel: Panel, curve: Curve, index: int, shift: float = 0.0) -> list[str]:
    """A curve with its marks and intervals, moved sideways so that the bars of several do not hide each other."""
    places = [(panel.x(point.parts) + shift, panel.y(point.mean)) for point in curve.points]
    lines = [f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" class="curve c{index}"/>']
    for point, (x, y) in zip(curve.points, places, strict=True):
        if point.half:
            low, high = panel.y(point.mean - point.half), panel.y(point.mean + point.half)
            lines.append(line(x, low, x, high, f"bar c{index}"))
            lines += [line(x - 4, end, x + 4, end, f"bar c{index}") for end in (low, high)]
        lines.append(mark(x, y, index))
    return lines


def mark(x: float, y: float, index: int) -> str:
    """A circle, a square, a triangle."""
    if index == 1:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="mark c1"/>'
    if index == 2:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" class="mark c2"/>'
    corners = f"{x:.1f},{y - 5.5:.1f} {x + 5:.1f},{y + 4:.1f} {x - 5:.1f},{y + 4:.1f}"
    return f'<polygon points="{corners}" class="mark c3"/>'


if __name__ == "__main__":
    main()
