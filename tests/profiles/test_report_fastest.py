"""The report's answer to "which is fastest?": what was measured in turns, of artifacts as they are now."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from report_rows import NOW, artifact, ranked

from edgevit.profiles.ranking import stored
from edgevit.profiles.report import report
from edgevit.profiles.report.collect import collect
from edgevit.profiles.report.fastest import intervals

FAST, SAME, SLOW = [1.0] * 9, [1.0 + 0.001 * n for n in range(9)], [1.3 + 0.01 * n for n in range(9)]
LATER = NOW + datetime.timedelta(hours=1)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Two that tie and one that is slower, ranked."""
    folders = [artifact(tmp_path / name, size=size) for name, size in (("slow", 10), ("fast", 20), ("same", 30))]
    ranked(*[[SLOW, FAST, SAME]] * 2, folders=folders)
    return folders


def told(*folders: Path) -> dict[str, Any]:
    return dict(json.loads(str(report(list(folders), format="json"))))


def test_every_format_ends_with_the_same_answer(three: list[Path], tmp_path: Path) -> None:
    (found,) = told(tmp_path)["rankings"]
    answer = found["answer"]
    assert answer.startswith("no difference larger than 2 % can be claimed between fast and same (same ÷ fast = 1.004")
    assert answer.endswith("the other one is slower")
    assert [(one["label"], one["place"]) for one in found["standings"]] == [("fast", 1), ("same", 1), ("slow", 3)]
    *_, last = [line for line in str(report([tmp_path], format="md")).splitlines() if line]
    assert last == f"**{answer}**"
    page = Path(report([tmp_path], tmp_path / "r.html")).read_text()
    assert page.count(answer) >= 3  # on top, at the end, and for those who cannot see the plot
    assert page.index('id="provenance"') < page.index('id="fastest"') < page.index('id="terms"')


def test_what_was_exported_anew_since_is_left_out_and_said(three: list[Path], tmp_path: Path) -> None:
    (three[1] / "model.onnx").write_bytes(b"\1" * 20)
    manifest = json.loads((three[1] / "edgevit.json").read_text())
    manifest["files"]["model.onnx"] = hashlib.sha256(b"\1" * 20).hexdigest()
    (three[1] / "edgevit.json").write_text(json.dumps(manifest))
    found = told(tmp_path)
    (left,) = found["rankings"]
    assert [one["label"] for one in left["standings"]] == ["same", "slow"]
    assert left["answer"].startswith("same is the fastest of 2")
    assert sum("exported anew since" in sentence for sentence in found["problems"]) == 1


def test_where_one_alone_is_left_nothing_is_ranked(three: list[Path]) -> None:
    found = told(three[0])
    assert found["rankings"] == []
    assert any(sentence.endswith("is not shown: 1 of its 3 are left") for sentence in found["problems"])


def test_machines_are_never_mixed_and_the_newest_of_one_counts(three: list[Path], tmp_path: Path) -> None:
    elsewhere = {"device": "Jetson", "environment": {"machine": "deadbeef"}}
    ranked(*[[FAST, SLOW]] * 2, folders=three[:2], now=LATER, **elsewhere)
    ranked(*[[FAST, SLOW, SLOW]] * 2, folders=three, now=LATER + datetime.timedelta(minutes=1))
    ranked(*[[SLOW, FAST]] * 2, folders=three[:2], now=NOW - datetime.timedelta(hours=1))
    found = told(tmp_path)["rankings"]
    assert sorted((one["device"], one["standings"][0]["label"]) for one in found) == [
        ("Cortex-A76, 4 cores, aarch64, Linux", "slow"),
        ("Jetson", "slow"),
    ]


def test_a_damaged_ranking_is_a_sentence_and_the_others_are_shown(three: list[Path], tmp_path: Path) -> None:
    (three[0] / stored.FOLDER / "0.json").write_text("{}")
    found = told(tmp_path)
    assert len(found["rankings"]) == 1
    assert any("is not a ranking of edgevit" in sentence for sentence in found["problems"])


def test_the_plot_has_a_point_and_an_interval_for_each(three: list[Path], tmp_path: Path) -> None:
    (one,) = collect([tmp_path]).rankings
    tied, slower = intervals(one).data
    assert (tied["y"], slower["y"]) == ([0, 1], [2])
    assert tied["x"][0] == 1.0
    assert slower["x"][0] - slower["error_x"]["arrayminus"][0] == pytest.approx(one.standings[2].ratio.low)
    assert {tied["marker"]["symbol"], slower["marker"]["symbol"]} == {"circle", "square-open"}


def test_the_answer_and_its_plot_are_seen_on_a_phone_in_the_dark(three: list[Path], tmp_path: Path) -> None:
    page_file = Path(report([tmp_path], tmp_path / "r.html"))
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 320, "height": 800}, color_scheme="dark").new_page()
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-plots=ready]", state="attached")
        place = page.locator("#fastest .plot")
        place.scroll_into_view_if_needed()
        place.locator(".main-svg").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        edges = place.locator(".annotation-text").evaluate_all("all => all.map(e => e.getBoundingClientRect().right)")
        assert len(edges) == 3
        assert max(edges) <= 320
        assert place.locator(".annotation-text").first.evaluate("e => getComputedStyle(e).fill") == "rgb(232, 237, 242)"
        assert page.locator("#fastest .answer").inner_text().endswith("the other one is slower")
