"""How the page shows values: numbers with few digits, verdicts as a sign and a word."""

from __future__ import annotations

import math

from edgevit import render
from edgevit.profiles.report.collect import Row
from edgevit.profiles.report.markup import Markup, join, tag
from edgevit.profiles.statistics import early_stop_needs

SIGNS = {
    "STEADY": "✓",
    "UNSTABLE": "≈",
    "DRIFTING": "↗",
    "THROTTLED": "▼",
    "TOO_SHORT": "…",
    "FAILED": "✕",
    "NOT MEASURED": "–",
}
MEANINGS = {
    "STEADY": "no doubt was found",
    "UNSTABLE": "samples scatter, have two modes, or other programs took the processor meanwhile",
    "DRIFTING": "latency moved during the run",
    "THROTTLED": "the processor was slowed down by heat or power, or a CPU quota stopped the process",
    "TOO_SHORT": "too few samples for this tier",
    "FAILED": "crash, timeout, NaN, or a failed proof",
    "NOT MEASURED": "there is no measurement that may be shown; the reason is given instead",
}


def badge(verdict: str) -> Markup:
    """A verdict as a sign and a word on its colour."""
    sign = tag("span", SIGNS[verdict], class_="sign", aria_hidden="true")
    word = verdict.replace("_", " ")
    return tag("span", sign, word, class_=f"badge {verdict.lower().replace(' ', '-').replace('_', '-')}")


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant ones, no exponent: 0.0123, 12.3, 1,234."""
    if value is None:
        return "—"
    size = abs(value)
    if size >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if 0 < size < 1e-4:
        return f"{value:.1e}"
    places = digits - 1 - math.floor(math.log10(size)) if size else 0
    return f"{value:.{max(0, places)}f}"


def percentile(row: Row, name: str, value: float | None) -> tuple[Markup, float | None]:
    """A percentile, or how many samples it needs."""
    if value is None:
        return tag("span", f"needs ≥ {early_stop_needs(float(name[1:]) / 100)}", class_="small"), None
    return join(number(value)), value


def median_cell(row: Row, slowest: float) -> tuple[Markup, float | None]:
    """The median with its 95 % interval and a bar, whose full length is the group's slowest."""
    it = row.stored
    if it is None or it.p50_ms is None:
        return join("—"), None
    low, high = it.p50_interval95_ms or (None, None)
    interval = "no interval" if low is None else f"{number(low)}–{number(high)}"
    bar = tag("span", class_="bar", style=f"--share:{it.p50_ms / slowest if slowest else 0:.3f}", aria_hidden="true")
    value = tag("span", number(it.p50_ms), class_="main")
    return join(value, tag("span", interval, class_="small", title="95 % confidence interval"), bar), it.p50_ms


def quality_cell(row: Row) -> tuple[Markup, float | None]:
    found = row.quality
    if found is None:
        return join("—"), None
    whose = row.quality_of.removeprefix("source ")
    value = tag("span", found.figure(), title=found.sentence(row.quality_of))
    return join(value, tag("span", f"{whose}, {found.data}", class_="small")), found.value


def error_cell(row: Row) -> tuple[Markup, float | None]:
    """The proof: largest error, and the tolerance it was held against."""
    parity = row.manifest.parity if row.manifest else None
    if parity is None or parity.max_rel is None:
        return join("—"), None
    allowed = tag("span", f"of {parity.tolerance:.0e}", class_="small")
    return join(f"{parity.max_rel:.1e}", allowed), parity.max_rel


def size_cell(row: Row) -> tuple[Markup, float | None]:
    return join(render.si(row.size, "B") if row.size is not None else "—"), row.size


def memory_cell(row: Row) -> tuple[Markup, float | None]:
    used = row.stored.peak_rss_bytes if row.stored else None
    return join(render.si(used, "B") if used is not None else "—"), used


def rate_cell(row: Row) -> tuple[Markup, float | None]:
    rate = row.stored.throughput if row.stored else None
    return join(number(rate, 4)), rate
