"""What every task says of a model's outputs, and what an answer of it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from edgevit import registry
from edgevit.artifact.manifest import Array, Role, TensorSpec
from edgevit.errors import Unsupported
from edgevit.images import Preprocess

Row = Mapping[str, Array]  # the outputs for one image, by name, without the batch axis


@dataclass(frozen=True)
class Asked:
    """What an answer is about.

    outputs  the artifact's, with their roles
    labels   names of the classes, None where they are called by their numbers
    size     height and width of the image that was asked about
    steps    how the image became the model's input
    top      how many classes, at most, are named
    """

    outputs: tuple[TensorSpec, ...]
    size: tuple[int, int]
    steps: Preprocess
    labels: tuple[str, ...] | None = None
    top: int = 5

    def label(self, index: int) -> str:
        """What a class is called."""
        return self.labels[index] if self.labels and 0 <= index < len(self.labels) else str(index)

    def one(self, row: Row, *roles: Role) -> Array | None:
        """The first output that has one of the roles."""
        return next((row[spec.name] for role in roles for spec in self.outputs if spec.role == role), None)

    def need(self, task: str, row: Row, role: Role, wanted: str = "") -> Array:
        """The same of one that the task cannot do without. Unsupported where no output has the role; ``wanted`` is what
        it is called then."""
        found = self.one(row, role)
        if found is None:
            raise unfit(task, self.outputs, wanted or role)
        return found


@dataclass(frozen=True)
class Apart:
    """How one answer differs from another about the same image.

    far      0 where they are the same, more the farther they are; of one task alone
    words    as a sentence
    picture  what differs, (H, W, 3) uint8 in the form of the answers' pictures; None where there is none to see
    """

    far: float
    words: str
    picture: Array | None = None


class Answer(Protocol):
    """What a model says about one image."""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        ...

    def words(self) -> str:
        """As one line."""
        ...

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """As lines of a table that has the task's ``columns``; those that a line lacks are empty."""
        ...

    def drawn(self, image: Array) -> Array | None:
        """As a picture, (H, W, 3) uint8, beside or over the ``image`` of that form; None where there is none to see."""
        ...

    def apart(self, other: Any, image: Array) -> Apart:
        """How ``other`` differs, which is of the same task and about the same ``image``, (H, W, 3) uint8."""
        ...


class Task(Protocol):
    """One kind of answer.

    alone   what the one output of a model that returns a single tensor is called
    draws   whether its answers are pictures, or can be seen on one
    meters  kind of target ("classes", or one of ``data.targets``) -> "module:Meter" that judges answers by it
    """

    name: str
    alone: str
    draws: bool
    meters: ClassVar[Mapping[str, str]]

    def roles(self, outputs: Sequence[TensorSpec]) -> dict[str, Role]:
        """The role of every output, by name. Unsupported where they are no answer of this kind."""
        ...

    def decode(self, row: Row, asked: Asked) -> Answer:
        """The answer in the outputs for one image."""
        ...

    def columns(self, outputs: Sequence[TensorSpec], top: int) -> tuple[str, ...]:
        """Of a table of answers, ``top`` being ``Asked``'s."""
        ...


def load_task(name: str) -> Task:
    """The task called ``name``; UnknownName with the nearest one."""
    task: Task = registry.row("task", name).load()()
    return task


def unfit(task: str, outputs: Sequence[TensorSpec], wanted: str) -> Unsupported:
    """The error for outputs that are no answer of a task."""
    found = ", ".join(f"{spec.name} {spec.dtype} {'×'.join(map(str, spec.shape))}" for spec in outputs)
    return Unsupported(
        f"{task} needs {wanted}; the model gives {found}",
        hint="choose the --task that they are answers of; tensors takes any",
    )


def is_flat(spec: TensorSpec) -> bool:
    """Whether it has one value for every place: (B, H, W) or (B, 1, H, W)."""
    return len(spec.shape) == 3 or (len(spec.shape) == 4 and spec.shape[1] == 1)


def named(outputs: Sequence[TensorSpec], known: Mapping[str, Role]) -> dict[str, Role]:
    """Roles by the names that outputs usually have; "tensor" for any other."""
    return {spec.name: known.get(spec.name, "tensor") for spec in outputs}
