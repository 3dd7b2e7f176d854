"""Classes into parts: what every partition must be, that affinities are followed, and the user's own file."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import UnknownName, UsageError
from edgevit.split.options import PARTITIONS
from edgevit.split.partition import partition, read_partition

LABELS = ("cat", "dog", "car", "bus")


def figures(classes: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"centroids": random.normal(size=(classes, 3)), "confusion": random.random((classes, classes))}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 23), st.data(), st.sampled_from(PARTITIONS), st.integers(0, 5))
def test_every_class_is_in_one_part_and_sizes_differ_by_at_most_one(classes, data, method, seed):
    parts = data.draw(st.integers(1, classes))
    found = partition(classes, parts, method=method, seed=seed, **figures(classes, seed))
    assert sorted(itertools.chain(*found)) == list(range(classes))
    assert len(found) == parts
    sizes = [len(part) for part in found]
    assert max(sizes) - min(sizes) <= 1
    assert found == partition(classes, parts, method=method, seed=seed, **figures(classes, seed))


def test_another_seed_gives_another_balanced_partition():
    assert len({partition(10, 3, seed=seed) for seed in range(5)}) > 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("classes", "parts"), [(6, 2), (7, 3), (8, 3)])
def test_confusable_finds_the_best_of_all_partitions(classes, parts, seed):
    confusion = figures(classes, seed)["confusion"]
    rates = confusion / confusion.sum(axis=1, keepdims=True)
    affinity = rates + rates.T
    best = max(within_affinity(affinity, groups) for groups in all_balanced(classes, parts))
    found = partition(classes, parts, method="confusable", confusion=confusion)
    assert within_affinity(affinity, found) == pytest.approx(best)


def within_affinity(affinity, groups):
    """Sum over the pairs of classes that share a part."""
    return float(sum(np.triu(affinity[np.ix_(group, group)], 1).sum() for group in map(list, groups)))


def all_balanced(classes, parts):
    sizes = sorted(len(part) for part in np.array_split(range(classes), parts))
    for assignment in itertools.product(range(parts), repeat=classes):
        groups = [[c for c in range(classes) if assignment[c] == part] for part in range(parts)]
        if sorted(map(len, groups)) == sizes:
            yield groups


def test_similar_puts_near_centroids_together():
    near = np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], 3, axis=0)
    shuffled = np.random.default_rng(1).permutation(9)
    centroids = near[shuffled] + np.random.default_rng(2).normal(scale=0.3, size=(9, 2))
    found = partition(9, 3, method="similar", centroids=centroids)
    assert all(len({int(shuffled[one]) // 3 for one in part}) == 1 for part in found)


def test_more_parts_than_classes_are_refused():
    with pytest.raises(UsageError, match="3 classes cannot be split into 4 parts"):
        partition(3, 4)


def test_an_unknown_method_offers_the_nearest():
    with pytest.raises(UnknownName) as caught:
        partition(3, 2, method="similiar")
    assert caught.value.nearest == ("similar",)


def test_a_class_without_images_is_named():
    centroids = np.zeros((4, 2))
    centroids[2] = np.nan
    with pytest.raises(UsageError, match="classes 2 are not numbers"):
        partition(4, 2, method="similar", centroids=centroids)


@pytest.mark.parametrize("method", ["similar", "confusable"])
def test_missing_figures_are_refused(method):
    with pytest.raises(UsageError, match="needs"):
        partition(4, 2, method=method)


def test_a_file_of_labels_is_a_partition_in_its_own_order(tmp_path):
    path = tmp_path / "parts.json"
    path.write_text(json.dumps({"parts": [["bus"], ["dog", "cat", "car"]]}))
    assert read_partition(path, LABELS) == ((3,), (1, 0, 2))
    path.write_text(json.dumps({"parts": [[0, 2], [1]]}))
    assert read_partition(path, ("0", "1", "2")) == ((0, 2), (1,))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"parts": [["cat", "dog"], ["car", "cow"]]}, "names unknown classes: cow"),
        ({"parts": [["cat", "dog"], ["car", "cat", "bus"]]}, "repeats classes: cat"),
        ({"parts": [["cat"], ["car"]]}, "leaves out classes: dog, bus"),
        ({"parts": [["cat", "dog", "car", "bus"], []]}, "holds no partition"),
        ([["cat"]], "holds no partition"),
    ],
)
def test_a_file_that_is_no_partition_is_refused_by_its_fault(tmp_path, content, sentence):
    path = tmp_path / "parts.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=sentence):
        read_partition(path, LABELS)


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.json: no such file or directory"):
        read_partition(tmp_path / "none.json", LABELS)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UsageError, match=r"broken\.json: not a partition: "):
        read_partition(tmp_path / "broken.json", LABELS)


def test_partition_loads_no_torch():
    code = "import sys, edgevit.split.partition; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
