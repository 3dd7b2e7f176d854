"""Plots as data: thinning keeps what is true, marks stand where they belong, names and colours are safe."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_rows import artifact, blocks, measure, run, samples

from edgevit.pages import style
from edgevit.profiles.report import breakdown, figures, thin
from edgevit.profiles.report.collect import Row, collect
from edgevit.profiles.report.groups import groups_of
from edgevit.profiles.report.over_time import over_time, stretches, thinning


def row_of(folder: Path, *runs: Any, **given: Any) -> Row:
    measure(artifact(folder), *runs, **given)
    (row,) = collect([folder]).rows
    return row


# Thinning.


def test_few_samples_are_all_in_the_distribution() -> None:
    assert thin.ecdf([3.0, 1.0, 2.0, 2.0]) == ([1.0, 2.0, 2.0, 3.0], [25.0, 50.0, 75.0, 100.0])


def test_a_thinned_distribution_lies_on_the_true_one_and_keeps_the_tail() -> None:
    taken = np.random.default_rng(0).lognormal(1, 0.5, 100_000)
    values, shares = thin.ecdf(taken.tolist())
    assert len(values) <= thin.STEPS + thin.TAIL + 1
    ordered = np.sort(taken)
    true = np.searchsorted(ordered, values, side="right") / len(taken) * 100
    assert np.allclose(shares, true)
    assert max(np.diff([0.0, *shares])) <= 0.11
    assert values[-thin.TAIL :] == ordered[-thin.TAIL :].tolist()


def test_no_outlier_is_lost_when_many_samples_are_drawn() -> None:
    taken = [10.0 + 0.001 * (place % 7) for place in range(50_000)]
    for place in (17, 20_000, 49_999):
        taken[place] = 30.0
    drawn = thin.track([float(place) for place in range(50_000)], taken)
    assert not drawn.whole
    assert drawn.strays == [(17.0, 30.0), (20_000.0, 30.0), (49_999.0, 30.0)]
    assert (min(drawn.low), max(drawn.high)) == (10.0, 10.006)
    assert len(drawn.mid) == thin.BINS


def test_what_was_thinned_is_said(tmp_path: Path) -> None:
    assert thinning(row_of(tmp_path / "few", run(samples(3)))) is None
    said = thinning(row_of(tmp_path / "many", run(samples(3, 5000))))
    assert said
    assert said.startswith("5,000 samples")


# Over time.


def traces(figure: figures.Figure) -> dict[str, Any]:
    return {trace["name"]: trace for trace in figure.data}


def test_warm_up_comes_before_the_samples_and_outliers_are_marked(tmp_path: Path) -> None:
    taken = list(samples(10.0, 300))
    taken[100] = 50.0
    drawn = over_time(row_of(tmp_path / "a", run(tuple(taken))))
    found = traces(drawn)
    assert set(found) == {"warm-up", "sample", "outlier"}
    assert max(found["warm-up"]["x"]) <= min(found["sample"]["x"])
    assert found["outlier"]["y"] == [50.0]
    assert len(found["sample"]["x"]) == 299
    assert drawn.layout["shapes"][0]["x1"] == pytest.approx(max(found["warm-up"]["x"]), rel=1e-4)


def test_processes_stand_one_after_another(tmp_path: Path) -> None:
    row = row_of(tmp_path / "a", run(samples(10.0, 100)), run(samples(10.0, 200)))
    assert row.stored
    first, second = stretches(row.stored)
    assert second.begin == first.end
    assert second.start > second.begin
    assert [len(part.samples[0]) for part in (first, second)] == [100, 200]


def test_throttling_is_marked_when_it_began(tmp_path: Path) -> None:
    clock = [{"t_s": 100.0 + t, "mhz": 2000.0, "cap_mhz": 2000.0 if t < 3 else 1000.0} for t in range(6)]
    row = row_of(tmp_path / "a", run(samples(10.0, 500), clock=clock))
    assert row.verdict == "THROTTLED"
    assert row.stored
    (part,) = stretches(row.stored)
    assert part.throttled == [part.start + 3.0]
    marks = [
        shape for shape in over_time(row).layout["shapes"] if "throttled" in shape.get("label", {}).get("text", "")
    ]
    assert [mark["x0"] for mark in marks] == part.throttled


def test_pauses_between_calls_stretch_the_time(tmp_path: Path) -> None:
    quiet = [{"t_s": 50.0 + t, "mhz": 2000.0, "cap_mhz": 2000.0} for t in range(21)]
    row = row_of(tmp_path / "a", run(samples(10.0, 100), clock=quiet), scenario="paced 5 fps")
    assert row.stored
    (part,) = stretches(row.stored)
    assert part.end - part.start == pytest.approx(20.0)


# Trade-offs.


def test_rows_that_are_not_steady_are_hollow_and_off_the_front(tmp_path: Path) -> None:
    measure(artifact(tmp_path / "a", model="good"), run(samples(3)))
    wild = tuple(sample * (1 + place % 2) for place, sample in enumerate(samples(1)))
    measure(artifact(tmp_path / "b", model="wild"), run(wild))
    (group,) = groups_of(collect([tmp_path]).rows)
    front, good, bad = figures.trade_off(group, figures.SIZE).data
    assert front["x"] == good["x"]
    assert good["marker"]["symbol"] == "circle"
    assert bad["marker"]["symbol"].endswith("-open")
    assert f"({group.rows[1].verdict})" in bad["text"][0]
    assert good["error_x"]["array"][0] > 0


def test_a_name_is_text_to_plotly_and_nothing_else() -> None:
    assert figures.label('<a href="//x">%{x}</a>') == '&lt;a href="//x"&gt;% {x}&lt;/a&gt;'
    assert len(figures.label("x" * 300)) == 40


# Layers.


def test_the_same_module_has_the_same_colour_on_every_target(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a")
    measure(folder, run(samples(3)), layers=blocks(1.0))
    measure(folder, run(samples(2)), layers=blocks(0.5)[::-1], runtime="openvino")
    rows = collect([folder]).rows
    cut = breakdown.break_down("vit_nano", rows, "module")
    named = ["patch_embed", *(f"blocks.{block}" for block in range(6))]
    assert list(cut.ms) == [*named, breakdown.WHOLE, breakdown.UNKNOWN]
    assert cut.ms["blocks.1"] == pytest.approx([1.0, 0.5])
    assert cut.total(0) == pytest.approx(sum(layer[-1] for layer in blocks(1.0)))
    drawn = breakdown.bars(cut, ["first", "second"])
    assert [trace["name"] for trace in drawn.data] == list(cut.ms)
    assert all(len(trace["x"]) == 2 for trace in drawn.data)
    assert len({trace["marker"]["color"] for trace in drawn.data[:7]}) == 7


def test_a_module_with_most_of_the_time_is_cut_deeper_and_the_rest_is_not(tmp_path: Path) -> None:
    stages = [(f"s{n}", "Gemm", f"stages.2.blocks.{n}.mlp.fc1", "cpu", 2.0) for n in range(4)]
    rest = [("a", "Conv", "stem.0.conv", "cpu", 1.0), ("b", "Conv", "stem.1.conv", "cpu", 1.0)]
    row = row_of(tmp_path / "a", run(samples(3)), layers=[*rest, *stages])
    cut = breakdown.break_down("vit_nano", [row], "module")
    assert cut.ms == {"stem": [2.0], **{f"stages.2.blocks.{n}": [2.0] for n in range(4)}}


def test_more_parts_than_colours_are_summed_up(tmp_path: Path) -> None:
    many = [(f"n{part}", f"Op{part}", None, "cpu", 1.0 + part) for part in range(12)]
    row = row_of(tmp_path / "a", run(samples(3)), layers=many)
    cut = breakdown.break_down("vit_nano", [row], "op")
    assert len(cut.ms) == figures.COLOURS + 1
    assert cut.ms[breakdown.OTHER] == [pytest.approx(1 + 2 + 3 + 4)]


def test_rows_without_layers_have_no_bar(tmp_path: Path) -> None:
    assert breakdown.models_with_layers([row_of(tmp_path / "a", run(samples(3)))]) == {}


# Colours.

Rgb = Sequence[float]
# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB.
BLINDNESS = {
    "none": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "protanopia": (0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998),
    "deuteranopia": (0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881),
    "tritanopia": (1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039),
}


def properties(theme: int) -> dict[str, np.ndarray[Any, Any]]:
    """Linear RGB of the page's colours: 0 light, 1 dark."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style(""))
    return {name: linear((light, dark)[theme]) for name, light, dark in found}


def linear(code: str) -> np.ndarray[Any, Any]:
    values = np.array([int(code[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """CIE L*a*b* for D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = (to_xyz @ np.clip(rgb, 0, 1)) / (0.9505, 1.0, 1.089)
    fx, fy, fz = (math.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def contrast(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """WCAG contrast ratio."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted((float(weights @ one), float(weights @ other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("eye", BLINDNESS)
def test_plot_colours_are_told_apart_by_every_eye(eye: str, theme: int) -> None:
    palette = properties(theme)
    seen = {f"c{n}": lab(np.reshape(BLINDNESS[eye], (3, 3)) @ palette[f"c{n}"]) for n in range(1, figures.COLOURS + 1)}
    apart = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in itertools.combinations(seen, 2)}
    assert min(apart.values()) >= 10, min(apart.items(), key=lambda item: item[1])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_its_background(theme: int) -> None:
    palette = properties(theme)
    for name in ("ink", "muted", "link", "good", "warn", "bad", "none"):
        for ground in ("paper", "raised", "shade"):
            assert contrast(palette[name], palette[ground]) >= 4.5, (name, ground)
    for number in range(1, figures.COLOURS + 1):
        assert contrast(palette[f"on{number}"], palette[f"c{number}"]) >= 4.5, number
