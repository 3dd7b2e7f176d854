"""Which medians may be put in one order at all: those measured under the same conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from edgevit.errors import UnknownName, UsageError

Record = TypeVar("Record", bound=Mapping[str, Any])
# what a runtime brings along: its own names of the same device, and its own settings
COMES_WITH: Mapping[str, tuple[str, ...]] = {"runtime": ("provider", "options")}


def rank(records: Sequence[Record], *, across: Sequence[str] = ()) -> list[Record]:
    """Profile records (profiles/*.json as objects) by p50: the fastest first, those without a p50 last.

    ``across`` names key fields that may differ because they are what is compared, for example "runtime", which brings
    its provider and options along. UsageError when any other field of the comparability key differs: the sentence names
    the fields and who has which value. UsageError for what is no profile record, UnknownName for a field that none has.
    """
    _check(records)
    differ = differing_fields(records)
    known = dict.fromkeys(name for record in records for name in record["key_fields"])
    if records and (unknown := [name for name in across if name not in known]):
        raise UnknownName("key field", unknown[0], known)
    free = {*across, *(name for field in across for name in COMES_WITH.get(field, ()))}
    if cut := {name: values for name, values in differ.items() if name not in free}:
        sentences = [f"{name} is {_who_has(values)}" for name, values in cut.items()]
        raise UsageError(
            f"these figures are not ranked against each other: {'; '.join(sentences)}",
            hint="profile them again under the same conditions, or name what is compared in across",
        )
    return sorted(records, key=lambda record: (record["p50_ms"] is None, record["p50_ms"] or 0.0))


def _check(records: Sequence[Mapping[str, Any]]) -> None:
    for record in records:
        if lacking := [name for name in ("artifact", "key_fields", "p50_ms") if name not in record]:
            raise UsageError(
                f"a record has no {lacking[0]}, so it is no profile", hint="give the objects in profiles/*.json"
            )


def differing_fields(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """Key fields in which profile records differ: field -> value -> the artifacts that have it. A field that an older
    record lacks differs as "not recorded"."""
    fields = dict.fromkeys(name for record in records for name in record["key_fields"])
    found = {}
    for name in fields:
        values: dict[str, list[str]] = {}
        for record in records:
            values.setdefault(str(record["key_fields"].get(name, "not recorded")), []).append(str(record["artifact"]))
        if len(values) > 1:
            found[name] = values
    return found


def _who_has(values: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{value} for {' and '.join(dict.fromkeys(names))}" for value, names in values.items())
