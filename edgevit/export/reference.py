"""What an artifact is compared with: the eager model's own answers in float64, at the batch that is built.

A reference is worth what it has in common with the user's model. So it is anchored: the model runs in float32 as it is,
at the batch that was asked for, and the float64 run (fast in groups of eight, whatever forward says about precision)
must tell the same within rounding. Where it does not, it is run at that batch; where it still does not, or cannot run,
float32 is the reference, and rounding errors made on purpose are its noise.

fp16 noise is emulated, not run with CPU half kernels: those accumulate in their own ways, lack operators and are slow,
so they would measure the CPU instead of the format. Every operator is computed in float32 and its result rounded to
fp16, as an engine with fp16 storage and fp32 accumulation does; weights are rounded once; what the precision plan
keeps stays unrounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgevit.artifact.golden import GOLDEN_ROWS
from edgevit.artifact.manifest import Array, BatchRange
from edgevit.errors import EdgeVitError, Unsupported
from edgevit.export.capture import Baked, run, unbaked
from edgevit.export.prepared import Answers, Outputs, head
from edgevit.models.eager.copying import copied, deep
from edgevit.models.eager.faults import moving, no_numbers
from edgevit.models.eager.outputs import named_outputs
from edgevit.models.eager.promotion import doubled, in_full, promoted
from edgevit.precisions import FLOOR, error_of, precision_row

CHUNK = 8
ANCHORED = 4  # rows, at least, that the float64 run must agree on with the model as it is
REPEATABLE = 1e-6  # two float32 runs of the same rows, in whatever order threads sum
HALVES = "forward asks for half precision in places; the artifact computes those in its own precision"
DEPENDENT = "an answer depends on the other rows of its batch: proved at batch {} only, for which it was built"
SLACK = 30.0  # a float64 run this many times further off than rounding explains is of another function

Inputs = Mapping[str, Array]


def answers(module: nn.Module, inputs: Inputs, batch: BatchRange, *, classifier: bool = False) -> Answers:
    """The reference on all rows. ``module`` is copied, never edited or run.

    ParityFailed for answers that are no numbers, Unsupported for those that change from call to call, or with the
    other rows of their batch where the batch is dynamic.
    """
    size = min(max(batch.min, CHUNK), batch.max)
    model = _steady(_Eager(module, inputs, classifier), size)
    anchor = model.grouped(model.single, size, rows=min(model.rows, -(-ANCHORED // size) * size))
    if batch.dynamic:
        _require_independent(model, anchor, size, batch.min if batch.min < size else batch.max)
    fast, why = CHUNK if size != CHUNK else CHUNK // 2, ""  # another grouping than the anchor's, so that it shows
    for group in (fast, size):
        try:
            exact = model.grouped(DOUBLE, group)
        except EdgeVitError as exc:
            why = str(exc)
            continue
        if _agrees(model, anchor, exact, size):
            _require_numbers(module, exact)
            notes = model.notes if group == fast else (*model.notes, DEPENDENT.format(size))
            golden = head(exact) if group == fast else model.golden(DOUBLE, group)
            return Answers(exact, golden, group, "float64", notes)
        why = "what it computes there is something else"
    single = model.grouped(model.single, size)
    _require_numbers(module, single)
    notes = (*model.notes, f"the reference is the eager model in float32, as it cannot be had in float64: {why}")
    return Answers(single, model.golden(model.single, size), size, "float32", notes)


def noise(
    module: nn.Module, inputs: Inputs, reference: Answers, precision: str, keep_fp32: Collection[str] = ()
) -> float:
    """The error of the eager model in ``precision``, the worst output's. UnknownName for a precision without a row.

    ``keep_fp32`` are the paths of modules that an fp16 build computes in float32. A float32 reference has float32's
    own rounding on its side, which counts too.
    """
    half = precision_row(precision).emulation == "rounded to fp16"
    model = _Eager(module, inputs, "logits" in reference.outputs, HALVES in reference.notes)
    ways = [_rounded_way(frozenset(keep_fp32)) if half else model.single]
    if reference.computed == "float32":
        ways.append(JITTERED)
    return max(worst_error(model.grouped(way, reference.group), reference.outputs) for way in ways)


def logits_of(module: nn.Module) -> Callable[[Array], Array | None]:
    """Rows of images -> the float32 model's logits, None where it has none."""
    copy = copied(module)  # the module itself is never run: its forward may keep what it computes

    def answer(rows: Array) -> Array | None:
        logits = named_outputs(run(copy, (torch.from_numpy(rows),)), classifier=True).get("logits")
        return None if logits is None else np.asarray(logits.numpy())

    return answer


def worst_error(got: Outputs, want: Outputs) -> float:
    """The error of the worst output; inf where one is missing."""
    if set(got) != set(want):
        return float("inf")
    return max((error_of(got[name], expected) for name, expected in want.items()), default=0.0)


# --- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """One way to run a module: the copy it is run on, the type of its float inputs, what is open meanwhile."""

    made: Callable[[nn.Module], nn.Module]
    dtype: torch.dtype
    mode: Callable[[nn.Module], AbstractContextManager[Any]]


def _single(module: nn.Module) -> nn.Module:
    # By way of train mode: models that cache gathered tables in eval mode drop a cache of the old dtype there.
    return copied(module).float().train().eval()


@contextmanager
def _jittered() -> Iterator[None]:
    with _Jitter(), in_full():
        yield


SINGLE = _Way(_single, torch.float32, lambda module: nullcontext())
FULL = _Way(_single, torch.float32, lambda module: in_full())
DOUBLE = _Way(doubled, torch.float64, lambda module: promoted())
JITTERED = _Way(_single, torch.float32, lambda module: _jittered())


@dataclass(frozen=True)
class _Eager:
    """A module and the rows it is asked about. Runs are of copies of both: forward may edit either.

    ``halves`` says that forward asks for half precision: watching every operator for that costs small models dear.
    """

    module: nn.Module
    inputs: Inputs
    classifier: bool
    halves: bool = True

    @property
    def single(self) -> _Way:
        return FULL if self.halves else SINGLE

    @property
    def notes(self) -> tuple[str, ...]:
        return (HALVES,) if self.halves else ()

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    def grouped(self, way: _Way, group: int, *, rows: int | None = None, module: nn.Module | None = None) -> Outputs:
        """Outputs of the first ``rows``, ``group`` at a time, the last group filled up with the first rows again."""
        rows, module = rows or self.rows, module or way.made(self.module)
        picked = (np.arange(start, start + group) % rows for start in range(0, rows, group))
        with way.mode(module), _seeded(0):
            parts = [self.once(way, module, picks) for picks in picked]
        return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}

    def once(self, way: _Way, module: nn.Module, picks: Array) -> Outputs:
        taken = (torch.from_numpy(np.array(array[picks])) for array in self.inputs.values())
        arguments = tuple(value.to(way.dtype) if value.is_floating_point() else value for value in taken)
        with deep():
            found = named_outputs(run(module, arguments), self.classifier)
        return {name: value.detach().numpy() for name, value in found.items()}

    def golden(self, way: _Way, group: int) -> Outputs:
        """What ``verify`` finds for the golden rows: it runs them alone, so that they fill their batch themselves."""
        return self.grouped(way, group, rows=min(GOLDEN_ROWS, self.rows))


def _steady(model: _Eager, size: int) -> _Eager:
    """``model``, knowing whether it asks for half precision, from two calls with the first ``size`` rows.

    Raises unless its answers are numbers, and the same both times.
    """
    module, picks = _single(model.module), np.arange(size) % model.rows
    with in_full() as types, _seeded(0):
        first = model.once(FULL, module, picks)
    _require_numbers(model.module, first)
    with in_full(), _seeded(1):
        state = torch.get_rng_state()
        again = model.once(FULL, module, picks)
        # Whether numbers were drawn is asked of the generator: what is drawn may seldom change an answer.
        if not torch.equal(state, torch.get_rng_state()):
            raise moving(random=True)
        if worst_error(again, first) > REPEATABLE:
            fresh = model.once(FULL, _single(model.module), picks)
            raise moving(random=worst_error(fresh, first) > REPEATABLE)
    return replace(model, halves=types.changed)


def _require_numbers(module: nn.Module, outputs: Outputs) -> None:
    for name, value in outputs.items():
        if not np.isfinite(value).all():
            raise no_numbers(module, f"output {name}")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's generator from ``seed`` on; as it was, afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _require_independent(model: _Eager, anchor: Outputs, size: int, other: int) -> None:
    """Unsupported where the first ``size`` rows, run together, have other answers in groups of ``other`` rows."""
    together = {name: value[:size] for name, value in anchor.items()}
    if not _agrees(model, together, model.grouped(model.single, other, rows=min(model.rows, size)), size):
        raise Unsupported(
            "this model cannot take a dynamic batch: its answer to a row depends on the other rows of the batch",
            hint="export with --batch 1, or with the batch size that it is always called with",
        )


def _agrees(model: _Eager, anchor: Outputs, other: Outputs, size: int) -> bool:
    """Whether the first rows of ``other`` differ from the anchor, run ``size`` at a time, by no more than rounding
    explains, given how much this model makes of it."""
    rows = len(next(iter(anchor.values())))
    apart = worst_error(anchor, {name: value[:rows] for name, value in other.items()})
    if apart <= FLOOR or not np.isfinite(apart):
        return apart <= FLOOR
    return apart <= SLACK * worst_error(model.grouped(JITTERED, size, rows=rows), anchor)


class _Jitter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Moves what every operator returns by up to a unit in the last place of float32, at random."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = np.random.default_rng(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and value.dtype is torch.float32 and value.numel():
                moved = self.generator.uniform(1 - 2.0**-23, 1 + 2.0**-23, tuple(value.shape))
                value.copy_(value.double() * torch.from_numpy(np.asarray(moved)))
        return result


def _rounded_way(keep: frozenset[str]) -> _Way:
    @contextmanager
    def mode(single: nn.Module) -> Iterator[None]:
        kept = keep | {""} if "model" in keep else keep  # how reports name the module whose path is ""
        if isinstance(single, Baked):
            kept = frozenset(path for path, _ in single.named_modules() if unbaked(path) in kept)
        _round_weights(single, kept)
        rounding = _Rounding(kept)
        for path, child in single.named_modules():
            child.register_forward_pre_hook(rounding.enter(path))
            child.register_forward_hook(rounding.leave, always_call=True)
        with rounding, in_full():
            yield

    return _Way(_single, torch.float32, mode)


def _round_weights(module: nn.Module, keep: frozenset[str]) -> None:
    for path, child in module.named_modules():
        if path in keep:
            continue
        for value in [*child.parameters(recurse=False), *child.buffers(recurse=False)]:
            if value.is_floating_point():
                value.data = _rounded(value.data)


def _rounded(value: Tensor) -> Tensor:
    return value.half().to(value.dtype)


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds what every operator returns to fp16, but inside kept modules.

    A normalisation or softmax kept in float32 still hands its result on through a cast to fp16.
    """

    def __init__(self, keep: frozenset[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keep = keep
        self.path: list[str] = [""]

    def enter(self, path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self.path.append(path)

        return hook

    def leave(self, *_: Any) -> None:
        self.path.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or self.path[-1] in self.keep:
            return result
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and value.dtype is torch.float32:
                value.copy_(_rounded(value))  # in place: the result of an in-place operator is its argument
        return result
