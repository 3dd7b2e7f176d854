"""Which module, and which line of its source, holds a model to one size of image."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgevit.errors import first_line
from edgevit.models.eager.copying import copied
from edgevit.models.eager.frames import is_theirs, line_of

NAMES = ("height", "width")


@dataclass(frozen=True)
class Place:
    """``path`` of a module, "" for the model itself, and "model.py:42", None where no line is known.

    said  what went wrong there, or was asked about the size
    """

    path: str
    line: str | None
    said: str

    def __str__(self) -> str:
        at = f" ({self.line})" if self.line else ""
        return f"{self.path or 'the model itself'}{at}"


def failing(module: nn.Module, arguments: Sequence[Tensor]) -> Place | None:
    """Where the module does not take these arguments; None where it does."""
    copy = copied(module)
    with _entered(copy, lambda path: None) as stack, torch.no_grad():
        try:
            copy(*arguments)
        except Exception as exc:  # whatever the user's own code raises
            return Place(stack[-1], line_of(traceback.extract_tb(exc.__traceback__)), first_line(exc))
    return None


def asking(module: nn.Module, image: Tensor, axes: Sequence[int]) -> Place | None:
    """Where forward asks what the size of the image is, height and width along ``axes``, and goes by the answer; None
    where it does not, or cannot be asked."""
    from sympy import Symbol  # type: ignore[import-untyped]
    from torch._dispatch.python import enable_python_dispatcher
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    env = ShapeEnv()
    mode, copy, seen = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True), copied(module), 0
    found: list[tuple[str, Any]] = []
    names: dict[Any, Any] = {}
    free = [DimDynamic.DYNAMIC if axis in axes else DimDynamic.STATIC for axis in range(image.ndim)]

    def noted(path: str) -> None:
        nonlocal seen
        found.extend((path, guard) for guard in env.guards[seen:])
        seen = len(env.guards)

    try:
        fake = mode.from_tensor(image, symbolic_context=StatelessSymbolicContext(dynamic_sizes=free))
        sides: list[Any] = [fake.shape[axis] for axis in axes]
        names |= {side.node.expr: Symbol(name, integer=True) for side, name in zip(sides, NAMES, strict=True)}
        with _entered(copy, noted), mode, torch.no_grad(), enable_python_dispatcher():
            copy(fake)
    except Exception:  # what was noted before it says enough
        noted("")
    for path, guard in found:
        frame = getattr(guard.sloc, "framework_loc", None)
        if isinstance(frame, traceback.FrameSummary) and is_theirs(frame.filename):
            return Place(path, line_of([frame]), f"it asks whether {guard.expr.xreplace(names)}")
    return None


@contextmanager
def _entered(module: nn.Module, noted: Callable[[str], None]) -> Iterator[list[str]]:
    """The paths of the modules whose forward runs, the innermost last; it stays where one raises. ``noted`` is told a
    path before another becomes the innermost."""
    stack = [""]

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            noted(stack[-1])
            stack.append(path)

        return hook

    def leave(*_: Any) -> None:
        noted(stack.pop())

    for path, child in module.named_modules():
        child.register_forward_pre_hook(enter(path))
        child.register_forward_hook(leave)
    yield stack
