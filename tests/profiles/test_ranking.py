"""What a race may say: simulated sessions on a clock that only they move, made-up blocks, and the order of medians."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ranked import entrant, ranking
from report_rows import NOW, artifact, measure, run, samples

from edgevit.errors import BadArtifact, UnknownName, UsageError
from edgevit.profiles.interleave import Schedule, interleave, least_blocks, risk_of_pair
from edgevit.profiles.ranking import rank, stored
from edgevit.profiles.ranking.answer import COLUMNS, Ranking
from edgevit.profiles.ranking.budget import planned
from edgevit.profiles.ranking.record import content_of


def simulated(factors: Sequence[float], seed: int, noise: float = 0.05) -> Ranking:
    """Two rounds of sessions that take 10 ms × their factor, with noise and a machine that slows down meanwhile."""
    rng, names = random.Random(seed), [chr(ord("a") + place) for place in range(len(factors))]
    rounds, now = [], 0

    def call(factor: float) -> None:
        nonlocal now
        now += round(1e7 * factor * rng.lognormvariate(0, noise) * (1 + now / 1e12))

    for _ in range(2):
        calls = {name: (lambda factor=factor: call(factor)) for name, factor in zip(names, factors, strict=True)}
        plan = Schedule(blocks=20, turn_s=0, turn_runs=7, warm_runs=0, seed=rng.randrange(2**32))
        found = interleave(calls, plan, clock=lambda: now)
        rounds.append([found.block_medians(name) for name in names])
    return ranking(*rounds)


# The right answer, and how often.


@pytest.mark.parametrize("count", [2, 5, 12])
def test_equal_entrants_tie_in_at_least_95_of_100_races(count: int) -> None:
    races = [simulated([1.0] * count, seed) for seed in range(20)]
    assert sum(len(found.first) == count for found in races) >= 19
    assert sum(found.sentence().startswith("no difference larger than 2 % can be claimed") for found in races) >= 19


@pytest.mark.parametrize("count", [2, 5])
def test_one_that_takes_10_percent_less_is_found_to_be_the_fastest(count: int) -> None:
    for seed in range(10):
        found = simulated([1.1] * (count - 1) + [1.0], seed)
        assert found.standings[0].label == "abcde"[count - 1]
        assert [one.place for one in found.standings] == [1, *[2] * (count - 1)]
        assert f" is the fastest of {count}: 1." in found.sentence()
        assert all(one.ratio.low < 1.1 < one.ratio.high for one in found.standings[1:])


def test_those_who_tie_share_a_place_and_the_others_stand_behind_all_of_them() -> None:
    found = simulated([1.5, 1.0, 1.0, 1.5, 2.0], 0)
    assert [one.place for one in found.standings] == [1, 1, 3, 3, 5]
    assert {one.label for one in found.first} == {"b", "c"}
    assert found.sentence().endswith("; the other 3 are slower")


def test_a_difference_of_one_round_alone_is_not_claimed() -> None:
    fast, slow = [1.0] * 9, [1.5] * 9
    assert [one.claimed for one in ranking([fast, slow]).standings] == [False, False]
    assert [one.claimed for one in ranking([fast, slow], [fast, fast]).standings] == [False, False]
    assert [one.claimed for one in ranking([fast, slow], [fast, slow]).standings] == [False, True]
    swapped = ranking([fast, slow], [slow, fast])
    assert [one.claimed for one in swapped.standings] == [False, False]


def test_a_ranking_does_not_depend_on_the_order_of_the_entrants() -> None:
    blocks = [[1.2 + 0.01 * n for n in range(12)], [1.0] * 12, [1.7] * 12]
    one = ranking(blocks, blocks)
    names = [entrant(name) for name in "cab"]
    other = ranking(*[[blocks[2], blocks[0], blocks[1]]] * 2, entrants=names)
    assert [(it.label, it.ratio, it.place) for it in one.standings] == [
        (it.label, it.ratio, it.place) for it in other.standings
    ]


def test_intervals_hold_together_so_more_entrants_need_more_blocks() -> None:
    assert [least_blocks(count) for count in (2, 5, 12)] == [9, 9, 12]
    assert risk_of_pair(12) == pytest.approx(0.05 / 66)
    wide, narrow = simulated([1.0] * 12, 3), simulated([1.0] * 2, 3)
    assert wide.ratio(0, 1).high / wide.ratio(0, 1).low > narrow.ratio(0, 1).high / narrow.ratio(0, 1).low


# What is said.


def test_a_faster_one_in_another_precision_says_what_it_gives_for_it() -> None:
    blocks = [[1.0] * 9, [1.5] * 9]
    half = entrant("half", precision="fp16", computed="fp16", max_rel=1.2e-3, tolerance=2e-2)
    found = ranking(blocks, blocks, entrants=[half, entrant("full")])
    assert found.sentence() == (
        "half is the fastest of 2: 1.50× (95 % CI 1.50–1.50) faster than full; it computes in fp16, error 1.2e-03 of "
        "2e-02, the other in fp32, 3.0e-07 of 1e-05"
    )
    assert found.notes() == [
        "not the same computation: half in fp16, error 1.2e-03 of 2e-02, full in fp32, error 3.0e-07 of 1e-05"
    ]


def test_a_row_has_every_column_and_the_record_everything() -> None:
    blocks = [[1.0] * 9, [1.0] * 9, [3.0] * 9]
    found = ranking(blocks, blocks, left_out=[{"name": "tensorrt", "why": "needs an NVIDIA GPU"}])
    assert all(len(row) == len(COLUMNS) for row in found.rows())
    assert [row[-1] for row in found.rows()] == ["", "no difference can be claimed", "slower"]
    assert found.notes() == ["not ranked: tensorrt: needs an NVIDIA GPU"]
    record = json.loads(json.dumps(found.as_record()))
    assert record["answer"] == found.sentence()
    assert [one["place"] for one in record["standings"]] == [1, 1, 3]
    assert record["standings"][2]["ratio"] == 3.0
    assert record["left_out"] == [{"name": "tensorrt", "why": "needs an NVIDIA GPU"}]


# What is kept.


def test_a_ranking_that_is_kept_says_the_same_when_it_is_read(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    named = [entrant(str(tmp_path / name)) for name in "ab"]
    found = ranking(*[[[1.0 + 0.001 * n for n in range(9)], [1.3] * 9]] * 2, entrants=named)
    assert stored.save(found) == []
    (one,), (two,) = ((tmp_path / name / "rankings").glob("*.json") for name in "ab")
    assert one.read_text() == two.read_text()
    again = stored.ranking_of(stored.read(one))
    assert again.labels == ("a", "b")
    assert [it.ratio for it in again.standings] == [it.ratio for it in found.standings]
    (tmp_path / "gone").mkdir()
    lost = ranking([[1.0] * 9] * 2, entrants=[entrant(str(tmp_path / "no" / name)) for name in "ab"])
    assert [sentence.startswith("the ranking was not kept: ") for sentence in stored.save(lost)] == [True, True]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, "in ranking format 2; this edgevit reads 1: compare again"),
        ({"entrants": []}, "damaged: entrants"),
        ({"rounds": [{"blocks_ms": [[1.0] * 8] * 2, "p50_ms": [1, 1]}]}, "8 blocks rank nothing"),
        ({"rounds": [{"blocks_ms": [[1.0] * 9], "p50_ms": [1]}]}, "its blocks are not of all entrants"),
        ({"rounds": [{"blocks_ms": [[1.0] * 9, [0.0] * 9], "p50_ms": [1, 1]}]}, "damaged: rounds.0.blocks_ms.1.0"),
        ({"rounds": [{"blocks_ms": [[1.0] * 9, [1e999] * 9], "p50_ms": [1, 1]}]}, "damaged: rounds.0.blocks_ms.1.0"),
    ],
    ids=["newer", "nobody", "few blocks", "one missing", "no time", "no number"],
)
def test_a_file_that_is_no_ranking_is_refused_in_a_sentence(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    record = ranking([[1.0] * 9] * 2).record.model_dump(mode="json")
    (tmp_path / "r.json").write_text(json.dumps(record | change))
    with pytest.raises(BadArtifact, match=sentence):
        stored.read(tmp_path / "r.json")


def test_what_a_later_version_adds_is_left_aside(tmp_path: Path) -> None:
    record = ranking([[1.0] * 9] * 2).record.model_dump(mode="json")
    (tmp_path / "r.json").write_text(json.dumps(record | {"weather": "fine"}))
    assert stored.read(tmp_path / "r.json").entrants[0].artifact == "a"


def test_the_content_of_an_artifact_is_that_of_all_its_files() -> None:
    one = content_of({"model.onnx": "1", "golden.npz": "2"})
    assert one == content_of({"golden.npz": "2", "model.onnx": "1"})
    assert one != content_of({"model.onnx": "1", "golden.npz": "3"})


# The time of a race.


def test_slow_ones_run_once_a_turn_and_what_does_not_fit_is_left_out() -> None:
    schedule = Schedule(turn_runs=3, warm_runs=1)
    plan = planned({0: 0.001, 1: 0.3, 2: 20.0}, schedule, 15.0, strict=False)
    assert {index: (turn.warm_runs, turn.turn_runs) for index, turn in plan.turns.items()} == {0: (1, 3), 1: (0, 1)}
    assert plan.left_out == {
        2: "one call takes 20 s, 20,000 times the fastest: 9 blocks of it need 360 s of a round that has 15"
    }


def test_named_ones_and_the_two_fastest_always_take_part() -> None:
    schedule = Schedule(turn_runs=3, warm_runs=1)
    assert set(planned({0: 1.0, 1: 20.0}, schedule, 1.0, strict=False).turns) == {0, 1}
    assert set(planned({0: 1.0, 1: 20.0, 2: 30.0}, schedule, 1.0, strict=True).turns) == {0, 1, 2}


def test_those_near_the_fastest_run_alike() -> None:
    plan = planned({0: 0.4, 1: 0.5}, Schedule(turn_runs=3, warm_runs=1), 15.0, strict=False)
    assert {(turn.warm_runs, turn.turn_runs) for turn in plan.turns.values()} == {(1, 1)}


# The order of medians that were not measured in turns.


def profiled(artifact: str, p50_ms: float | None, **fields: Any) -> dict[str, Any]:
    key = {"device": "one", "threads": 1, "runtime": "onnxruntime 1.32.0", "provider": None, "options": None}
    return {"artifact": artifact, "runtime": "", "p50_ms": p50_ms, "key_fields": key | fields}


def test_medians_of_the_same_conditions_are_ranked_and_those_without_come_last() -> None:
    found = rank([profiled("a", 3.0), profiled("b", None), profiled("c", 1.0)])
    assert [record["artifact"] for record in found] == ["c", "a", "b"]
    assert rank([]) == []


def test_runtimes_are_ranked_across_with_what_is_theirs_and_nothing_else() -> None:
    other = profiled("b", 1.0, runtime="openvino 2025.4", provider="CPU", options="precision=f32")
    assert [record["artifact"] for record in rank([profiled("a", 3.0), other], across=("runtime",))] == ["b", "a"]
    with pytest.raises(UsageError, match=r"runtime is onnxruntime 1\.32\.0 for a, openvino 2025\.4 for b; provider"):
        rank([profiled("a", 3.0), other])
    with pytest.raises(UsageError, match="threads is 1 for a, 2 for b"):
        rank([profiled("a", 3.0), profiled("b", 1.0, threads=2)], across=("runtime",))
    with pytest.raises(UnknownName, match="key field 'runtimes'"):
        rank([profiled("a", 3.0), other], across=("runtimes",))
    with pytest.raises(UsageError, match="so it is no profile"):
        rank([{"artifact": "a"}])


def test_the_docs_example_ranks_profiles_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = artifact(tmp_path / "artifacts" / "vit")
    measure(made, run(samples(3)))
    later = NOW + datetime.timedelta(seconds=1)
    theirs = {"runtime": "openvino", "runtime_version": "2025.4", "provider": "CPU"}
    measure(made, run(samples(2)), now=later, **theirs)
    text = (Path(__file__).parents[2] / "docs/how-to/compare.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})
    assert [line.split()[1] for line in said.getvalue().splitlines()] == ["openvino", "onnxruntime"]
