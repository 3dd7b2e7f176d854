"""Which figures may be ranked at all: those measured under the same conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from edgevit.errors import UsageError

Record = TypeVar("Record", bound=Mapping[str, Any])


def rank(records: Sequence[Record], *, across: Sequence[str] = ()) -> list[Record]:
    """Profile records (``Profile.full_record()``, or profiles/*.json) by p50: the fastest first, those without a p50
    last.

    ``across`` names key fields that may differ because they are what is compared, for example "runtime". UsageError
    when any other field of the comparability key differs: the sentence names the fields and who has which value.
    """
    differ = {name: values for name, values in differing_fields(records).items() if name not in across}
    if differ:
        sentences = [f"{name} is {_who_has(values)}" for name, values in differ.items()]
        raise UsageError(
            f"these figures are not ranked against each other: {'; '.join(sentences)}",
            hint="profile them again under the same conditions, or use edgevit compare",
        )
    return sorted(records, key=lambda record: (record["p50_ms"] is None, record["p50_ms"] or 0.0))


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
