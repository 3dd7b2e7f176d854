"""A model that takes images of a range of sizes: traced once with free sides, or refused with what holds it to one."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.artifact.formulas import side_of
from edgevit.artifact.golden import GOLDEN_ROWS
from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.errors import Unsupported, first_line
from edgevit.export.guards import thinned
from edgevit.export.rows import Rows, take_rows
from edgevit.images import Preprocess
from edgevit.models.eager.copying import copied
from edgevit.models.eager.fixing import NAMES, Place, asking, failing
from edgevit.models.eager.outputs import named_outputs
from edgevit.models.loading.source import ASSUMED_SIZE, load
from edgevit.models.spec import spec_of
from edgevit.request import ExportRequest
from edgevit.sizes import Sides, SizeRange, Span
from edgevit.steps import cut_in_words

BYTES = 4 << 20  # of rows at each size that is proved beside a model's own
SAME = 1e-3  # of the largest output: a trace that holds a size is further off than rounding
SOME = 0.05  # of decisions, that rounding may turn


@dataclass(frozen=True)
class Sizing:
    """Which sizes a model is to take.

    steps   how an image becomes its input, at the size that it was made for
    inputs  rows at every size that is to be proved beside that one
    pixels  a picture, for sizes that are only tried
    """

    sizes: SizeRange
    steps: Preprocess
    inputs: Mapping[Sides, Mapping[str, Array]]
    pixels: Array

    @property
    def notes(self) -> tuple[str, ...]:
        made = Sides(*self.steps.size)
        return (f"it takes images of {self.sizes}: pictures are {cut_in_words(self.steps)}; measured at {made}",)

    @property
    def axes(self) -> tuple[int, int]:
        """Height and width in the input."""
        return (1, 2) if self.steps.baked or self.steps.layout == "NHWC" else (2, 3)

    @property
    def traced(self) -> Sides:
        """The size to trace at: what is the same for both sides, or special at an end, is not taken for a rule."""
        return self.sizes.odd if self.sizes.odd in self.inputs else next(iter(self.inputs))

    def image(self, size: Sides) -> Array:
        """The rows at one of the sizes that are proved, of the only input; one row at any other."""
        if size not in self.inputs:
            return self.steps.at(size)(self.pixels)[None]
        (rows,) = self.inputs[size].values()
        return rows

    def every(self, example: Sequence[int], counts: Iterable[int]) -> list[tuple[int, ...]]:
        """Shapes of the input, of so many rows each, at all sizes of the range, or so many that every kind is there."""
        spans = (self.sizes.height, self.sizes.width)
        sides = [thinned(range(low, high + 1, self.sizes.multiple)) for low, high in spans]
        return [shape for count in counts for shape in self.shapes([count, *example[1:]], itertools.product(*sides))]

    def shapes(self, example: Sequence[int], sizes: Iterable[Iterable[int]]) -> list[tuple[int, ...]]:
        """``example`` with those sizes."""
        found = [dict(zip(self.axes, size, strict=True)) for size in sizes]
        return [tuple(one.get(axis, side) for axis, side in enumerate(example)) for one in found]

    def dims(self) -> dict[int, Any]:
        """For torch.export: axis -> what it may be."""
        spans = zip(self.axes, NAMES, (self.sizes.height, self.sizes.width), strict=True)
        return {axis: self._dim(name, span) for axis, name, span in spans if span.low != span.high}

    def _dim(self, name: str, span: Span) -> Any:
        multiple = self.sizes.multiple
        counted = torch.export.Dim(f"{name}_steps", min=span.low // multiple, max=span.high // multiple)
        return counted if multiple == 1 else multiple * counted

    def refusal(self, place: Place | None, why: str) -> Unsupported:
        """For a model that takes one size only."""
        where = f"{place} holds it to its size: {place.said}" if place else f"something in it holds its size: {why}"
        return Unsupported(
            f"this model cannot take images of {self.sizes}: {where}",
            hint="export one size; or let it follow its input: interpolate a position table to the grid of tokens, "
            "and take sides from x.shape, never as numbers",
        )


def in_range(module: nn.Module, request: ExportRequest) -> tuple[nn.Module, ExportRequest]:
    """A model that is to take a range of sizes, at one of them: its own, or the nearest to it; and the request that
    says so."""
    model, spec = request.model, spec_of(module)
    if model.image_sizes is None:
        return module, request
    own = (spec.image_size if spec else None) or ASSUMED_SIZE
    size = model.image_sizes.nearest(own)
    asked = replace(request, model=replace(model, image_size=size))
    again = isinstance(model.source, str) and spec is not None and spec.image_size not in (None, size)
    return (load(asked.model) if again else module), asked


def sizing_of(request: ExportRequest, steps: Preprocess | None, rows: Rows) -> Sizing | None:
    """Of a request for a range of sizes, with the pictures of ``rows`` at each that is to be proved; None for one."""
    sizes = request.model.image_sizes
    if sizes is None or steps is None:
        return None
    (name,) = rows.inputs
    found = {size: {name: _at(size, steps, rows)} for size in sizes.to_prove(steps.size)}
    return Sizing(sizes, steps, found, rows.pixels[0])


def _at(size: Sides, steps: Preprocess, rows: Rows) -> Array:
    """The first pictures at another size: as many as are kept, and as the bytes allow."""
    at = steps.at(size)
    first = at(rows.pixels[0])
    count = min(GOLDEN_ROWS, len(rows.pixels), max(1, BYTES // first.nbytes))
    return np.stack([first, *(at(image) for image in rows.pixels[1:count])])


def require_free(module: nn.Module, own: Array, sizing: Sizing) -> None:
    """Unsupported, with the module and the line, unless the model runs at every size."""
    for size, rows in {Sides(*sizing.steps.size): own, **{size: sizing.image(size) for size in sizing.inputs}}.items():
        if place := failing(module, [torch.from_numpy(rows[:1].copy())]):
            raise sizing.refusal(replace(place, said=f"at {size} {place.said}"), place.said)


def require_whole(program: torch.export.ExportedProgram, module: nn.Module, example: Tensor, sizing: Sizing) -> None:
    """Unsupported where the trace is of fewer sizes than were asked for: forward branches on the size of its input."""
    for axis, side in zip(sizing.axes, (sizing.sizes.height, sizing.sizes.width), strict=True):
        if side.low != side.high and not _spans(program, axis, side, sizing.sizes.multiple):
            why = f"the trace is of some of {sizing.sizes} only"
            raise sizing.refusal(asking(module, example, sizing.axes), why)


def require_faithful(
    module: nn.Module, traced: Callable[[Tensor], Any], sizing: Sizing, alone: str, tried: Iterable[Sequence[int]]
) -> None:
    """Unsupported where the trace answers anything else than the model to an input of one of those shapes: a loop over
    columns is traced with as many turns as there were, a table of numbers with as many values, a branch one way."""
    for shape in tried:
        size = Sides(*(shape[axis] for axis in sizing.axes))
        image = torch.from_numpy(take_rows(sizing.image(size), shape[0]))
        with torch.no_grad():
            want = named_outputs(copied(module)(image), alone).values()
            try:
                got = named_outputs(traced(image), alone).values()
            except Exception as exc:
                raise sizing.refusal(asking(module, image, sizing.axes), f"at {size} {first_line(exc)}") from exc
        if not all(_alike(one, other) for one, other in zip(got, want, strict=True)):
            why = f"traced at {sizing.traced}, it answers something else at {size}"
            raise sizing.refusal(asking(module, image, sizing.axes), why)


def _alike(got: Tensor, want: Tensor) -> bool:
    if got.shape != want.shape:
        return False
    if not want.is_floating_point():
        return bool((got != want).double().mean() <= SOME)
    return bool((got - want).abs().max() <= SAME * want.abs().max().clamp(min=1e-6))


def image_specs(specs: Sequence[TensorSpec], sizing: Sizing) -> tuple[TensorSpec, ...]:
    """The only input, its free sides said."""
    sides = {str(axis): name for axis, name in zip(sizing.axes, NAMES, strict=True) if axis in sizing.dims()}
    return tuple(spec.model_copy(update={"sides": sides}) for spec in specs)


def output_specs(
    program: torch.export.ExportedProgram, specs: Sequence[TensorSpec], sizing: Sizing
) -> tuple[TensorSpec, ...]:
    """The outputs with the sides that follow the image's, as formulas, and of the size that the model was made for."""
    names = _symbols(program, sizing)
    (last,) = (node for node in program.graph.nodes if node.op == "output")
    values = [node.meta["val"] for node in last.args[0]][-len(specs) :]  # what forward edited comes before
    return tuple(_followed(spec, value, names, sizing) for spec, value in zip(specs, values, strict=True))


def _followed(spec: TensorSpec, value: Tensor, names: Mapping[Any, Any], sizing: Sizing) -> TensorSpec:
    sides: dict[str, str] = {}
    for axis, side in enumerate(tuple[Any, ...](value.shape)):
        if axis and not isinstance(side, int):
            sides[str(axis)] = _formula(side.node.expr, names, spec.name, sizing)
    own = {axis: side_of(formula, sizing.steps.size) for axis, formula in sides.items()}
    shape = tuple(own.get(str(axis), side) for axis, side in enumerate(spec.shape))
    return spec.model_copy(update={"shape": shape, "sides": sides})


def _symbols(program: torch.export.ExportedProgram, sizing: Sizing) -> dict[Any, Any]:
    """Symbol of the program -> the side that it stands for, as an expression of height or width."""
    import sympy  # type: ignore[import-untyped]

    value = _image_in(program)
    found = {}
    for axis, name in zip(sizing.axes, NAMES, strict=True):
        if not isinstance(side := value.shape[axis], int):
            (symbol,) = side.node.expr.free_symbols
            found[symbol] = sympy.Symbol(name, positive=True, integer=True) / (side.node.expr / symbol)
    return found


def _formula(expression: Any, names: Mapping[Any, Any], output: str, sizing: Sizing) -> str:
    """Of height and width. Unsupported for one that no manifest has words for."""
    import sympy

    if expression.is_polynomial(*expression.free_symbols):
        top, bottom = sympy.fraction(sympy.together(sympy.expand(expression.subs(names))))
        text = f"({top})//{bottom}" if bottom != 1 and top.is_Add else f"{top}//{bottom}" if bottom != 1 else f"{top}"
    else:
        whole = {symbol: sympy.Symbol(f"({side})".replace("/", "//")) for symbol, side in names.items()}
        text = ast.unparse(ast.parse(str(expression.xreplace(whole)), mode="eval"))
    try:
        side_of(text, sizing.traced)
    except ValueError as exc:
        raise Unsupported(
            f"output {output} has a side of {text}, which follows the image's size in no way that is known here",
            hint="export one size, or return what is of the image's size or a multiple",
        ) from exc
    return text


def _spans(program: torch.export.ExportedProgram, axis: int, span: Span, multiple: int) -> bool:
    """Whether the program's axis may be all that was asked for."""
    value = _image_in(program)
    side = value.shape[axis]
    if isinstance(side, int):
        return False
    (symbol,) = side.node.expr.free_symbols
    ends = program.range_constraints[symbol]
    # torch begins every free side at two steps: one alone could be a broadcast
    return bool(ends.lower <= max(2, span.low // multiple) and ends.upper >= span.high // multiple)


def _image_in(program: torch.export.ExportedProgram) -> Any:
    """The tensor that stands for the program's only input; its sides may be symbols."""
    (found,) = (node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    return found
