"""Whose class is whose: data counts its classes in the order of its folders, a model in the order of its logits.

Everything that compares answers with labels (export, verify, profile, train, split) asks here, so that an accuracy is
of the same images and the same classes wherever it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgevit.data.labelled import LabelledData
from edgevit.errors import UsageError

Indices = np.ndarray[Any, np.dtype[np.int64]]


def class_indices(data: LabelledData, names: Sequence[str] | None, count: int | None) -> Indices:
    """(N,) index of each image's class among a model's ``count`` classes: by name where any of ``names`` is the data's,
    else in order. A model that does not say how many there are has ``count`` None.

    UsageError for data without labels, for a class that the model does not know or knows twice, and for another number
    of classes where no name says which is which.
    """
    if data.labels is None:
        raise UsageError(f"{data.name} has no labels", hint="put every image into its class's sub-folder")
    theirs = data.classes
    if (places := _places(data, names)) is not None:
        picked: Indices = places[data.labels]
        return picked
    given = len(theirs) if theirs else int(data.labels.max(initial=-1)) + 1
    if count is not None and (given > count or (theirs and given != count)):
        raise UsageError(
            f"{data.name} has {given} classes, the artifact {count}, and their names do not match",
            hint="name the classes as edgevit info shows the labels",
        )
    return data.labels


def taken_in_order(data: LabelledData, names: Sequence[str] | None) -> bool:
    """Whether ``class_indices`` has no common name to go by."""
    return bool(names and data.classes and not set(names) & set(data.classes))


def aligned(data: LabelledData, names: Sequence[str] | None) -> LabelledData:
    """``data`` with its classes in the order of ``names``, where they are the same classes; as it is where not."""
    if data.labels is None or not names or not data.classes or sorted(names) != sorted(data.classes):
        return data
    return replace(data, labels=class_indices(data, names, len(names)), classes=tuple(names))


def in_the_order_of(data: LabelledData, names: Sequence[str] | None) -> LabelledData:
    """``data`` whose targets count their classes as ``names`` do, where any is common to both; else as it is.

    UsageError for a class of the data that is none of those, or two of them.
    """
    places = _places(data, names)
    if data.targets is None or places is None:
        return data
    return replace(data, targets=data.targets.renumbered(places), classes=tuple(names or ()))


def _places(data: LabelledData, names: Sequence[str] | None) -> Indices | None:
    """The place of each of the data's classes among ``names``; None where they are the same, or none is."""
    theirs = data.classes
    if not names or not theirs or tuple(theirs) == tuple(names) or not set(theirs) & set(names):
        return None
    return np.asarray([_place(name, data, names) for name in theirs], np.int64)


def _place(name: str, data: LabelledData, names: Sequence[str]) -> int:
    if name not in names:
        raise UsageError(f"{data.name} has a class {name!r} that the artifact does not know", hint="leave it out")
    if names.count(name) > 1:
        raise UsageError(
            f"{data.name} has a class {name!r}, which the artifact calls {names.count(name)} of its classes",
            hint="export with --labels that tell the classes apart",
        )
    return names.index(name)
