"""Rows of a report: which measurement counts, why others have no numbers, what may be ranked; Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_rows import DEVICE, NOW, artifact, gallery, measure, run, samples

from edgevit.artifact.manifest import Parity
from edgevit.artifact.opened import Artifact
from edgevit.errors import UnknownName, UsageError
from edgevit.printable import printable
from edgevit.profiles.report import report
from edgevit.profiles.report.collect import Collection, collect
from edgevit.profiles.report.figures import p50
from edgevit.profiles.report.groups import front, groups_of, letter, separation

LATER = NOW + datetime.timedelta(hours=1)


def only(found: Collection) -> Any:
    (row,) = found.rows
    return row


# Folders.


def test_artifacts_are_found_below_a_parent_and_named_apart(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        measure(artifact(tmp_path / parent / "same"), run(samples(3)))
    artifact(tmp_path / ".same.building-1")
    assert [row.name for row in collect([tmp_path]).rows] == ["x/same", "y/same"]
    assert [row.name for row in collect([tmp_path / "x" / "same", tmp_path / "x"]).rows] == ["same"]


def test_a_folder_without_artifacts_is_said_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    artifact(tmp_path / "a")
    found = collect([tmp_path / "a", tmp_path / "empty"])
    assert found.problems == (f"{tmp_path / 'empty'} holds no artifact",)
    with pytest.raises(UsageError, match="no artifact in"):
        collect([tmp_path / "empty"])
    with pytest.raises(UsageError, match="is not a folder: it does not exist"):
        collect([tmp_path / "absent"])


def test_an_empty_result_names_each_folder_and_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        collect([tmp_path / "empty", tmp_path / "file", tmp_path / "absent"])
    for said in ("empty holds no artifact", "file is not a folder;", "absent is not a folder: it does not exist"):
        assert said in str(caught.value)
    assert "edgevit export makes one" in str(caught.value.hint)


def test_a_folder_that_is_not_there_leaves_the_others_their_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(artifact(tmp_path / "a"), run(samples(3)))
    (tmp_path / "loop").symlink_to("loop")
    text = report([tmp_path / "absent", tmp_path / "a", tmp_path / "loop"], format="md")
    assert "| a |" in str(text)
    assert "absent is not a folder: it does not exist" in capsys.readouterr().err
    assert "loop is not a folder" in str(text)


def test_artifacts_without_measurements_are_explained_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcde":
        artifact(tmp_path / name)
    report([tmp_path], format="csv")
    said = " ".join(capsys.readouterr().err.split())
    assert "no measurement to show (a: not measured yet" in said
    assert "and 2 more): edgevit profile" in said
    measure(tmp_path / "a", run(samples(3)))
    report([tmp_path], format="csv")
    assert "no measurement" not in capsys.readouterr().err


def test_a_fault_that_nobody_thought_of_in_one_folder_does_not_end_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(artifact(tmp_path / "a"), run(samples(3)))
    broken = artifact(tmp_path / "b")
    opened = Artifact.check_files

    def fails(self: Artifact, **how: Any) -> None:
        if self.path == broken:
            raise OSError(5, "Input/output error")
        opened(self, **how)

    monkeypatch.setattr(Artifact, "check_files", fails)
    good, bad = collect([tmp_path]).rows
    assert good.stored
    assert bad.reason == "OSError: [Errno 5] Input/output error"


@pytest.mark.parametrize("name", ["edgevit.json", "profiles/29990101T000000Z-odd.json", "model.onnx", "profiles"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop"])
def test_an_odd_thing_in_place_of_a_file_is_a_sentence_and_the_others_go_on(
    tmp_path: Path, name: str, kind: str
) -> None:
    measure(artifact(tmp_path / "a"), run(samples(3)))
    path = artifact(tmp_path / "b") / name
    measure(tmp_path / "b", run(samples(3)))
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero")}
    make.get(kind, lambda: path.symlink_to(path.name))()
    found = collect([tmp_path / "a", tmp_path / "b"])
    assert found.rows[0].stored
    assert all("\n" not in problem for problem in found.problems)


# Which measurement counts.


def test_the_newest_measurement_of_a_kind_is_shown(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a")
    measure(folder, run(samples(3)), now=LATER)
    measure(folder, run(samples(5)), now=NOW)
    row = only(collect([folder]))
    assert p50(row) == pytest.approx(3, rel=0.05)
    assert row.measurement.measured == "2026-01-02 04:04:05"


@pytest.mark.parametrize(
    "other", [{"threads": 2}, {"batch": 4}, {"tier": "standard"}, {"runtime": "openvino"}, {"scenario": "offline"}]
)
def test_other_conditions_are_another_row(tmp_path: Path, other: dict[str, Any]) -> None:
    folder = artifact(tmp_path / "a")
    measure(folder, run(samples(3)))
    measure(folder, run(samples(3)), now=LATER, **other)
    assert len(collect([folder]).rows) == 2


# Rows without numbers.


def test_an_unverified_artifact_has_its_reason_and_no_numbers(tmp_path: Path) -> None:
    waiting = Parity(status="unverified", reason="needs an NVIDIA GPU (SM 8.9)", tolerance=1e-3)
    folder = artifact(tmp_path / "a", parity=waiting)
    measure(folder, run(samples(3)))
    row = only(collect([folder]))
    assert (row.verdict, row.reason, row.stored) == ("NOT MEASURED", "needs an NVIDIA GPU (SM 8.9)", None)


def test_a_failed_artifact_says_why(tmp_path: Path) -> None:
    row = only(
        collect([artifact(tmp_path / "a", parity=Parity(status="failed", reason="outputs differ", tolerance=1))])
    )
    assert (row.verdict, row.reason) == ("FAILED", "failed verification: outputs differ")


def test_a_crashed_measurement_says_why(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a")
    measure(folder)
    row = only(collect([folder]))
    assert (row.verdict, row.stored) == ("FAILED", None)
    assert row.reason == "the worker died with SIGSEGV; run it again"


def test_what_nobody_measured_says_so_and_what_cannot_run_here_says_why(tmp_path: Path) -> None:
    assert only(collect([artifact(tmp_path / "a")])).reason == "not measured yet: edgevit profile measures it"
    assert only(collect([artifact(tmp_path / "b", target="of_another_world")])).reason == (
        "not measured: no runtime for of_another_world is installed"
    )


def test_a_changed_file_takes_the_numbers_away(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a")
    measure(folder, run(samples(3)))
    (folder / "model.onnx").write_bytes(b"other")
    assert "was altered" in only(collect([folder])).reason


def test_a_measurement_of_other_files_is_not_shown(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a")
    measure(folder, run(samples(3)), extra={"files": {"model.onnx": "f" * 64}})
    row = only(collect([folder]))
    assert (row.stored, row.reason) == (None, "its files changed after this measurement: profile again")


def test_an_unreadable_manifest_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    measure(artifact(tmp_path / "a"), run(samples(3)))
    (artifact(tmp_path / "b") / "edgevit.json").write_text("{")
    good, bad = collect([tmp_path]).rows
    assert good.stored
    assert "is not JSON" in bad.reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a profile of edgevit"),
        ('{"p50_ms": 3}', "is not a profile of edgevit"),
        ('{"format": 0, "latency": 3}', "is in profile format 0; this edgevit reads"),
        ('{"format": 1, "runtime": 7}', "is damaged: runtime:"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_foreign_profile_is_one_sentence_and_the_others_go_on(tmp_path: Path, text: str, said: str) -> None:
    folder = artifact(tmp_path / "a")
    measure(folder, run(samples(3)))
    (folder / "profiles" / "29990101T000000Z-alien.json").write_text(text)
    found = collect([folder])
    assert only(found).stored
    (problem,) = found.problems
    assert said in problem
    assert "\n" not in problem


@pytest.mark.parametrize("change", [{"p50_ms": float("nan")}, {"samples_ms": [1.0]}, {"verdict": "GREAT"}])
def test_a_damaged_profile_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = artifact(tmp_path / "a")
    measure(folder, run(samples(3)), extra=change)
    row = only(collect([folder]))
    assert row.stored is None
    assert "is damaged" in row.reason


# Ranking.


def test_different_conditions_are_different_groups_and_the_field_is_named(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a")
    measure(folder, run(samples(3)))
    measure(folder, run(samples(2)), now=LATER, threads=2)
    measure(artifact(tmp_path / "b"), run(samples(4)))
    first, second = groups_of(collect([tmp_path]).rows)
    assert [row.name for row in first.rows] == ["a", "b"]
    assert separation([first, second]) == ["B is not ranked against A: it differs in threads (2 instead of 1)"]


def test_a_forged_key_joins_no_group(tmp_path: Path) -> None:
    honest = measure(artifact(tmp_path / "a"), run(samples(3)))
    key = json.loads(honest.read_text())["key"]
    measure(artifact(tmp_path / "b"), run(samples(1)), threads=8, extra={"key": key})
    assert len(groups_of(collect([tmp_path]).rows)) == 2


def test_another_device_is_another_group(tmp_path: Path) -> None:
    from dataclasses import replace

    measure(artifact(tmp_path / "a"), run(samples(3)))
    measure(artifact(tmp_path / "b"), run(samples(3)), environment=replace(DEVICE, cpu="Cortex-A55"))
    (sentence,) = separation(groups_of(collect([tmp_path]).rows))
    assert "device (Cortex-A55, 4 cores, aarch64, Linux instead of Cortex-A76" in sentence


def test_the_front_holds_what_nothing_beats_and_only_steady_rows(tmp_path: Path) -> None:
    for name, ms, size in (("fast", 2, 3000), ("small", 4, 1000), ("worse", 5, 2000), ("equal", 4.5, 1000)):
        measure(artifact(tmp_path / name, size=size), run(samples(ms, 700)))
    wild = tuple(sample * (1 + place % 2) for place, sample in enumerate(samples(1)))
    measure(artifact(tmp_path / "unsteady", size=10), run(wild))
    rows = collect([tmp_path]).rows
    assert {row.name for row in rows if not row.steady} == {"unsteady"}
    assert [row.name for row in front(rows, p50, lambda row: -(row.size or 0))] == ["fast", "small"]


@pytest.mark.parametrize(("number", "expected"), [(0, "A"), (25, "Z"), (26, "AA"), (701, "ZZ")])
def test_groups_have_letters(number: int, expected: str) -> None:
    assert letter(number) == expected


# Markdown, CSV, JSON.


def test_json_holds_every_row_group_and_reason(tmp_path: Path) -> None:
    found = json.loads(str(report([gallery(tmp_path)], format="json")))
    rows = {(row["artifact"], row["runtime"]): row for row in found["rows"]}
    fast = rows["fmvit_nano-onnx-fp32", "onnxruntime"]
    assert fast["p50_ms"] == pytest.approx(3.1, rel=0.02)
    assert fast["p50_ci95_ms"][0] <= fast["p50_ms"] <= fast["p50_ci95_ms"][1]
    blank = rows["vit_nano-tensorrt-fp16", None]
    assert (blank["p50_ms"], blank["reason"]) == (None, "needs an NVIDIA GPU (SM 8.9)")
    assert [group["letter"] for group in found["groups"]] == ["A", "B", "C"]
    assert found["groups"][0]["differs"] is None
    assert "runtime (tvm 0.27.0.post1 instead of onnxruntime 1.31.1)" in found["groups"][2]["differs"]
    assert {row["key"] for row in found["rows"] if row["key"]} == {group["key"] for group in found["groups"]}


def test_csv_has_one_line_for_each_row(tmp_path: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(str(report([gallery(tmp_path)], format="csv")))))
    assert len(lines) == 12
    assert {line["verdict"] for line in lines} == {"STEADY", "THROTTLED", "FAILED", "NOT MEASURED"}
    assert float(lines[0]["p50_ms"]) > 0


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", " =1", "\n=1", "\t@x", "＝1"])
def test_a_name_cannot_be_a_formula_in_a_spreadsheet(tmp_path: Path, name: str) -> None:
    artifact(tmp_path / name)
    (line,) = csv.DictReader(io.StringIO(str(report([tmp_path], format="csv"))))
    assert line["artifact"] == f"'{printable(name)}"


def test_markdown_has_a_table_for_each_key_and_says_why_they_are_apart(tmp_path: Path) -> None:
    text = str(report([gallery(tmp_path)], format="md"))
    assert text.count("| artifact | target | verdict | p50 |") == 3
    assert "- B is not ranked against A: it differs in runtime (openvino 2026.4.1 instead of" in text
    assert "| vit_nano-tensorrt-fp16 | tensorrt fp16 | NOT MEASURED | needs an NVIDIA GPU (SM 8.9) |" in text
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| ") and "onnx fp32" in line}
    assert widths == {10}


def test_a_name_cannot_break_out_of_a_markdown_cell(tmp_path: Path) -> None:
    measure(artifact(tmp_path / "a|b`<img src=x>[x](y)"), run(samples(3)))
    text = str(report([tmp_path], format="md"))
    assert "a\\|b\\`\\<img src=x\\>\\[x\\](y)" in text


def test_a_name_can_be_neither_a_link_nor_a_mention_nor_a_line_of_its_own_in_markdown(tmp_path: Path) -> None:
    artifact(tmp_path / "a").rename(tmp_path / "see www.evil.example @all\n# b\x1b[2J")
    text = str(report([tmp_path], format="md"))
    assert r"see www\.evil.example \@all \# b\\x1b\[2J" in text
    assert "\x1b" not in text


# Writing.


def test_a_report_is_written_or_given_back(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a")
    out = tmp_path / "new" / "report.md"
    assert report([folder], out, "md") == out
    assert out.read_text() == report([folder], format="md")


def test_what_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a")
    with pytest.raises(UsageError, match="is a folder"):
        report([folder], tmp_path, "md")
    with pytest.raises(UsageError, match="cannot be written"):
        report([folder], folder / "model.onnx" / "report.md", "md")
    with pytest.raises(UnknownName, match="report format"):
        report([folder], format="pdf")
