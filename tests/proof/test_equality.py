"""What counts as the same answer, by kind of output: numbers, decisions, ranks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.artifact.manifest import OutputBound, Parity
from edgevit.proof.parity import judge
from edgevit.proof.ranked import ranks_of
from edgevit.proof.reference import Reference, read_reference, write_reference

ROWS = {"image": np.zeros((2, 1))}
LABELS = np.array([[[0, 1], [2, 2]], [[1, 1], [0, 2]]])
CLEAR = np.array([[[True, True], [True, False]], [[True, False], [True, True]]])


def judged(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float = 1e-3, **more) -> Parity:
    rows = {"image": np.zeros((len(next(iter(wanted.values()))), 1))}
    return judge({1: got}, Reference(rows, wanted, tolerance, **more), None, "fake")


# --- each output is held to its own bound ---------------------------------------------------------------------------


def test_an_output_is_held_to_its_own_tolerance_and_not_to_a_noisier_neighbours() -> None:
    wanted = {"quiet": np.ones((2, 3)), "noisy": np.ones((2, 3))}
    got = {"quiet": np.full((2, 3), 1.0001), "noisy": np.full((2, 3), 1.0001)}
    bounds = {"quiet": OutputBound(tolerance=1e-5), "noisy": OutputBound(tolerance=1e-3)}
    parity = judged(got, wanted, bounds=bounds)
    assert parity.status == "failed"
    assert parity.reason == "quiet differs by 0.0001 of its largest value, tolerance 1e-05"


# --- decisions ------------------------------------------------------------------------------------------------------


def test_a_label_map_may_differ_where_its_decision_is_within_noise() -> None:
    got = np.where(CLEAR, LABELS, (LABELS + 1) % 3)
    parity = judged({"labels": got}, {"labels": LABELS}, clear={"labels": CLEAR})
    assert parity.status == "verified"
    figures = parity.outputs["labels"]
    assert (figures.max_rel, figures.clear, figures.changed) == (0.0, 0.75, 0.25)


@pytest.mark.parametrize("place", [tuple(place) for place in np.argwhere(CLEAR)], ids=str)
def test_one_clear_value_that_differs_fails(place: tuple[int, ...]) -> None:
    got = LABELS.copy()
    got[place] = 9
    parity = judged({"labels": got}, {"labels": LABELS}, clear={"labels": CLEAR})
    assert parity.status == "failed"
    assert parity.reason == "labels differs in 1 of 6 values that are clear of noise"


def test_labels_without_margins_are_judged_by_the_share_that_differs() -> None:
    got = np.where(CLEAR, LABELS, 5)
    parity = judged({"labels": got}, {"labels": LABELS})
    assert parity.reason == "labels differs in 25.00% of its values, tolerance 0.10%"


def test_whole_numbers_kept_in_floats_are_decisions_too() -> None:
    got = np.where(CLEAR, LABELS, (LABELS + 1) % 3).astype(np.float32)
    assert judged({"o": got}, {"o": LABELS.astype(np.float64)}, clear={"o": CLEAR}).status == "verified"
    assert judged({"o": got}, {"o": LABELS.astype(np.float64)}).status == "failed"


# --- ranks ----------------------------------------------------------------------------------------------------------

SCORES = np.array([[0.9, 0.5, 0.5 - 1e-8, 0.2, 0.1], [0.8, 0.7, 0.4, 0.3, 0.3 - 1e-8]])
BOXES = np.arange(40, dtype=float).reshape(2, 5, 4)
NAMES = np.arange(10).reshape(2, 5)
RANKED = {"scores": SCORES, "boxes": BOXES, "labels": NAMES}
OWN = {
    "scores": OutputBound(tolerance=1e-5),
    "boxes": OutputBound(tolerance=1e-5),
    "labels": OutputBound(tolerance=1e-5),
}


def swapped(row: int, first: int, second: int, names: tuple[str, ...] = ("boxes", "labels")) -> dict[str, np.ndarray]:
    got = {name: value.copy() for name, value in RANKED.items()}
    for name in names:
        got[name][row, [first, second]] = got[name][row, [second, first]]
    return got


def test_scores_that_fall_in_every_row_rank_what_goes_with_them() -> None:
    found = ranks_of(RANKED)
    assert found is not None
    assert (found.scores, found.members) == ("scores", ("scores", "boxes", "labels"))
    assert ranks_of({"scores": SCORES[:, ::-1], "boxes": BOXES}) is None
    assert ranks_of({"constant": np.ones((2, 5)), "boxes": BOXES}) is None
    assert ranks_of({"scores": SCORES, "picture": np.zeros((2, 3, 8, 8))}) is None


def test_rows_whose_scores_tie_may_change_places() -> None:
    parity = judged(swapped(0, 1, 2), RANKED, bounds=OWN)
    assert parity.status == "verified"
    assert parity.outputs["boxes"].max_rel == 0.0
    assert parity.outputs["boxes"].changed == pytest.approx(0.2)
    assert parity.outputs["boxes"].clear == 1.0


def test_rows_whose_scores_differ_may_not_change_places() -> None:
    parity = judged(swapped(0, 0, 1), RANKED, bounds=OWN)
    assert parity.status == "failed"
    assert "boxes differs" in str(parity.reason)


def test_a_box_that_changes_places_without_its_label_fails() -> None:
    assert judged(swapped(0, 1, 2, ("boxes",)), RANKED, bounds=OWN).status == "failed"


def test_a_wrong_box_at_a_tied_score_fails() -> None:
    got = {name: value.copy() for name, value in RANKED.items()}
    got["boxes"][0, 1, 2] += 1.0
    assert judged(got, RANKED, bounds=OWN).status == "failed"


def test_the_last_of_all_may_be_another_of_the_same_score_and_this_is_stated() -> None:
    got = {name: value.copy() for name, value in RANKED.items()}
    got["boxes"][1, 4], got["labels"][1, 4] = 77.0, 42
    parity = judged(got, RANKED, bounds=OWN)
    assert parity.status == "verified"
    assert parity.outputs["labels"].clear == pytest.approx(0.9)


def test_no_more_than_a_tenth_of_all_ranks_is_excused() -> None:
    got = {name: value.copy() for name, value in RANKED.items()}
    got["boxes"][1, 3:], got["labels"][1, 3:] = 77.0, 42
    assert judged(got, RANKED, bounds=OWN).status == "failed"


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40))
def test_any_order_of_equal_scores_is_the_same_answer(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.integers(0, 4, (3, count)) / 4.0, axis=1)[:, ::-1] + np.linspace(1e-9, 0, count)
    wanted = {"scores": scores, "boxes": rng.normal(size=(3, count, 4))}
    if ranks_of(wanted) is None:
        return
    got = {name: value.copy() for name, value in wanted.items()}
    for row in range(3):
        order = np.lexsort((rng.random(count), -np.round(scores[row], 6)))
        got = {
            name: np.concatenate([value[:row], value[row : row + 1, order], value[row + 1 :]])
            for name, value in got.items()
        }
    assert judged(got, wanted, bounds=dict.fromkeys(wanted, OWN["scores"])).status == "verified"


def test_a_reference_is_read_as_it_was_written(tmp_path) -> None:
    wanted = Reference(ROWS, {"labels": LABELS}, 1e-3, 1e-6, OWN, {"labels": CLEAR})
    write_reference(tmp_path / "rows.npz", wanted)
    found = read_reference(tmp_path / "rows.npz", 1e-3, 1e-6, OWN)
    assert np.array_equal(found.clear["labels"], CLEAR)
    assert np.array_equal(found.outputs["labels"], LABELS)
    assert (found.bound("scores").tolerance, found.bound("other").tolerance) == (1e-5, 1e-3)


def test_what_was_decided_or_ranked_is_said_in_words() -> None:
    got = np.where(CLEAR, LABELS, (LABELS + 1) % 3)
    parity = judged(
        {"labels": got, "logits": np.ones((2, 3))},
        {"labels": LABELS, "logits": np.ones((2, 3))},
        clear={"labels": CLEAR},
    )
    assert list(parity.decisions()) == [
        "labels: 75.00% is clear of noise, all of it agrees; of all values 25.0000% differ"
    ]


# --- decisions inside the model -------------------------------------------------------------------------------------

VALUES = np.arange(1, 41, dtype=float).reshape(4, 10) / 40
HANGS = OutputBound(tolerance=1e-5, noise=1e-6, hanging=1e-3)


def hanging(got: np.ndarray, clear: np.ndarray) -> Parity:
    return judged({"o": got}, {"o": VALUES}, bounds={"o": HANGS}, clear={"o": clear})


def test_values_that_hang_on_a_decision_may_differ_and_their_share_is_stated() -> None:
    clear, got = VALUES > 0.1, VALUES.copy()
    got[0, :2] += 0.5
    parity = hanging(got, clear)
    assert parity.status == "verified"
    assert list(parity.decisions()) == [
        "o: 4 of 40 values hang on a decision too close to call, 2 of them differ, all others agree"
    ]
    assert parity.hanging() == "4 of 40 values too close to call"


def test_one_value_that_hangs_on_nothing_is_held_to_the_tolerance() -> None:
    got = VALUES.copy()
    got[3, 3] += 1e-4
    parity = hanging(got, VALUES > 0.1)
    assert parity.status == "failed"
    assert "all others agree" not in next(parity.decisions())


def test_where_hardly_anything_is_clear_and_the_rest_differs_nothing_is_proved() -> None:
    clear, got = VALUES > 0.95, VALUES.copy()
    got[0, 0] += 0.5
    parity = hanging(got, clear)
    assert parity.status == "unverified"
    assert parity.max_rel is None
    assert parity.reason == (
        "o is not proved: 95.0% of its values hang on decisions that are closer than rounding, and 1 of 40 differ "
        "from the model's"
    )
    assert hanging(VALUES, clear).status == "verified"
    within_what_the_model_does_itself = np.where(clear, VALUES, VALUES + 5e-4)
    assert hanging(within_what_the_model_does_itself, clear).status == "verified"


def test_a_top_class_of_a_row_that_hangs_may_be_another() -> None:
    logits = np.eye(4)[[0, 1, 2, 3]] * 5.0
    got = logits.copy()
    got[1] = got[1, ::-1]
    clear = np.ones(logits.shape, bool)
    clear[1] = False
    wanted = Reference({"image": np.zeros((4, 1))}, {"o": logits}, 1e-3, bounds={"o": HANGS}, clear={"o": clear})
    assert judge({1: {"o": got}}, wanted, "o", "fake").status == "verified"
    got[2] = got[2, ::-1]
    assert judge({1: {"o": got}}, wanted, "o", "fake").status == "failed"


def test_a_rank_that_hangs_may_be_of_another_and_no_other_may() -> None:
    bounds = {name: bound.model_copy(update={"hanging": 1e-3}) for name, bound in OWN.items()}
    clear = {name: np.ones(value.shape, bool) for name, value in RANKED.items()}
    clear["boxes"][0, 0] = False
    got = {name: value.copy() for name, value in RANKED.items()}
    got["boxes"][0, 0], got["labels"][0, 0], got["scores"][0, 0] = 77.0, 42, 0.95
    parity = judged(got, RANKED, bounds=bounds, clear=clear)
    assert parity.status == "verified"
    assert (parity.outputs["boxes"].turned, parity.outputs["boxes"].clear) == (1, 0.9)
    got["boxes"][1, 0] = 77.0
    assert judged(got, RANKED, bounds=bounds, clear=clear).status == "failed"


def test_scores_that_are_all_elsewhere_fail_and_are_no_accident() -> None:
    got = {**RANKED, "scores": SCORES + 3.0}
    assert judged(got, RANKED, bounds=OWN).status == "failed"
