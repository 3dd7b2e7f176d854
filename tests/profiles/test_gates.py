"""Gates: what is parsed, what is refused, and that nothing unmeasured passes."""

from __future__ import annotations

from typing import Any

import pytest

from edgevit.errors import UnknownName, UsageError
from edgevit.profiles.gates import FIGURES, Figure, Gate, figures_of, parse, parse_all
from edgevit.profiles.record import ProfileRecord


@pytest.mark.parametrize(
    ("text", "figure", "sign", "bound"),
    [
        ("p90>20ms", "p90", ">", 20.0),
        (" p99 >= 1.5 s ", "p99", ">=", 1500.0),
        ("p50>800us", "p50", ">", 0.8),
        ("P50>800µs", "p50", ">", 0.8),
        ("throughput<120", "throughput", "<", 120.0),
        ("throughput<120/s", "throughput", "<", 120.0),
        ("size>12MB", "size", ">", 12e6),
        ("memory > 300 MiB", "memory", ">", 300 * 2**20),
        ("accuracy<97%", "accuracy", "<", 0.97),
        ("accuracy<0.97", "accuracy", "<", 0.97),
        ("max_rel>1e-4", "max_rel", ">", 1e-4),
        ("verdict!=steady", "verdict", "!=", "STEADY"),
        ("parity!=verified", "parity", "!=", "verified"),
    ],
)
def test_a_condition_is_read_with_its_unit(text: str, figure: str, sign: str, bound: float | str) -> None:
    gate = parse(text)
    assert (gate.figure, gate.sign, gate.text) == (figure, sign, text.strip())
    assert gate.bound == (bound if isinstance(bound, str) else pytest.approx(bound))


@pytest.mark.parametrize("text", ["p90", "p90=20ms", ">20ms", "p90>", "p90>ms", "p90>-1ms", "p90>1.2.3ms", ""])
def test_what_is_no_condition_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("p9>20ms", "unknown figure 'p9'", "p9"),
        ("memori>20MB", "unknown figure 'memori'", "memory"),
        ("p90>20mss", "unknown unit of p90 'mss'", "ms"),
        ("size>3Mb", "unknown unit of size 'Mb'", "MB"),
        ("verdict!=STEDY", "unknown verdict 'STEDY'", "STEADY"),
    ],
)
def test_an_unknown_name_gets_the_nearest(text: str, sentence: str, hint: str) -> None:
    with pytest.raises(UnknownName, match=sentence) as caught:
        parse(text)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_number_without_its_unit_is_refused() -> None:
    with pytest.raises(UsageError, match="has no unit") as caught:
        parse("p90>20")
    assert caught.value.hint == "add one of us, µs, ms, s"
    with pytest.raises(UsageError, match="max_rel has no unit"):
        parse("max_rel>1ms")
    with pytest.raises(UsageError, match="is a word"):
        parse("parity>verified")


def test_several_are_all_read_before_anything_runs() -> None:
    assert [gate.figure for gate in parse_all(["p50>1ms", "size>1MB"])] == ["p50", "size"]
    with pytest.raises(UnknownName):
        parse_all(["p50>1ms", "colour>1"])


@pytest.mark.parametrize(
    ("sign", "missed"), [(">", [30]), (">=", [20, 30]), ("<", [10]), ("<=", [10, 20]), ("==", [20]), ("!=", [10, 30])]
)
def test_a_condition_that_holds_is_a_failure(sign: str, missed: list[int]) -> None:
    gate = parse(f"p90{sign}20ms")
    found = [value for value in (10, 20, 30) if gate.missed({"p90": Figure(float(value))})]
    assert found == missed


def test_the_sentence_gives_the_figure_in_its_unit() -> None:
    def said(text: str, value: float | str) -> str | None:
        return parse(text).missed({parse(text).figure: Figure(value)})

    assert said("p90>20ms", 23.125) == "p90 is 23.12 ms: p90>20ms"
    assert said("size>1MB", 1.23e6) == "size is 1.23 MB: size>1MB"
    assert said("accuracy<97%", 0.5) == "accuracy is 50.00%: accuracy<97%"
    assert said("throughput<100", 1.5) == "throughput is 1.5/s: throughput<100"
    assert said("verdict!=STEADY", "DRIFTING") == "verdict is DRIFTING: verdict!=STEADY"
    assert said("verdict!=STEADY", "STEADY") is None


def test_verdicts_are_ordered_by_how_bad_they_are() -> None:
    gate = parse("verdict>UNSTABLE")
    words = ("STEADY", "UNSTABLE", "DRIFTING", "THROTTLED", "TOO_SHORT", "FAILED")
    assert [bool(gate.missed({"verdict": Figure(word)})) for word in words] == [False, False, True, True, True, True]


@pytest.mark.parametrize("sign", [">", "<", "==", "!="])
def test_what_was_not_measured_never_passes(sign: str) -> None:
    for figure in FIGURES:
        gate = Gate(
            "the gate", figure, sign, "STEADY" if figure == "verdict" else "failed" if figure == "parity" else 1.0
        )
        assert gate.missed({figure: Figure(None, "no reason")}) == "the gate cannot be judged: no reason"
        assert gate.missed({}) == "the gate cannot be judged: it was not measured"
    assert parse("p50<1ms").missed({"p50": Figure(float("nan"))})


def profile(**fields: Any) -> ProfileRecord:
    estimates = {"p50": (1.0, 11), "p90": (2.0, 64), "p95": (None, 130), "p97": (None, 219), "p99": (None, 662)}
    measured = {
        "runtime": "onnxruntime", "provider": "cpu", "threads": 1, "batch": 1, "scenario": "single-stream",
        "tier": "quick", "verdict": "STEADY", "p50_ms": 0.9, "p90_ms": 2.0, "p99_ms": None, "throughput": 1000.0,
        "load_ms": 5.0, "first_ms": 3.0, "peak_rss_bytes": 30_000_000, "key_fields": {}, "environment": {},
        "percentiles": {name: {"estimate_ms": value, "needs": needs} for name, (value, needs) in estimates.items()},
        "samples_ms": [0.9] * 100,
    }  # fmt: skip
    return ProfileRecord.model_validate(measured | fields)


def test_the_figures_of_a_profile_are_its_own_fields() -> None:
    found = figures_of(profile())
    expected = {
        "p50": 0.9,
        "p90": 2.0,
        "throughput": 1000.0,
        "load": 5.0,
        "first": 3.0,
        "memory": 3e7,
        "verdict": "STEADY",
    }
    assert {name: found[name].value for name in expected} == expected


def test_too_few_samples_are_a_miss_that_says_how_many_are_needed() -> None:
    found = figures_of(profile())
    for text in ("p99>1s", "p99<1s"):
        assert parse(text).missed(found) == (
            f"{text} cannot be judged: needs ≥ 662 samples, there are 100; use --tier standard"
        )


def test_a_failed_profile_is_a_miss_with_its_reason() -> None:
    failed = profile(verdict="FAILED", reasons=["FAILED: the worker was killed by SIGSEGV"], p50_ms=None, samples_ms=[])
    assert parse("p50>1ms").missed(figures_of(failed)) == (
        "p50>1ms cannot be judged: FAILED: the worker was killed by SIGSEGV"
    )
    assert parse("memory>1MB").missed(figures_of(profile(peak_rss_bytes=None)))
