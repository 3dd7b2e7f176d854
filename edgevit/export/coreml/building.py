"""Captured program -> ``model.mlpackage``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.errors import ExportFailed, Unsupported
from edgevit.export.base import Built, Capture, Context
from edgevit.export.coreml.convert import convert
from edgevit.export.coreml.integers import PASS, Emission
from edgevit.export.coreml.options import CoreMlOptions
from edgevit.export.coreml.package import ENTRY, describe, read_spec, save, write_layers
from edgevit.export.coreml.precision import (
    COMPUTE,
    Layer,
    find_islands,
    is_exact,
    module_of,
    place_of,
    read_layers,
    selector,
    truthful_report,
)
from edgevit.export.coreml.program import Source, prepare
from edgevit.export.weight import Constant, largest
from edgevit.foreign import parse_json
from edgevit.precisions import WEIGHT_PRECISIONS, precision_row
from edgevit.quantize.narrow import encoded
from edgevit.quantize.plan import Encoding
from edgevit.quantize.sites import sites_of


def build(capture: Capture, folder: Path, precision: str, options: CoreMlOptions, context: Context) -> Built:
    """Convert, save, and count what was saved. Raises Unsupported, ExportFailed."""
    check_image_input(capture, options)
    context.progress("prepare the program", None)
    source = prepare(capture)
    integers = precision_row(precision).integers
    floats = options.floats if integers else precision
    islands = find_islands(capture) if floats == "fp16" else None
    half = selector(source, islands) if islands else None
    emission = emission_of(capture, source, options, options.encoding(precision)) if integers else None
    last = {PASS: emission.emit} if emission else {}
    model = convert(source, capture, options, half, context, last)
    spec = model.get_spec()
    describe(spec, capture, options)
    context.progress("save the package", None)
    package = save(spec, model.weights_dir, folder)
    saved = read_spec(package)
    check_names(saved, capture)
    layers = read_layers(saved, modules_of_results(model, source), emission.marks() if emission else None)
    report = truthful_report(layers, precision, islands, places_of(model, source), precision in WEIGHT_PRECISIONS)
    write_layers(folder, layers)
    versions = {name: metadata.version(name) for name in ("torch", "coremltools")}
    found = notes(capture, options, layers)
    if options.ane_layout:
        plain = convert(source, capture, options.model_copy(update={"ane_layout": False}), half, context)
        found.append(layout_effect(operation_counts(plain), Counter(layer.op for layer in layers)))
    constants = constants_of(model, source)
    built = Built(entry=ENTRY, precision=report, versions=versions, notes=tuple(found), constants=constants)
    return replace(built, plan=emission.plan, operators=held(emission, layers)) if emission else built


def emission_of(capture: Capture, source: Source, options: CoreMlOptions, encoding: Encoding) -> Emission:
    """The capture's plan on Core ML's grids, to be put into its program."""
    if capture.plan is None:
        raise ValueError("integers are of a capture with a plan")
    sites = sites_of(capture.program, alone=encoding.weights_alone)
    return Emission(encoded(capture.plan, sites.weights, encoding), sites, source, int(options.ios))


def held(emission: Emission, layers: Sequence[Layer]) -> int:
    """How many operations of the saved package are integers: all that were put in. Unsupported without any."""
    found = sum(layer.integers is not None for layer in layers)
    if not emission.plan.layers:
        raise Unsupported("the converted program has no layer of the plan", hint="use --precision fp16, or fp32")
    if found != len(emission.made):
        raise ExportFailed(
            f"{len(emission.made)} operations became integers, the saved package has {found} of them",
            hint="please report this model, or build with --precision fp16",
        )
    return found


def check_image_input(capture: Capture, options: CoreMlOptions) -> None:
    """Unsupported, with the way out, where a picture cannot be the input."""
    if not options.image_input:
        return
    pictures = [spec for spec in capture.inputs if spec.role == "image" and spec.dtype == "uint8"]
    if len(capture.inputs) != 1 or not pictures:
        raise Unsupported(
            "a Core ML picture has pixels of 0 to 255, this model takes normalised values",
            hint="add --bake-preprocess, which puts the normalisation into the package",
        )
    if (steps := capture.metadata.get("preprocess")) and parse_json(steps)["color"] != "RGB":
        raise Unsupported(
            f"a Core ML picture is RGB here, this model takes {parse_json(steps)['color']}", hint="drop image_input"
        )
    if capture.batch.dynamic or capture.batch.max != 1:
        raise Unsupported("a Core ML picture input takes one image per call", hint="use --batch 1, or drop image_input")
    if capture.image_sizes is not None:
        raise Unsupported(
            f"a Core ML picture input is built for one size here, not for {capture.image_sizes}",
            hint="give one --image-size, or drop image_input: a range of sizes is taken as a tensor",
        )


def check_names(spec: Any, capture: Capture) -> None:
    """ExportFailed unless the saved package's inputs and outputs are those of the manifest; Unsupported for twins."""
    for kind, features, specs in (
        ("inputs", spec.description.input, capture.inputs),
        ("outputs", spec.description.output, capture.outputs),
    ):
        found, wanted = [feature.name for feature in features], [one.name for one in specs]
        if len(set(found)) < len(found):
            raise Unsupported(
                "Core ML gives one tensor one name, and this model returns one under several",
                hint=f"return it once: {', '.join(wanted)} are not all different tensors",
            )
        if found != wanted:
            raise ExportFailed(
                f"the package's {kind} are {', '.join(found)}, the model's {', '.join(wanted)}",
                hint="Core ML names are letters, digits and underscores: rename them in the model",
            )


def modules_of_results(model: Any, source: Source) -> dict[str, str]:
    """Name of an operation's result -> PyTorch module, from the converted program in memory."""
    function = model._mil_program.functions["main"]
    return {
        value.name: module_of(operation, source) for operation in function.operations for value in operation.outputs
    }


def constants_of(model: Any, source: Source) -> tuple[Constant, ...]:
    """The largest constants of the converted program, each of the first operation that reads it."""
    return largest(
        Constant(operation.outputs[0].val.nbytes, place_of(operation.outputs[0].child_ops[0], source))
        for operation in model._mil_program.functions["main"].operations
        if isinstance(getattr(operation.outputs[0], "val", None), np.ndarray) and operation.outputs[0].child_ops
    )


def places_of(model: Any, source: Source) -> frozenset[str]:
    """Names of the results that are places, and stay in float32."""
    operations = model._mil_program.functions["main"].operations
    return frozenset(value.name for one in operations if is_exact(one, source) for value in one.outputs)


def operation_counts(model: Any) -> Counter[str]:
    """Operations of a converted model by type, without constants."""
    operations = model._mil_program.functions["main"].operations
    return Counter(operation.op_type for operation in operations if operation.op_type != "const")


def layout_effect(before: Counter[str], after: Counter[str]) -> str:
    """What the layout changed, in counts: "ane_layout: 271 -> 250 operations, linear 48 -> 0, conv 1 -> 49"."""
    kinds = sorted(before | after, key=lambda kind: -abs(after[kind] - before[kind]))
    changed = [f"{kind} {before[kind]} -> {after[kind]}" for kind in kinds if before[kind] != after[kind]]
    return ", ".join([f"ane_layout: {before.total()} -> {after.total()} operations", *changed])


def notes(capture: Capture, options: CoreMlOptions, layers: list[Layer]) -> list[str]:
    """What a reader of the manifest should know about this build."""
    found = [f"{len(layers)} operations, {sum(layer.op in COMPUTE for layer in layers)} of them compute"]
    if any(spec.dtype == "uint8" for spec in capture.inputs) and not options.image_input:
        found.append("the package takes pixels as float32, since Core ML has no uint8 tensors; the values are the same")
    return found
