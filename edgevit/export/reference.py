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

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgevit.artifact.golden import GOLDEN_ROWS
from edgevit.artifact.manifest import Array, BatchRange
from edgevit.errors import EdgeVitError, Unsupported
from edgevit.export.capture import Baked, run, unbaked
from edgevit.export.prepared import Answers, Noise, Outputs, Run
from edgevit.models.eager.copying import copied, deep
from edgevit.models.eager.faults import moving, no_numbers
from edgevit.models.eager.margins import Margins
from edgevit.models.eager.outputs import named_outputs
from edgevit.models.eager.promotion import doubled, in_full, promoted
from edgevit.precisions import FLOOR, clear_of_noise, error_of, precision_row, whole_numbers

CHUNK = 8
ANCHORED = 4  # rows, at least, that the float64 run must agree on with the model as it is
REPEATABLE = 1e-6  # two float32 runs of the same rows, in whatever order threads sum
HALVES = "forward asks for half precision in places; the artifact computes those in its own precision"
DEPENDENT = "an answer depends on the other rows of its batch: proved at batch {} only, for which it was built"
SLACK = 30.0  # a float64 run this many times further off than rounding explains is of another function

Inputs = Mapping[str, Array]


def answers(module: nn.Module, inputs: Inputs, batch: BatchRange, *, alone: str = "output") -> Answers:
    """The reference on all rows. ``module`` is copied, never edited or run; a single output is called ``alone``.

    ParityFailed for answers that are no numbers, Unsupported for those that change from call to call, or with the
    other rows of their batch where the batch is dynamic.
    """
    size = min(max(batch.min, CHUNK), batch.max)
    model = _steady(_Eager(module, inputs, alone), size)
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
            _require_numbers(module, exact.outputs)
            notes = model.notes if group == fast else (*model.notes, DEPENDENT.format(size))
            golden = exact.head() if group == fast else model.golden(DOUBLE, group)
            return Answers(exact, golden, group, "float64", notes)
        why = "what it computes there is something else"
    single = model.grouped(model.single, size)
    _require_numbers(module, single.outputs)
    notes = (*model.notes, f"the reference is the eager model in float32, as it cannot be had in float64: {why}")
    return Answers(single, model.golden(model.single, size), size, "float32", notes)


def noise(
    module: nn.Module, inputs: Inputs, reference: Answers, precision: str, keep_fp32: Collection[str] = ()
) -> dict[str, Noise]:
    """How far each output of the eager model in ``precision`` is from the reference. UnknownName for a precision
    without a row.

    ``keep_fp32`` are the paths of modules that an fp16 build computes in float32. A float32 reference has float32's
    own rounding on its side, which counts too.
    """
    half, whole = precision_row(precision).emulation == "rounded to fp16", reference.whole
    alone = next(iter(whole.outputs))  # what a single output is called; where there are several, they have names
    model = _Eager(module, inputs, alone, HALVES in reference.notes, decides=bool(whole.margins))
    ways = [_rounded_way(frozenset(keep_fp32)) if half else model.single]
    if reference.computed == "float32":
        ways.append(JITTERED)
    runs = [model.grouped(way, reference.group) for way in ways]
    return {name: _noise_of(name, runs, whole) for name in whole.outputs}


def _noise_of(name: str, runs: Sequence[Run], want: Run) -> Noise:
    """The largest of one output, over all runs."""
    if name not in want.margins:
        return Noise(max(_error(run, want, name) for run in runs))
    margin = max(_moved(run, want, name) for run in runs)
    if whole_numbers(want.outputs[name]):
        return Noise(margin, margin)
    clear = clear_of_noise(want.margins[name], margin)
    return Noise(max(_error(run, want, name, clear) for run in runs), margin)


def _moved(got: Run, want: Run, name: str) -> float:
    """How far margins moved: one that turned its decision went by nothing and out on the other side. Of values that
    were only picked nothing says which decision they are of."""
    if name not in got.margins or got.margins[name].shape != want.margins[name].shape:
        return float("inf")
    here, there = got.margins[name].astype(np.float64), want.margins[name].astype(np.float64)
    finite = np.isfinite(here) & np.isfinite(there)  # what nothing can change has no margin to move
    turned = whole_numbers(want.outputs[name]) & (got.outputs[name] != want.outputs[name])
    return float(np.abs(np.where(turned, -here, here) - there).max(initial=0.0, where=finite))


def _error(got: Run, want: Run, name: str, clear: Array | None = None) -> float:
    return error_of(got.outputs[name], want.outputs[name], clear) if name in got.outputs else float("inf")


def logits_of(module: nn.Module) -> Callable[[Array], Array | None]:
    """Rows of images -> the float32 model's logits, None where it has none."""
    copy = cache(lambda: copied(module))  # the module itself is never run: its forward may keep what it computes

    def answer(rows: Array) -> Array | None:
        logits = named_outputs(run(copy(), (torch.from_numpy(rows),)), "logits").get("logits")
        return None if logits is None else np.asarray(logits.numpy())

    return answer


def outputs_of(module: nn.Module, alone: str) -> Callable[[Array], dict[str, Array]]:
    """Rows of images -> the float32 model's outputs by name, a single one called ``alone``."""
    copy = cache(lambda: copied(module))

    def answer(rows: Array) -> dict[str, Array]:
        found = named_outputs(run(copy(), (torch.from_numpy(rows),)), alone)
        return {name: np.asarray(value.numpy()) for name, value in found.items()}

    return answer


def apart(got: Run, want: Run) -> float:
    """The error of the worst output, where no decision hangs in the balance; inf where one is missing."""
    if set(got.outputs) != set(want.outputs):
        return float("inf")
    clear = {name: clear_of_noise(margins, FLOOR) for name, margins in want.margins.items()}
    return max((_error(got, want, name, clear.get(name)) for name in want.outputs), default=0.0)


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

    ``halves`` says that forward asks for half precision, ``decides`` that outputs were decided somewhere: watching
    every operator for either costs small models dear.
    """

    module: nn.Module
    inputs: Inputs
    alone: str
    halves: bool = True
    decides: bool = True

    @property
    def single(self) -> _Way:
        return FULL if self.halves else SINGLE

    @property
    def notes(self) -> tuple[str, ...]:
        return (HALVES,) if self.halves else ()

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    def grouped(self, way: _Way, group: int, *, rows: int | None = None, module: nn.Module | None = None) -> Run:
        """Outputs of the first ``rows``, ``group`` at a time, the last group filled up with the first rows again."""
        rows, module = rows or self.rows, module or way.made(self.module)
        picked = (np.arange(start, start + group) % rows for start in range(0, rows, group))
        with way.mode(module), _seeded(0):
            parts = [self.once(way, module, picks) for picks in picked]
        return _joined(parts).head(rows)

    def once(self, way: _Way, module: nn.Module, picks: Array) -> Run:
        taken = (torch.from_numpy(np.array(array[picks])) for array in self.inputs.values())
        arguments = tuple(value.to(way.dtype) if value.is_floating_point() else value for value in taken)
        with deep(), Margins() if self.decides else nullcontext() as margins:
            found = named_outputs(run(module, arguments), self.alone)
            known = {name: margins.of(value) for name, value in found.items()} if margins else {}
        return Run(
            {name: value.detach().numpy() for name, value in found.items()},
            {name: margin.numpy() for name, margin in known.items() if margin is not None},
        )

    def golden(self, way: _Way, group: int) -> Run:
        """What ``verify`` finds for the golden rows: it runs them alone, so that they fill their batch themselves."""
        return self.grouped(way, group, rows=min(GOLDEN_ROWS, self.rows))


def _steady(model: _Eager, size: int) -> _Eager:
    """``model``, knowing whether it asks for half precision and decides, from two calls with the first ``size`` rows.

    Raises unless its answers are numbers, and the same both times.
    """
    module, picks = _single(model.module), np.arange(size) % model.rows
    with in_full() as types, _seeded(0):
        first = model.once(FULL, module, picks)
    _require_numbers(model.module, first.outputs)
    unwatched = replace(model, decides=False)  # where decisions hang in the balance, the first call said
    with in_full(), _seeded(1):
        state = torch.get_rng_state()
        again = unwatched.once(FULL, module, picks)
        # Whether numbers were drawn is asked of the generator: what is drawn may seldom change an answer.
        if not torch.equal(state, torch.get_rng_state()):
            raise moving(random=True)
        if apart(again, first) > REPEATABLE:
            fresh = unwatched.once(FULL, _single(model.module), picks)
            raise moving(random=apart(fresh, first) > REPEATABLE)
    return replace(model, halves=types.changed, decides=bool(first.margins))


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


def _require_independent(model: _Eager, anchor: Run, size: int, other: int) -> None:
    """Unsupported where the first ``size`` rows, run together, have other answers in groups of ``other`` rows."""
    rows = min(model.rows, size)
    if not _agrees(model, anchor.head(size), model.grouped(model.single, other, rows=rows), size):
        raise Unsupported(
            "this model cannot take a dynamic batch: its answer to a row depends on the other rows of the batch",
            hint="export with --batch 1, or with the batch size that it is always called with",
        )


def _agrees(model: _Eager, anchor: Run, other: Run, size: int) -> bool:
    """Whether the first rows of ``other`` differ from the anchor, run ``size`` at a time, by no more than rounding
    explains, given how much this model makes of it."""
    rows = len(next(iter(anchor.outputs.values())))
    found = apart(other.head(rows), anchor)
    if found <= FLOOR or not np.isfinite(found):
        return found <= FLOOR
    return found <= SLACK * apart(model.grouped(JITTERED, size, rows=rows), anchor)


def _joined(parts: Sequence[Run]) -> Run:
    first = parts[0]
    return Run(
        {name: np.concatenate([part.outputs[name] for part in parts]) for name in first.outputs},
        {name: np.concatenate([part.margins[name] for part in parts]) for name in first.margins},
    )


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
