"""How much a node may be asked at once: a credit a question, returned by answers or the node's departure.

Never by a timeout (docs/explanation/fleet.md, rule 2): a question that nobody waits for any longer may still lie in a
slow link, and another one behind it would keep that link's queue from ever running dry. Pure; times are in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

WINDOW = 2  # questions to a node that are on their way or being answered
MOST = 8  # also of a node that holds many parts: as many as its own queue takes
Q = TypeVar("Q", bound=Hashable)


class Credits(Generic[Q]):
    """The questions that one node owes an answer to."""

    def __init__(self) -> None:
        self._due: dict[Q, float] = {}  # question -> when its asker stops waiting, in the order asked

    @property
    def owed(self) -> tuple[Q, ...]:
        return tuple(self._due)

    def __len__(self) -> int:
        return len(self._due)

    def free(self, parts: int = 1) -> bool:
        """Whether a node that holds so many parts may be asked one more: a scatter takes a credit of it for each."""
        return len(self._due) < _window(parts)

    def spare(self, parts: int = 1) -> bool:
        """Whether a stuck node may be asked one beyond its window. The bus drops questions where a machine stands still
        for long, and only a later answer shows that they are lost."""
        return len(self._due) == _window(parts)

    def take(self, question: Q, due: float) -> None:
        """Count a question. One to a node without a credit is counted too, in place of the oldest beyond ``MOST``."""
        if len(self._due) > MOST:
            del self._due[next(iter(self._due))]
        self._due[question] = due

    def returned(self, question: Q, now: float) -> bool:
        """An answer came: its credit is back, and those of overdue questions asked before it, which are lost, for a
        link keeps its order. False for a question that owes nothing: a replay, or an answer after a departure."""
        if question not in self._due:
            return False
        for earlier, due in tuple(self._due.items()):
            if earlier == question:
                break
            if due < now:
                del self._due[earlier]
        del self._due[question]
        return True

    def stuck(self, now: float) -> bool:
        """Whether everything owed is overdue, so that waiting for a credit is hopeless."""
        return bool(self._due) and all(due < now for due in self._due.values())

    @property
    def last_due(self) -> float:
        """From when on it is stuck, if no answer comes before."""
        return max(self._due.values(), default=0.0)

    def departed(self, whose: Callable[[Q], bool]) -> tuple[Q, ...]:
        """Who was asked is gone: the credits of its questions are back. Those questions."""
        lost = tuple(question for question in self._due if whose(question))
        for question in lost:
            del self._due[question]
        return lost


def _window(parts: int) -> int:
    return min(max(WINDOW, parts), MOST)
