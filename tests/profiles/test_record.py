"""The one schema of a profile: what is written is what is read, today's and that of earlier versions."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from report_rows import DEVICE, artifact, measure, run, samples

from edgevit.errors import BadArtifact
from edgevit.profiles import latency
from edgevit.profiles.layers import Layers
from edgevit.profiles.measured import Conditions, Profile
from edgevit.profiles.record import LISTED, ProfileRecord
from edgevit.profiles.stored import read
from edgevit.profiles.verdict import Finding
from edgevit.proof.accuracy import FileAccuracy
from edgevit.runtimes.base import LayerTime

FIRST = Path(__file__).with_name("profile_0_1_0.json")
CONDITIONS = Conditions("onnxruntime", "cpu", 1, 1, "quick", "1.31.1", "outside", "golden", precision="fp32")


def profile(artifact: str = "a") -> Profile:
    """One with everything that a profile can hold."""
    layers = Layers(source="onnxruntime", runs=20, layers=(LayerTime("patch/Conv", "Conv", "patch", "cpu", 1.5),))
    return Profile(
        artifact, CONDITIONS, DEVICE, (run(samples(3.0, 70)), run(samples(3.1, 80))),
        (Finding("UNSTABLE", "it flickers", "run again"),), files={"model.onnx": "1" * 64}, layers=layers,
        accuracy=FileAccuracy(data="digits", images=360, top1=0.975, top5=1.0, sha256="1" * 64),
    )  # fmt: skip


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    measured = profile()
    saved = latency.save(measured, tmp_path).saved
    assert saved
    assert read(saved).stored == measured.kept


def test_the_listed_object_has_the_promised_names_and_counts_its_samples() -> None:
    listed = json.loads(json.dumps(profile().record()))
    assert tuple(listed) == LISTED
    assert listed["samples"] == 150
    assert listed["verdict"] == "UNSTABLE"
    assert listed["accuracy"]["top1"] == 0.975


def test_a_file_of_the_first_version_still_opens() -> None:
    found = read(FIRST).stored
    assert (found.runtime, found.samples, found.accuracy.top1, found.layers.total_ms) == ("onnxruntime", 70, 0.975, 1.5)
    assert found.processes[0].monitors["cpu frequency"] == [{"t_s": 0.0, "mhz": 2400.0, "cap_mhz": 2400.0}]
    assert found.key == json.loads(FIRST.read_text())["key"]
    assert not found.lacks()


def test_a_file_of_a_later_version_of_the_same_format_opens(tmp_path: Path) -> None:
    known = json.loads(FIRST.read_text())
    path = tmp_path / "later.json"
    path.write_text(
        json.dumps(
            {
                **known,
                "carbon_g": 1.0,
                "accuracy": {**known["accuracy"], "top9": 1.0},
                "layers": {**known["layers"], "fused": True},
            }
        )
    )
    assert read(path).stored == read(FIRST).stored


@pytest.mark.parametrize("name", ["precision", "accuracy", "reasons"])
def test_a_file_that_does_not_state_a_listed_figure_is_known_to_lack_it(tmp_path: Path, name: str) -> None:
    known = json.loads(FIRST.read_text())
    path = tmp_path / "older.json"
    path.write_text(json.dumps({key: value for key, value in known.items() if key != name}))
    assert read(path).stored.lacks() == {name}


def test_no_key_or_count_in_a_file_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(json.loads(FIRST.read_text()) | {"key": "000000000000", "samples": 10**6}))
    assert read(path).stored.key == read(FIRST).stored.key
    assert read(path).stored.samples == 70


@pytest.mark.parametrize("ms", ["NaN", "Infinity", "-1.0"])
def test_a_layer_takes_a_time_that_can_be(tmp_path: Path, ms: str) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(FIRST.read_text().replace('"ms": 1.5', f'"ms": {ms}'))
    with pytest.raises(BadArtifact, match=r"is damaged: layers.layers: value error, patch/conv took"):
        read(path)


def test_a_folder_whose_name_is_no_utf_8_is_kept_readable(tmp_path: Path) -> None:
    kept = profile(os.fsdecode(b"caf\xe9")).kept
    assert kept.artifact == r"caf\xe9"
    assert ProfileRecord.model_validate_json(kept.model_dump_json()) == kept


def test_a_measured_artifact_writes_one_that_a_report_opens(tmp_path: Path) -> None:
    path = measure(artifact(tmp_path / "a"), run(samples(3.0)))
    assert read(path).stored.p50_interval95_ms[0] < read(path).stored.p50_ms < read(path).stored.p50_interval95_ms[1]


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_is_refused_in_a_sentence_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.json"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero")}[kind]()
    with pytest.raises(BadArtifact, match=rf"odd\.json: a .*{kind}"):
        read(path)
