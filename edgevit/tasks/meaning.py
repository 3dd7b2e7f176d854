"""What a model's outputs mean, and whether somebody said so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgevit.artifact.manifest import TensorSpec
from edgevit.tasks.base import Task

GUESSED = "its outputs look like those of the task {}; --task says otherwise"


@dataclass(frozen=True)
class Meaning:
    """A model's task, and whether somebody said so."""

    task: Task
    said: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed, in sentences."""
        return () if self.said else (GUESSED.format(self.task.name),)

    def named(self, outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """The outputs with their roles. Unsupported where they are no answer of the task."""
        roles = self.task.roles(outputs)
        return tuple(spec.model_copy(update={"role": roles[spec.name]}) for spec in outputs)
