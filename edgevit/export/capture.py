"""From an eval-mode module to the ``Capture`` that every exporter receives: one ``torch.export`` program."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from edgevit.artifact.manifest import Array, BatchRange, Role, TensorSpec
from edgevit.errors import EdgeVitError, ExportFailed, Unsupported, UsageError, first_line
from edgevit.export.base import Capture
from edgevit.export.guards import doubtful
from edgevit.export.ranges import Sizing, image_specs, output_specs, require_faithful, require_whole
from edgevit.export.rows import take_rows
from edgevit.export.untraceable import untraceable
from edgevit.images import Preprocess
from edgevit.models.eager.copying import copied, deep
from edgevit.models.eager.faults import contained
from edgevit.models.eager.fixing import asking
from edgevit.models.eager.outputs import named_outputs, require_rows
from edgevit.models.eager.promotion import in_full

_INPUT_ROLES: tuple[tuple[str, Role], ...] = ((r"features_\d+", "features"), ("present", "mask"))  # of a fusion head
_OUTPUT_ROLES: Mapping[str, Role] = {"logits": "logits", "features": "features"}
DTYPES = frozenset(get_args(TensorSpec.model_fields["dtype"].annotation))
_TYPES = f"use {', '.join(sorted(DTYPES))}"
_INSTEAD = dict.fromkeys(("complex64", "complex128"), "return torch.view_as_real of it: real and imaginary parts")
_ARGUMENTS = "give rows for all that forward takes, by its names: --inputs rows.npz, or inputs= in Python"
_SPECIALISED = ("Constraints violated", "specialized", "specialised", "not all values of", "guard on data-dependent")


NORMALISE = "normalise"  # the path of a baked normalisation


class Normalise(nn.Module):
    """(B, H, W, C) uint8 pixels -> (B, C, H, W) float, ``(x / 255 - mean) / std`` as one multiply and one add."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.mean, preprocess.std))
        count = preprocess.channels
        shape = (1, count, 1, 1) if preprocess.layout == "NCHW" else (1, 1, 1, count)
        self.register_buffer("scale", (1 / (255 * std)).reshape(shape).float())
        self.register_buffer("shift", (-mean / std).reshape(shape).float())
        self.channels_first = preprocess.layout == "NCHW"

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2) if self.channels_first else image  # bytes move more cheaply than floats
        return pixels.to(self.scale.dtype) * self.scale + self.shift


class Baked(nn.Module):
    """``model`` with its normalisation in front: takes uint8 NHWC images."""

    def __init__(self, model: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.normalise = Normalise(preprocess)
        self.model = model

    def forward(self, image: Tensor) -> Any:
        return self.model(self.normalise(image))


def bake_preprocess(model: nn.Module, preprocess: Preprocess) -> nn.Module:
    """A module that takes uint8 (B, H, W, C) and normalises inside; ``model`` is shared, not copied."""
    return Baked(model, preprocess).eval()


def unbaked(path: str) -> str:
    """A module path inside ``Baked`` as the path in the model itself; that of the normalisation stays."""
    return path if path == NORMALISE else path.removeprefix("model").removeprefix(".")


def capture(
    module: nn.Module,
    inputs: Mapping[str, Array],
    batch: BatchRange,
    *,
    alone: str = "output",
    image: bool | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Capture:
    """Trace ``module`` (eval mode, float32) with ``torch.export``; a dynamic batch is traced at two rows.

    ``inputs`` holds at least one row (16 or more for a useful activation scan) per argument, in the order of the
    module's arguments. A single output is called as ``alone`` says; ``image`` says whether the inputs are preprocessed
    images (default: one called image is). Outputs called logits or features, and inputs called features_N or present,
    have the roles they have in a split model. Raises Unsupported (outputs that are not tensors, a batch axis
    that the model fixes), UsageError (ragged inputs), ExportFailed (torch.export itself failed).
    """
    module = module.eval()
    rows = max(2, batch.min) if batch.dynamic else batch.min
    examples = tuple(torch.from_numpy(take_rows(array, rows)) for array in _checked(inputs).values())
    # On a copy: what a tracer leaves in tables and features is no tensor, and would be met by every later copy.
    with deep():
        traced, named = _traceable(copied(module), examples, alone)
        _check_names(inputs, named)
        program = _export(traced, examples, batch)
    _check_sides(program, named)
    return Capture(
        module=module,
        program=program,
        inputs=tuple(
            _input_spec(name, array, batch, name == "image" if image is None else image)
            for name, array in inputs.items()
        ),
        outputs=tuple(output_spec(name, tensor, batch) for name, tensor in named.items()),
        batch=batch,
        calibration=dict(inputs),
        metadata=dict(metadata or {}),
    )


def capture_range(
    module: nn.Module,
    inputs: Mapping[str, Array],
    batch: BatchRange,
    sizing: Sizing,
    *,
    alone: str = "output",
    metadata: Mapping[str, str] | None = None,
) -> Capture:
    """The same of a model whose one input is an image, for a range of its sizes. Unsupported, with the module and the
    line that holds it, for a model that takes one."""
    module = module.eval()
    rows = max(2, batch.min) if batch.dynamic else batch.min
    example = torch.from_numpy(take_rows(sizing.image(sizing.traced), rows))
    with deep():
        traced, named = _traceable(copied(module), (example,), alone)
        program = _export(traced, (example,), batch, sizing)
        require_whole(program, traced, example, sizing)
        counts = {batch.min, rows, batch.max} if batch.dynamic else {rows}
        tried = [*sizing.shapes(example.shape, sizing.inputs), *doubtful(program, sizing.every(example.shape, counts))]
        require_faithful(module, program_module(program), sizing, alone, tried)
    _check_sides(program, named)
    ((name, own),) = inputs.items()
    outputs = [output_spec(name, tensor, batch) for name, tensor in named.items()]
    return Capture(
        module=module,
        program=program,
        inputs=image_specs([_input_spec(name, own, batch, True)], sizing),
        outputs=output_specs(program, outputs, sizing),
        batch=batch,
        calibration=dict(inputs),
        metadata=dict(metadata or {}),
        image_sizes=sizing.sizes,
    )


def _traceable(module: nn.Module, examples: tuple[Tensor, ...], alone: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """``module`` such that torch.export takes it, and its named outputs.

    A forward that edits its inputs gets clones of them, one that returns other things than plain tensors, or one tensor
    under two names, returns the named tensors apart, one that computes in half precision is traced in float32: the
    graph of any other module stays as it is.
    """
    given = tuple(value.clone() for value in examples)
    with in_full() as types:
        result = run(module, given)
    named = named_outputs(result, alone)
    require_rows(named, len(examples[0]))
    edited = any(not torch.equal(before, after) for before, after in zip(examples, given, strict=True))
    plain = [result] if isinstance(result, Tensor) else list(result.values()) if type(result) is dict else result
    as_named = type(plain) in (list, tuple) and [*map(id, plain)] == [*map(id, named.values())]
    if edited or types.changed or not as_named or _shared(named):
        forward = module.forward

        @functools.wraps(forward)
        def apart(*arguments: Tensor) -> tuple[Tensor, ...]:
            copies = [value.clone() for value in arguments] if edited else arguments
            with in_full(traced=True):
                return tuple(value.clone() for value in named_outputs(forward(*copies), alone).values())

        module.forward = apart
    return module, named


def _check_names(inputs: Mapping[str, Array], outputs: Mapping[str, Tensor]) -> None:
    for name in outputs:
        if name in inputs:
            raise Unsupported(f"an output has the name of an input, {name}", hint="return it under another name")


def _check_sides(program: torch.export.ExportedProgram, outputs: Mapping[str, Tensor]) -> None:
    """Unsupported where what a tensor holds decides how large an output is."""
    (ends,) = (node.args[0] for node in program.graph.nodes if node.op == "output")
    for name, end in zip(outputs, list(ends)[-len(outputs) :], strict=True):
        if isinstance(end, torch.fx.Node) and free_unbacked_symbols(end.meta.get("val")):
            raise Unsupported(
                f"output {name} has as many values as its input makes it",
                hint="return all of them, and what is to be kept of them beside: a score, a mask",
            )


def _shared(named: Mapping[str, Tensor]) -> bool:
    return len({(value.data_ptr(), value.shape, value.stride()) for value in named.values()}) < len(named)


def batches(rows: Mapping[str, Array], batch: BatchRange) -> Iterator[tuple[Tensor, ...]]:
    """All rows as a program of that batch takes them, the last batch filled up with its first rows again."""
    count = len(next(iter(rows.values())))
    size = min(batch.max, max(count, batch.min)) if batch.dynamic else batch.min
    for start in range(0, count, size):
        yield tuple(torch.from_numpy(take_rows(array[start:], size)) for array in rows.values())


def run(module: nn.Module, arguments: tuple[Tensor, ...]) -> Any:
    """One eager call without gradients; ExportFailed when the module does not take these inputs."""
    try:
        with torch.no_grad(), contained():
            return module(*arguments)
    except EdgeVitError:
        raise
    except Exception as exc:
        shapes = ", ".join(f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" for value in arguments)
        raise ExportFailed(
            f"the model does not run on inputs of shape {shapes}: {first_line(exc)}",
            hint=_ARGUMENTS
            if "required positional argument" in str(exc)
            else "check the image size, or the example inputs",
        ) from exc


def _checked(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    lengths = {name: len(array) if array.ndim else 0 for name, array in inputs.items()}
    if not lengths or min(lengths.values()) < 1 or len(set(lengths.values())) != 1:
        raise UsageError(f"every input needs the same number of rows, at least one; got {lengths}")
    return inputs


def _input_spec(name: str, array: Array, batch: BatchRange, image: bool) -> TensorSpec:
    shape = ("batch" if batch.dynamic else batch.min, *array.shape[1:])
    named: Role = next((role for pattern, role in _INPUT_ROLES if re.fullmatch(pattern, name)), "tensor")
    return TensorSpec(name=name, dtype=_dtype(name, str(array.dtype)), shape=shape, role="image" if image else named)


def output_spec(name: str, tensor: Tensor, batch: BatchRange) -> TensorSpec:
    """What an output is, with the role that its name says. Unsupported for numbers that no artifact holds."""
    dtype = _dtype(name, str(tensor.dtype).removeprefix("torch."))
    shape = ("batch" if batch.dynamic else batch.min, *tensor.shape[1:])
    return TensorSpec(name=name, dtype=dtype, shape=shape, role=_OUTPUT_ROLES.get(name, "tensor"))


def _dtype(name: str, dtype: str) -> Any:
    if dtype not in DTYPES:
        raise Unsupported(f"{name} is {dtype}, which no artifact can hold", hint=_INSTEAD.get(dtype, _TYPES))
    return dtype


def _export(
    module: nn.Module, examples: tuple[Tensor, ...], batch: BatchRange, sizing: Sizing | None = None
) -> torch.export.ExportedProgram:
    rows = {0: torch.export.Dim("batch", min=batch.min, max=batch.max)} if batch.dynamic else {}
    free = {**rows, **(sizing.dims() if sizing else {})}
    shapes: Any = tuple(free for _ in examples) if free else None
    try:
        with torch.no_grad(), contained(), _in_known_operators(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, examples, dynamic_shapes=_by_signature(module, shapes), strict=False)
    except EdgeVitError:
        raise
    except Exception as exc:
        if batch.dynamic and any(sign.lower() in str(exc).lower() for sign in _SPECIALISED) and _of_batch(exc, sizing):
            raise _fixed_batch(_constraint(exc)) from exc
        if sizing is not None:
            raise sizing.refusal(asking(module, examples[0], sizing.axes), _constraint(exc)) from exc
        raise untraceable(exc) from exc
    if batch.dynamic and not program.range_constraints:
        raise _fixed_batch("the trace holds a fixed batch")
    return program


def _of_batch(exc: Exception, sizing: Sizing | None) -> bool:
    return sizing is None or "batch" in _constraint(exc)


@contextlib.contextmanager
def _in_known_operators() -> Iterator[None]:
    """PyTorch's own layers of transformers trace as what they are made of: inside torch.cond they would not."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _constraint(exc: Exception) -> str:
    """The line of torch's complaint that says which size the model insists on."""
    lines = [line.strip(" -") for line in str(exc).splitlines()]
    return next((line[:300] for line in lines if line.startswith(("Not all values", "You marked"))), first_line(exc))


def _by_signature(module: nn.Module, shapes: Any) -> Any:
    """``dynamic_shapes`` as torch.export wants them: a ``*args`` forward takes its specs in one inner tuple."""
    import inspect

    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    variadic = bool(kinds) and kinds[0] is inspect.Parameter.VAR_POSITIONAL
    return (shapes,) if variadic and shapes is not None else shapes


def _fixed_batch(why: str) -> Unsupported:
    return Unsupported(f"this model cannot take a dynamic batch: {why}", hint="export with --batch 1")


def program_module(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """The program as a GraphModule that runs on plain tensors, without its input checks."""
    return program.module(check_guards=False)
