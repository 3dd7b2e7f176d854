"""Answers in files and on stdout, as spreadsheets and scripts read them, and what stays when a run ends early."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from video_files import plain, write_video

from edgevit.errors import UsageError
from edgevit.prediction.outputs import Csv, File, Wanted
from edgevit.prediction.results import Failure, Prediction
from edgevit.tasks.classify import Classes, Guess

LABELS = (
    '=HYPERLINK("http://x")',
    "+1",
    "-2+3",
    "@SUM(A1)",
    "a,b",
    'say "hi"',
    "two\nlines",
    "\tTab",
    "＝w",
    "plain",
)


def run(*args: object, stdin: bytes = b"", **more: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "edgevit.cli", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, **more)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("=1+1.png", "a.png", "é.png"):
        Image.new("L", (9, 9), 99).save(folder / name)
    (folder / "bad.png").write_text("no picture")
    return folder


def test_csv_is_rfc_4180_and_no_cell_is_a_formula(tmp_path: Path) -> None:
    output = Csv(File(str(tmp_path / "x.csv"), force=False), ("label_1", "index_1", "probability_1"))
    for index, label in enumerate(LABELS):
        output.write(Prediction(f"{label}.png", Classes((Guess(label, index, 0.25),))))
    output.write(Failure("b.png", "-b.png: broken"))
    output.end()
    output.close()
    data = (tmp_path / "x.csv").read_bytes()
    assert data.count(b"\r\n") == data.count(b"\n") == len(LABELS) + 2
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["image", "frame", "seconds", "label_1", "index_1", "probability_1", "error"]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))]
    assert rows[0][3] == "'" + LABELS[0]
    assert rows[4][3:6] == ["a,b", "4", "0.25"]
    assert rows[6][3] == "two\\nlines"
    assert rows[-1][-1] == "'-b.png: broken"


def test_both_files_say_what_json_says_and_one_line_ends_it(make_artifact, photos: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", plain(4))
    folder = make_artifact(batch=(1, 8))
    asked = ["predict", folder, photos, clip, "--every", 2, "--top", 2, "--threads", 1]
    out = tmp_path / "x.csv"
    wrote = run(*asked, "-o", out, "--jsonl", tmp_path / "x.jsonl", "--json")
    assert wrote.returncode == 1
    said = json.loads(wrote.stdout)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text("utf-8").splitlines()]
    assert [{key: value for key, value in line.items() if value is not None} for line in lines] == said
    assert all(set(line) >= {"image", "frame", "seconds"} for line in lines)
    assert set(said[0]) == {"image", "top"}
    assert [(one["frame"], one["seconds"]) for one in said if "frame" in one] == [(0, 0.0), (2, pytest.approx(0.2))]
    with out.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(said) == 6
    best = [one["top"][0]["label"] for one in said if "top" in one]
    assert [row["label_1"] for row in rows if not row["error"]] == best
    last = wrote.stderr.decode().splitlines()[-1]
    assert last == f"5 answers in {out} and {tmp_path / 'x.jsonl'}; 1 could not be read"


@pytest.mark.parametrize("how", ["--csv", "--jsonl"])
def test_a_dash_is_stdout_and_then_holds_nothing_else(make_artifact, photos: Path, how: str) -> None:
    ran = run("predict", make_artifact(), photos, how, "-", "--threads", 1)
    lines = ran.stdout.decode().splitlines()
    assert len(lines) == 4 + (how == "--csv")
    assert all(line.startswith(("{", '"')) for line in lines)
    assert ran.stdout.count(b"\r\n") == (5 if how == "--csv" else 0)


def test_what_exists_is_refused_before_the_model_is_opened_and_kept_until_there_is_an_answer(
    make_artifact, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.csv"
    out.write_text("mine")
    refused = run("predict", tmp_path / "no-model", photos, "-o", out)
    assert (refused.returncode, refused.stderr.decode().splitlines()) == (
        2, [f"error: {out} exists", "  next: choose another name, or replace it with --force"],
    )  # fmt: skip
    assert run("predict", tmp_path / "no-model", photos, "-o", out, "--force").returncode == 6
    assert out.read_text() == "mine"
    assert run("predict", make_artifact(), photos / "a.png", "-o", out, "--force").returncode == 0
    assert len(out.read_text().splitlines()) == 2


def test_contradictions_are_refused_in_words(photos: Path, tmp_path: Path) -> None:
    picture = str(photos / "a.png")
    for given in (
        {"csv": None, "jsonl": None, "out": "x.xlsx"},
        {"csv": "a.csv", "jsonl": None, "out": "b.csv"},
        {"csv": "-", "jsonl": "-", "out": None},
    ):
        with pytest.raises(UsageError):
            Wanted.of(**given, json=False, force=False)
    with pytest.raises(UsageError):
        Wanted.of("-", None, None, json=True, force=False)
    for csv_file, jsonl in ((picture, None), (str(photos), None), ("x.csv", "x.csv")):
        with pytest.raises(UsageError):
            Wanted(csv_file, jsonl, force=True).check([picture])


def test_a_disk_that_is_full_ends_it_in_words(make_artifact, photos: Path) -> None:
    ran = run("predict", make_artifact(), photos, "--csv", "/dev/full", "--threads", 1)
    assert ran.returncode == 1
    assert b"/dev/full cannot be written: no space left on device" in ran.stderr


def test_an_answer_is_in_the_file_before_the_next_picture_is_named(make_artifact, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    command = [sys.executable, "-m", "edgevit.cli", "predict", str(make_artifact(batch=(1, 8))), "-", "-o", str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        for count in (1, 2):
            process.stdin.write(f"{photos / 'a.png'}\n".encode())
            process.stdin.flush()
            until = time.monotonic() + 60
            while (not out.exists() or out.read_bytes().count(b"\n") < count) and time.monotonic() < until:
                time.sleep(0.02)
            assert out.read_bytes().count(b"\n") == count
        process.send_signal(signal.SIGKILL)
    assert [json.loads(line)["image"] for line in out.read_text().splitlines()] == [str(photos / "a.png")] * 2


def test_ctrl_c_ends_an_endless_camera_and_keeps_every_answer(make_artifact, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    program = (
        "import sys\nfrom edgevit.prediction import pyav\nfrom edgevit.cli import main\n"
        "pyav.CAMERAS.update(dict.fromkeys(pyav.CAMERAS, 'lavfi'))\nmain()"
    )
    asked = ["predict", str(make_artifact()), "camera:testsrc=rate=30:size=32x32", "-o", str(out), "--top", "1"]
    process = subprocess.Popen([sys.executable, "-c", program, *asked], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while (not out.exists() or out.stat().st_size < 5000) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    rows = list(csv.reader(out.open(newline="")))[1:]
    assert [int(row[1]) for row in rows] == list(range(len(rows)))
    # the signal may come between the last answer's being written and its being counted
    assert any(f"stopped after {count} pictures" in said.replace(",", "") for count in (len(rows), len(rows) - 1))
    assert f"what was answered is in {out}" in said


def test_a_thousand_pictures_take_no_more_memory_than_a_few(make_artifact, tmp_path: Path) -> None:
    program = (
        "import resource, sys, numpy as np, edgevit\n"
        "picture = np.zeros((600, 600, 3), np.uint8)\n"
        "with edgevit.open_predictor(sys.argv[1], threads=1) as predictor:\n"
        "    many = (picture.copy() for _ in range(int(sys.argv[2])))\n"
        "    assert sum(1 for _ in predictor.stream(many)) == int(sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    folder = str(make_artifact(batch=(1, 64)))
    few, many = (
        int(subprocess.run([sys.executable, "-c", program, folder, count], capture_output=True, check=True).stdout)
        for count in ("40", "1000")
    )
    assert many < few + 30_000  # KiB; all of them would be a million


def test_a_name_of_no_text_is_written_and_shown(make_artifact, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("L", (9, 9)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / name)
    for suffix, shown in (("csv", "caf\\xe9.png"), ("jsonl", "caf\\udce9.png")):
        ran = run("predict", make_artifact(suffix), tmp_path / name, "-o", tmp_path / f"x.{suffix}", "--threads", 1)
        assert ran.returncode == 0
        assert shown in (tmp_path / f"x.{suffix}").read_text("utf-8")
