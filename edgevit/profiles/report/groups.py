"""Which rows may be ranked against each other, which field keeps the others apart, and who is ahead of whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgevit.profiles.record import Plain
from edgevit.profiles.report.collect import Row


@dataclass(frozen=True)
class Group:
    """Rows with one comparability key. ``letter`` is its short name in a report: A, B, …"""

    letter: str
    key: str
    fields: Mapping[str, Plain]
    rows: tuple[Row, ...]

    @property
    def conditions(self) -> str:
        """The fields in one line, what was chosen first, the device last."""
        it = self.fields
        shown = [
            str(it.get("runtime")),
            str(it.get("provider") or "default provider"),
            counted(it.get("threads"), "thread"),
            f"batch {it.get('batch')}",
            str(it.get("scenario")),
            f"{it.get('tier')} tier",
        ]
        return " · ".join(shown)

    def apart_from(self, other: Group) -> str:
        """The fields in which two groups differ, with both values: "threads (2 instead of 1)"."""
        names = [*self.fields, *(name for name in other.fields if name not in self.fields)]
        return ", ".join(
            f"{name} ({shown(self.fields.get(name))} instead of {shown(other.fields.get(name))})"
            for name in names
            if self.fields.get(name) != other.fields.get(name)
        )


def shown(value: Plain) -> str:
    return "unknown" if value is None else str(value)


def counted(count: object, word: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """Measured rows by key, the largest group first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.stored:
            found.setdefault(row.stored.key, []).append(row)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [
        Group(letter(number), key, members[0].stored.key_fields if members[0].stored else {}, tuple(members))
        for number, (key, members) in enumerate(ordered)
    ]


def letter(number: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA."""
    head, tail = divmod(number, 26)
    return (letter(head - 1) if head else "") + chr(ord("A") + tail)


def separation(groups: Sequence[Group]) -> list[str]:
    """Sentences that say why the groups are not ranked against each other; none for a single group."""
    return [
        f"{group.letter} is not ranked against {groups[0].letter}: it differs in {group.apart_from(groups[0])}"
        for group in groups[1:]
    ]


def front(rows: Iterable[Row], cost: Callable[[Row], float], worth: Callable[[Row], float]) -> list[Row]:
    """The Pareto front of the STEADY rows: those to which no other is better in one figure and as good in the other.

    ``cost`` is to be small and ``worth`` large. Ordered by cost.
    """
    steady = [row for row in rows if row.steady]
    ordered = sorted(steady, key=lambda row: (cost(row), -worth(row)))
    found: list[Row] = []
    for row in ordered:
        if not found or worth(row) > worth(found[-1]):
            found.append(row)
    return found
