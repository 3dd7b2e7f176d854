"""Profiles: the loop on a fake clock, verdicts on made samples, and real workers with a runtime that misbehaves."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from brief import BRIEF
from PIL import Image
from plugin import artifact_of, install

from edgevit.artifact.files import sha256_of
from edgevit.artifact.manifest import Parity
from edgevit.artifact.opened import Artifact
from edgevit.data.source import open_data
from edgevit.errors import BadArtifact, ParityFailed, UnknownName, Unsupported, UsageError
from edgevit.profiles import latency, measure, verdict
from edgevit.profiles.environment import collect
from edgevit.profiles.measure import Plan
from edgevit.profiles.measured import Conditions, Profile
from edgevit.profiles.scenarios import parse_scenario
from edgevit.profiles.verdict import Need, Run
from edgevit.proof.accuracy import model_sha256
from edgevit.runtimes import feeds

# A registered plug-in: its sessions do what the one word in model.txt says.
PLUGIN = """
import gc, os, signal, time
from itertools import groupby
import numpy as np
from edgevit.errors import UnknownName, Unsupported
from edgevit.registry import Row
from edgevit.runtimes.base import Session

class FakeSession(Session):
    runtime, provider = "fake", "cpu"
    def __init__(self, artifact, threads):
        super().__init__(artifact, threads)
        self.mode = artifact.entry.read_text()
        self.calls, self.collector = 0, []
    def _run(self, feeds):
        self.calls += 1
        self.collector.append(gc.isenabled())
        self.details["collector"] = " ".join(f"{key}:{len(list(run))}" for key, run in groupby(self.collector))
        if self.mode == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.mode == "hang" and self.calls > 3:
            time.sleep(600)
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        value = feeds["image"].reshape(len(feeds["image"]), -1)[:, :3]
        return {"logits": value * np.float32("nan") if self.mode == "nan" else value}

class Fake:
    name = "fake"
    def open(self, artifact, *, threads, provider, options):
        if provider == "gpu":
            raise Unsupported("no gpu here", hint="leave --provider out")
        for key in options:
            if key != "precision":
                raise UnknownName("option of fake", key, ("precision",))
        session = FakeSession(artifact, threads)
        session.precision = options.get("precision", session.precision)
        return session

class Reference(Fake):
    name = "reference"

FAKE = Row("fake", "fakeruntime:Fake", "fake", (), "does as told", formats=("fake",))
REFERENCE = Row("reference", "fakeruntime:Reference", "fake", (), "never timed", formats=("fake",), can_profile=False)
"""

MONITORED = latency.Tier(Plan(min_s=0.9, min_count=64, limit_s=5, warm_s=0.05, warm_cap_s=1.0))


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes = {"fake": "FAKE", "reference": "REFERENCE"}
    install(tmp_path_factory.mktemp("plugin"), "fakeruntime", PLUGIN, runtimes, monkeypatch)
    monkeypatch.setitem(latency.TIERS, "quick", BRIEF)


def make(folder: Path, mode: str = "work", **options: Any) -> Path:
    return artifact_of(folder, "fake", mode, **options)


# Real workers.


def test_a_profile_holds_samples_conditions_and_the_promised_record(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(latency.TIERS, "quick", MONITORED)
    path = make(tmp_path / "a", batch=(1, 8))
    stages: list[tuple[str, float | None]] = []
    measured = latency.profile(path, threads=1, batch=2, progress=lambda stage, part: stages.append((stage, part)))
    record = measured.record()
    assert list(record) == [
        "artifact", "runtime", "provider", "threads", "precision", "scenario", "tier", "verdict", "unmonitored",
        "p50_ms", "p90_ms", "p99_ms", "throughput", "samples", "load_ms", "first_ms", "peak_rss_bytes", "accuracy",
        "quality", "key", "reasons",
    ]  # fmt: skip
    assert (record["runtime"], record["provider"], record["threads"]) == ("fake", "cpu", 1)
    assert record["verdict"] != "FAILED"
    assert record["samples"] == len(measured.samples_ms) >= 64
    assert record["p50_ms"] >= 1.0  # the fake call spins for a millisecond
    assert record["p50_ms"] <= record["p90_ms"]
    assert record["throughput"] == pytest.approx(2 * len(measured.samples_ms) / sum(measured.samples_ms) * 1e3)
    assert record["load_ms"] > 0
    assert record["first_ms"] > 0
    assert record["peak_rss_bytes"] >= 0
    assert any(part is not None for _, part in stages)
    (saved,) = (path / "profiles").glob("*-fake-quick.json")
    kept = json.loads(saved.read_text())
    assert kept["samples_ms"] == list(measured.samples_ms)
    assert {name: kept[name] for name in record} == record
    assert kept["percentiles"]["p90"]["needs"] == 64
    assert kept["environment"]["cores"] >= 1
    assert kept["key_fields"]["batch"] == 2
    assert "load of other processes" in kept["processes"][0]["monitors"]
    assert kept["files"]["model.txt"]
    assert kept["working_memory"] == {"not_measured": "fake does not tell how much memory an inference works in"}
    Artifact.open(path).check_files()


def test_publish_pools_several_processes(fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency.TIERS, "publish", latency.Tier(Plan(0.2, 64, 5, 0.05, 10, 0.5), processes=2))
    measured = latency.profile(make(tmp_path / "a"), tier="publish", threads=1)
    assert [len(run.samples_ms) >= 64 for run in measured.runs] == [True, True]
    assert len(measured.samples_ms) == sum(len(run.samples_ms) for run in measured.runs)


def test_no_garbage_is_collected_while_samples_are_taken(fake: None, tmp_path: Path) -> None:
    measured = latency.profile(make(tmp_path / "a"), threads=1)
    (run,) = measured.runs
    timed = len(run.warm_ms) + len(run.samples_ms)
    # the first inference and the two after the samples (outputs checked, memory asked for) are not among them
    on_before, off, on_after = dict(measured.conditions.details)["collector"].split()
    assert (on_before, off) == ("True:1", f"False:{timed}")
    assert on_after.startswith("True:")


def test_a_crash_is_a_failed_profile_and_not_the_end(fake: None, tmp_path: Path) -> None:
    measured = latency.profile(make(tmp_path / "a", "segfault"))
    record = measured.record()
    assert record["verdict"] == "FAILED"
    assert "SIGSEGV" in record["reasons"][0]
    assert (record["p50_ms"], record["p99_ms"], record["load_ms"], record["throughput"]) == (None,) * 4
    assert record["samples"] == 0


def test_a_hang_is_a_failed_profile(fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = latency.worker.call
    monkeypatch.setattr(latency.worker, "call", lambda *a, timeout, **k: call(*a, timeout=3.0, **k))
    measured = latency.profile(make(tmp_path / "a", "hang"))
    assert measured.verdict == "FAILED"
    assert "did not finish within 3 s" in measured.reasons[0]


def test_nan_outputs_fail(fake: None, tmp_path: Path) -> None:
    measured = latency.profile(make(tmp_path / "a", "nan"))
    assert measured.verdict == "FAILED"
    assert "NaN" in measured.reasons[0]


def test_an_altered_artifact_and_an_absent_provider_keep_their_own_errors(fake: None, tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    with pytest.raises(Unsupported, match="no gpu here"):
        latency.profile(path, provider="gpu")
    (path / "model.txt").write_text("altered")
    with pytest.raises(BadArtifact, match="altered"):
        latency.profile(path)


def test_options_reach_the_runtime_and_what_it_computed_in_is_stated(fake: None, tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    measured = latency.profile(path, threads=1, options={"precision": "bf16"})
    assert measured.kept.precision == measured.kept.key_fields["precision"] == "bf16"
    assert measured.kept.key_fields["options"] == "precision=bf16"
    with pytest.raises(UnknownName, match="option of fake 'precison'") as caught:
        latency.profile(path, threads=1, options={"precison": "bf16"})
    assert caught.value.nearest == ("precision",)


def test_the_accuracy_of_the_file_that_was_timed_is_bound_to_its_hash(fake: None, make_artifact: Any) -> None:
    path = make_artifact()
    data = labelled(path.parent / "images")
    measured = latency.profile(path, threads=1, data=data)
    stated = measured.record()["accuracy"]
    assert stated == labelled_accuracy(path, data)
    assert stated["sha256"] == sha256_of(path / "model.onnx")
    assert (stated["images"], stated["data"], stated["top5"]) == (8, data, None)


def labelled_accuracy(path: Path, data: str) -> dict[str, Any]:
    """By ONNX Runtime directly."""
    artifact, found = Artifact.open(path), open_data(data, split="all")
    session = ort.InferenceSession(str(artifact.entry))
    assert artifact.manifest.preprocess is not None
    answers = [session.run(None, {"image": artifact.manifest.preprocess(image)[None]})[0] for image in found.images]
    right = [int(answer.argmax()) == label for answer, label in zip(answers, found.labels, strict=True)]
    return {
        "data": data,
        "images": len(right),
        "top1": sum(right) / len(right),
        "top5": None,
        "sha256": sha256_of(artifact.entry),
    }


def labelled(folder: Path) -> str:
    rng = np.random.default_rng(3)
    for name in ("ant", "bee", "cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(2):
            Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(folder / name / f"{index}.png")
    return f"folder:{folder}"


def test_images_without_labels_are_timed_and_the_missing_accuracy_is_explained(fake: None, make_artifact: Any) -> None:
    path = make_artifact()
    bare = path.parent / "bare.npz"
    np.savez(bare, images=np.zeros((2, 8, 8, 3), np.uint8))
    measured = latency.profile(path, threads=1, data=f"npz:{bare}")
    assert measured.accuracy is None
    assert any("quality was not measured" in note and "no labels" in note for note in measured.notes)
    assert measured.p50 is not None


def test_a_model_in_a_folder_is_known_by_all_of_its_files(fake: None, tmp_path: Path) -> None:
    manifest = Artifact.open(make(tmp_path / "a")).manifest
    files = {"model.ml/a": "1" * 64, "model.ml/b": "2" * 64, "golden.npz": "3" * 64}
    packaged = manifest.model_copy(update={"entry": "model.ml", "files": files})
    other = packaged.model_copy(update={"files": files | {"golden.npz": "4" * 64}})
    changed = packaged.model_copy(update={"files": files | {"model.ml/b": "4" * 64}})
    assert model_sha256(packaged) == model_sha256(other) != model_sha256(changed)


# What is refused before anything runs.


def test_what_cannot_be_measured_is_refused_first(fake: None, tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    with pytest.raises(Unsupported, match="reference"):
        latency.profile(path, runtime="reference")
    with pytest.raises(UnknownName, match="tier") as caught:
        latency.profile(path, tier="quik")
    assert caught.value.nearest == ("quick",)
    with pytest.raises(UsageError, match="batch of 1, not 3"):
        latency.profile(path, batch=3)
    with pytest.raises(UsageError, match="threads"):
        latency.profile(path, threads=0)
    with pytest.raises(UsageError, match="does not take an image"):
        latency.profile(path, data="digits")


def test_a_failed_artifact_is_refused_and_an_unverified_one_is_named(fake: None, tmp_path: Path) -> None:
    failed = Parity(status="failed", reason="outputs differ", tolerance=1e-5)
    with pytest.raises(ParityFailed, match="outputs differ"):
        latency.profile(make(tmp_path / "failed", parity=failed))
    waiting = Parity(status="unverified", reason="needs a GPU", tolerance=1e-5)
    measured = latency.profile(make(tmp_path / "waiting", "segfault", parity=waiting))
    assert "the artifact is unverified: needs a GPU" in measured.reasons


# The loop, on a clock that only inference moves.


class Bench:
    def __init__(self, times_ms: Callable[[int], float]) -> None:
        self.now, self.calls, self.times_ms = 0, 0, times_ms
        self.seen: list[float] = []

    def clock(self) -> int:
        return self.now

    def infer(self, feed: Any) -> Any:
        self.seen.append(feed["x"])
        self.now += round(self.times_ms(self.calls) * 1e6)
        self.calls += 1
        return feed


FEEDS = [{"x": 0}, {"x": 1}, {"x": 2}]


def test_samples_are_exact_and_inputs_rotate() -> None:
    bench = Bench(lambda call: 2.0 + call)
    taken = measure.sample(bench.infer, FEEDS, bench.clock, lambda ns, n: n >= 4)  # type: ignore[arg-type]
    assert list(taken) == [2_000_000, 3_000_000, 4_000_000, 5_000_000]
    assert bench.seen == [0, 1, 2, 0]


@pytest.mark.parametrize(("ms", "count"), [(1.0, 3000), (100.0, 64)])
def test_sampling_goes_on_until_both_time_and_count_are_reached(ms: float, count: int) -> None:
    bench = Bench(lambda call: ms)
    taken = measure.sample(bench.infer, FEEDS, bench.clock, measure.Reporter(Plan()).enough)  # type: ignore[arg-type]
    assert len(taken) == count


def test_sampling_ends_at_its_limit_for_a_model_that_is_too_slow() -> None:
    bench = Bench(lambda call: 10_000.0)
    taken = measure.sample(bench.infer, FEEDS, bench.clock, measure.Reporter(Plan()).enough)  # type: ignore[arg-type]
    assert len(taken) == 12


def test_a_loop_that_does_nothing_costs_little() -> None:
    assert measure.timer_overhead_ns(iter(range(0, 10**9, 25)).__next__) == 25


# Verdicts on made samples.

NEED = Need(3.0, 64)


def made(samples: list[float] | None = None, *, steady: bool = True, **series: list[dict[str, float]]) -> Run:
    rng = np.random.default_rng(0)
    chosen = samples or (10 + 0.1 * rng.standard_normal(400)).tolist()
    named = {"cpu": "load of other processes", "clock": "cpu frequency", "heat": "temperature"}
    monitors = {named[name]: readings for name, readings in series.items()}
    return Run(tuple(chosen), (10.0,) * 100, steady, 5.0, 12.0, 0.0001, 1 << 20, monitors, (), sum(chosen))


def cpu(others: float, steal: float) -> list[dict[str, float]]:
    zero = {"t_s": 0.0, "busy_s": 0.0, "own_s": 0.0, "steal_s": 0.0}
    return [zero, {"t_s": 4.0, "busy_s": 8.0, "own_s": 8.0 - 4 * others, "steal_s": steal}]


def judged(run: Run) -> tuple[str, str]:
    findings = verdict.judge(run, NEED, cores=2)
    return verdict.worst(findings), " ".join(map(str, findings))


def test_quiet_samples_are_steady() -> None:
    assert judged(made(cpu=cpu(0.05, 0.01))) == ("STEADY", "")


@pytest.mark.parametrize(
    ("run", "expected", "evidence"),
    [
        (made([10.0] * 400 + [30.0] * 9), "UNSTABLE", "2.2% of the samples are outliers"),
        (made([10.0, 10.0, 14.0] * 140), "UNSTABLE", "two modes, 10 ms and 14 ms"),
        (made(steady=False), "UNSTABLE", "warm-up did not settle in 1.0 s"),
        (made(cpu=cpu(1.0, 0)), "UNSTABLE", "other processes took 1.00 of 2 cores"),
        (made(cpu=cpu(0, 0.4)), "UNSTABLE", "the hypervisor took 5.0%"),
        (made([10.0] * 200 + [11.0] * 200), "DRIFTING", r"\+10.0%"),
        (made(heat=[{"over_c": 1.0}]), "THROTTLED", "past its throttling point"),
        (made([10.0] * 200), "TOO_SHORT", "200 samples in 2.0 s; this tier needs ≥ 64 and ≥ 3 s"),
        (made([100.0] * 63), "TOO_SHORT", "63 samples in 6.3 s"),
    ],
)
def test_each_doubt_has_its_verdict_and_evidence(run: Run, expected: str, evidence: str) -> None:
    worst, said = judged(run)
    assert worst == expected
    assert re.search(evidence, said), said


def test_a_wide_spread_is_unstable() -> None:
    samples = (10 * (1 + 0.13 * np.random.default_rng(1).standard_normal(500))).tolist()
    worst, said = judged(made(samples))
    assert worst == "UNSTABLE"
    assert "of the median" in said


def test_the_worst_verdict_wins() -> None:
    run = made([10.0] * 200 + [11.0] * 50, steady=False, heat=[{"over_c": 1.0}])
    assert judged(run)[0] == "TOO_SHORT"
    assert [verdict.worst(verdict.judge(run, Need(0, 0), 2))] == ["THROTTLED"]


def test_processes_that_disagree_are_unstable() -> None:
    assert verdict.judge_between([made([10.0] * 9), made([10.4] * 9)]) == []
    (finding,) = verdict.judge_between([made([10.0] * 9), made([10.6] * 9)])
    assert "2 processes differ by 6.0%" in finding.evidence


def test_slow_timing_is_noted() -> None:
    assert verdict.timer_note(made([0.01] * 9)) is None
    assert verdict.timer_note(made([0.001] * 9)) == "timing itself takes 10.0% of the median"


# The record.


def conditions(**changes: Any) -> Conditions:
    given = {"runtime": "fake", "provider": "cpu", "threads": 2, "batch": 1, "tier": "quick"}
    given |= {"runtime_version": "1.0", "preprocess": "outside", "inputs": "golden"}
    return Conditions(**(given | changes))


def profiled(*runs: Run, **changes: Any) -> Profile:
    return Profile("a", conditions(**changes), collect(), runs, ())


def test_summaries_come_from_the_samples() -> None:
    measured = profiled(made([10.0] * 90 + [20.0] * 10))
    assert measured.p50 == 10.0
    assert measured.p90 == 20.0
    assert measured.p99 is None
    assert "p99 needs ≥ 662 samples, there are 100: use --tier standard" in measured.reasons
    assert measured.throughput == pytest.approx(1000 / 11)


def test_processes_are_pooled_in_order() -> None:
    measured = profiled(made([10.0, 11.0]), made([12.0]))
    assert measured.samples_ms == (10.0, 11.0, 12.0)
    assert [process.samples for process in measured.kept.processes] == [2, 1]


def test_other_conditions_give_another_key_and_other_inputs_do_not() -> None:
    key = profiled().key
    for changes in (
        {"threads": 1}, {"batch": 2}, {"tier": "standard"}, {"runtime_version": "2"}, {"provider": "x"},
        {"precision": "bf16"}, {"options": (("graph_optimization", "none"),)},
    ):  # fmt: skip
        assert profiled(**changes).key != key
    assert profiled(inputs="digits").key == key


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "profiles").write_text("a file where the folder should be")
    saved = latency.save(profiled(made()), tmp_path)
    assert saved.saved is None
    assert saved.notes[0].startswith("samples were not kept")


def test_a_profile_is_named_by_time_runtime_and_tier(tmp_path: Path) -> None:
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    saved = latency.save(profiled(made()), tmp_path, now)
    assert saved.saved == tmp_path / "profiles/20260102T030405000006Z-fake-quick.json"
    assert json.loads(saved.saved.read_text())["format"] == 1


# Feeds.


def test_rows_are_batched_in_rotation() -> None:
    rows = np.arange(4)[:, None]
    assert feeds.batches(rows, 1).tolist() == [[[0]], [[1]], [[2]], [[3]]]
    assert feeds.batches(rows, 3).tolist() == [[[0], [1], [2]], [[3], [0], [1]]]
    assert feeds.batches(rows, 6).shape == (1, 6, 1)


def test_feeds_cross_to_the_worker_unchanged(tmp_path: Path) -> None:
    artifact = Artifact.open(make(tmp_path / "a"))
    calls = measure.load_feeds(feeds.write(artifact, tmp_path / "feeds.npz", batch=1))
    assert len(calls) == 4
    for row, call in enumerate(calls):
        assert np.array_equal(call["image"], artifact.golden()[0]["image"][row : row + 1])
        assert call["image"].flags["C_CONTIGUOUS"]


# Scenarios and layers, in real workers.


def test_a_server_run_says_whether_its_bound_is_kept(fake: None, tmp_path: Path) -> None:
    chosen = parse_scenario("server", qps=200, bound_ms=1000)
    measured = latency.profile(make(tmp_path / "a"), threads=1, scenario=chosen)
    assert measured.record()["scenario"] == "server 200 qps ≤ 1000 ms"
    assert measured.throughput is not None
    assert measured.throughput < 400
    assert any("1000 ms" in note for note in measured.notes)


def test_a_paced_run_counts_the_frames_that_a_slow_model_drops(fake: None, tmp_path: Path) -> None:
    measured = latency.profile(make(tmp_path / "a"), threads=1, scenario=parse_scenario(fps=1500))
    assert sum(run.dropped for run in measured.runs) > 0
    assert any("frames were dropped" in note for note in measured.notes)


def test_an_offline_run_takes_the_largest_batch(fake: None, tmp_path: Path) -> None:
    measured = latency.profile(make(tmp_path / "a", batch=(1, 8)), threads=1, scenario="offline")
    assert measured.conditions.batch == 8


def test_a_multi_stream_query_is_eight_rows_in_as_few_calls_as_fit(fake: None, tmp_path: Path) -> None:
    measured = latency.profile(make(tmp_path / "a", batch=(1, 4)), threads=1, scenario="multi-stream")
    assert (measured.conditions.batch, measured.rows_per_query) == (4, 8)
    assert measured.p50 is not None
    assert measured.p50 >= 2.0  # two calls of 1 ms


def test_scenarios_are_never_ranked_against_each_other(fake: None, tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    single, cool = (latency.profile(path, threads=1, scenario=name) for name in ("single-stream", "offline"))
    assert single.key != cool.key


def test_a_runtime_that_is_mute_about_layers_makes_a_note(fake: None, tmp_path: Path) -> None:
    measured = latency.profile(make(tmp_path / "a"), threads=1, layers=True)
    assert measured.layers is None
    assert any("fake does not tell the time of single layers" in note for note in measured.notes)


def test_layers_are_kept_with_the_samples(make_artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency.TIERS, "quick", BRIEF)
    measured = latency.profile(make_artifact(), threads=1, layers=True)
    assert measured.saved is not None
    stored = json.loads(measured.saved.read_text())["layers"]
    assert stored["source"] == "onnxruntime"
    assert stored["total_ms"] > 0
    assert "Conv" in {layer["op"] for layer in stored["layers"]}


def test_energy_of_a_short_run_is_said_not_to_be_measured(fake: None, tmp_path: Path) -> None:
    measured = latency.profile(make(tmp_path / "a"), threads=1)
    assert measured.energy == {"not_measured": "this tier is too short: use --tier standard"}
