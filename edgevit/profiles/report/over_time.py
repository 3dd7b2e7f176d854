"""One row's samples over time as a figure: warm-up, throttling and outliers are marked, never left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from edgevit.profiles.monitors import MONITORS, Monitor
from edgevit.profiles.record import Process, ProfileRecord
from edgevit.profiles.report.collect import Row
from edgevit.profiles.report.figures import Figure, p50
from edgevit.profiles.report.thin import WHOLE, track

Reading = Mapping[str, float | None]


@dataclass(frozen=True)
class Stretch:
    """One process on the common time axis, in s: warm-up from ``begin`` to ``start``, samples to ``end``."""

    begin: float
    start: float
    end: float
    warm: tuple[Sequence[float], Sequence[float]]
    samples: tuple[Sequence[float], Sequence[float]]
    throttled: list[float]


def stretches(it: ProfileRecord) -> list[Stretch]:
    """The processes one after another. A sample stands at its end; opening the model takes no room."""
    found, clock, taken = [], 0.0, 0
    for process in it.processes:
        samples = it.samples_ms[taken : taken + process.samples]
        taken += process.samples
        start = clock + sum(process.warm_ms) / 1e3
        warm_at = [clock + spent / 1e3 for spent in accumulate(process.warm_ms)]
        times = _times(process, samples, start)
        end = times[-1] if times else start
        throttled = [start + second for second in throttle_times(process.monitors)]
        found.append(Stretch(clock, start, end, (warm_at, process.warm_ms), (times, samples), throttled))
        clock = end
    return found


def _times(process: Process, samples: Sequence[float], start: float) -> list[float]:
    """When each sample ended. With pauses between the calls (paced, cool) they are spread over the time that passed."""
    spent = [total / 1e3 for total in accumulate(samples)]
    passed = _passed(process.monitors)
    stretch = passed / spent[-1] if spent and spent[-1] and passed > 1.2 * spent[-1] else 1.0
    return [start + second * stretch for second in spent]


def _passed(monitors: Mapping[str, Sequence[Reading]]) -> float:
    """Seconds between the first and the last reading of the monitors."""
    seconds = [second for series in monitors.values() for reading in series if (second := reading.get("t_s"))]
    return max(seconds) - min(seconds) if seconds else 0.0


def throttle_times(monitors: Mapping[str, Sequence[Reading]]) -> list[float]:
    """Seconds after sampling began at which each monitor that saw throttling could first tell, by its own rule."""
    begun = min(
        (second for series in monitors.values() for reading in series if (second := reading.get("t_s"))), default=0
    )
    kinds = {kind.name: kind for kind in MONITORS}
    onsets = [_onset(kinds[name], series) for name, series in monitors.items() if name in kinds]
    return sorted(onset - begun for onset in onsets if onset is not None)


def _onset(monitor: type[Monitor], series: Sequence[Reading]) -> float | None:
    """Time of the first reading with which the monitor's verdict on the series so far is THROTTLED, or None."""
    known = [{name: value for name, value in reading.items() if value is not None} for reading in series]
    try:
        for count in range(1, len(known) + 1):
            if any(doubt.verdict == "THROTTLED" for doubt in monitor.doubts(known[:count], 1)):
                return known[count - 1]["t_s"]
    except (KeyError, TypeError):  # readings of another version: the verdict stands in the file, only the mark is lost
        return None
    return None


def over_time(row: Row) -> Figure:
    """Samples of one row in the order they ran."""
    it = row.stored
    if it is None:
        raise ValueError(f"{row.name} has no numbers")
    parts = stretches(it)
    times = [time for part in parts for time in part.samples[0]]
    drawn = track(times, it.samples_ms)
    data = [_warm_up(parts), *_ordinary(drawn)]
    if drawn.strays:
        data.append(_marks("outlier", drawn.strays, "@c2", "x-thin"))
    hot = [second for part in parts for second in part.throttled]
    shapes = [_shade(part) for part in parts] + [_border(part.begin) for part in parts[1:]]
    shapes += [_throttling(second) for second in hot]
    layout = {
        "xaxis": {"title": {"text": "seconds from the first warm-up run"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "latency, ms"}},
        "shapes": [*shapes, _median(p50(row), times)],
        "height": 280,
        "hovermode": "closest",
        "showlegend": True,
    }
    said = (
        f"{row.name}: {len(it.samples_ms)} samples after {sum(len(part.warm[0]) for part in parts)} of warm-up, "
        f"median {p50(row):.4g} ms, {drawn.outliers} outliers, throttling seen {len(hot)} times"
    )
    return Figure(data, layout, said)


def thinning(row: Row) -> str | None:
    """What was done to many samples before drawing, in one sentence; None when each one is a point."""
    count = len(row.stored.samples_ms) if row.stored else 0
    if count <= WHOLE:
        return None
    return (
        f"{count:,} samples: the line is the median of 500 bins of neighbours, the band their range; outliers are "
        "points (the 300 slowest)"
    )


def _warm_up(parts: Sequence[Stretch]) -> dict[str, Any]:
    points = [point for part in parts for point in zip(*part.warm, strict=True)]
    step = max(1, len(points) // WHOLE)
    found = _marks("warm-up", points[::step], "@muted", "circle-open")
    found["marker"]["size"] = 4
    return found


def _ordinary(drawn: Any) -> list[dict[str, Any]]:
    if drawn.whole:
        points = list(zip(drawn.times, drawn.mid, strict=True))
        found = _marks("sample", points, "@c1", "circle")
        found["marker"] |= {"size": 4, "opacity": 0.6}
        return [found]
    blank = {"type": "scatter", "mode": "lines", "x": _short(drawn.times), "hoverinfo": "skip", "showlegend": False}
    return [
        {**blank, "y": _short(drawn.low), "line": {"width": 0, "color": "@c1"}},
        {
            **blank,
            "y": _short(drawn.high),
            "line": {"width": 0, "color": "@c1"},
            "fill": "tonexty",
            "fillcolor": "@c1soft",
        },
        {
            **blank,
            "y": _short(drawn.mid),
            "line": {"width": 1.5, "color": "@c1"},
            "name": "median of neighbours",
            "showlegend": True,
            "hoverinfo": "x+y",
        },
    ]


def _marks(name: str, points: Sequence[tuple[float, float]], colour: str, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": _short(time for time, _ in points),
        "y": _short(value for _, value in points),
        "marker": {"color": colour, "symbol": symbol, "size": 8, "line": {"width": 1.5, "color": colour}},
        "hovertemplate": f"{name} at %{{x:.2f}} s: %{{y:.4g}} ms<extra></extra>",
    }


def _short(values: Any) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _shade(part: Stretch) -> dict[str, Any]:
    return {
        "type": "rect", "xref": "x", "yref": "paper", "x0": part.begin, "x1": part.start, "y0": 0, "y1": 1,
        "fillcolor": "@shade", "line": {"width": 0}, "layer": "below",
    }  # fmt: skip


def _border(at: float) -> dict[str, Any]:
    line = {"color": "@muted", "width": 1}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line}


def _throttling(at: float) -> dict[str, Any]:
    return {
        "type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1,
        "line": {"color": "@bad", "width": 2, "dash": "dashdot"},
        "label": {"text": " throttled", "textposition": "end", "textangle": 0, "xanchor": "left", "yanchor": "top",
                  "font": {"color": "@bad", "size": 12}},
    }  # fmt: skip


def _median(value: float, times: Sequence[float]) -> dict[str, Any]:
    line = {"color": "@ink", "width": 1, "dash": "dash"}
    begin, end = (times[0], times[-1]) if times else (0.0, 0.0)
    return {"type": "line", "x0": begin, "x1": end, "y0": value, "y1": value, "line": line}
