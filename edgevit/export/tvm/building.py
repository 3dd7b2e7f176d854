"""The worker's side of a TVM build: the jobs that ``exporter`` sends to a process of their own."""

from __future__ import annotations

import json
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import tvm
from tvm.ir import GenericConst
from tvm.target import codegen

from edgevit import worker
from edgevit.cpu import usable_cores
from edgevit.errors import EdgeVitError
from edgevit.export.tvm import cuda, culprits, schedules, targets, tuning
from edgevit.export.tvm.compile import build, calls_of, lower_with_origins
from edgevit.export.tvm.integers import loaded
from edgevit.export.tvm.link import find_linker, link
from edgevit.export.tvm.origins import Origin
from edgevit.export.tvm.records.database import Database
from edgevit.export.tvm.schedules.machine import machine_of
from edgevit.export.tvm.schedules.stages import loads, read
from edgevit.export.weight import Constant, largest

PACKAGES = ("apache-tvm", "apache-tvm-ffi")


def build_in_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Compile ``job["program"]`` into ``job["library"]``; what the manifest says about it."""
    begun = time.monotonic()
    target = target_of(job)
    find_linker(target.arch)
    module, origins = _lowered(job)
    library, notes = _compiled(module, origins, target, job["records"])
    worker.report("link", None)
    link(library, Path(job["library"]), target)
    rows = [origin.record() for origin in origins]
    Path(job["layers"]).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    seconds = time.monotonic() - begun
    layers = compute_layers(module)
    return {
        "layers": layers,
        "versions": _versions(),
        "notes": [f"compiled for {target.describe()} in {seconds:.1f} s", *notes, *slow(layers, target)],
        "lock": target.lock(),
        "constants": [(size, *place) for size, place in constants_of(module, origins)],
    }


def constants_of(module: Any, origins: list[Origin]) -> tuple[Constant, ...]:
    """The largest constants that ``main`` hands to its kernels; of one in several calls the first counts."""
    found: dict[Any, Constant] = {}
    for call, origin in zip(calls_of(module), origins, strict=True):
        for each in call.args[1].fields:
            if isinstance(each, GenericConst):
                found.setdefault(each.value, Constant(each.value.numpy().nbytes, origin.place))
    return largest(found.values())


def slow(layers: dict[str, int], target: targets.BuildTarget) -> list[str]:
    """What is to be said of integers where the target cannot add up products of 8 bits in 32."""
    if "int32" not in layers or machine_of(target).dots:
        return []
    return ["the target has no VNNI: its integers are multiplied one by one in 32 bits, exactly, and not fast"]


def _compiled(module: Any, origins: list[Origin], target: targets.BuildTarget, records: str) -> tuple[Any, list[str]]:
    """The executable, and notes on its schedules. Unsupported where TVM cannot compile a kernel."""
    try:
        worker.report("schedules", None)
        scheduled, notes = schedule(module, target, records)
        worker.report(f"compile {len(kernels(module))} kernels for {target.describe()}", None)
        return build(scheduled, target), notes
    except EdgeVitError:
        raise
    except Exception as exc:
        raise culprits.kernel_in(module, origins, lambda kernel: build_kernel(kernel, target), exc) from exc


def build_kernel(function: Any, target: targets.BuildTarget) -> Any:
    """One function by itself, with the loops of the rules where it is for a CPU."""
    name = "kernel"
    module = tvm.IRModule({name: function.with_attr("global_symbol", name)})
    loops = cuda.schedule(module, target) if target.kind != "llvm" else None
    scheduled = loops or tvm.IRModule({name: schedules.schedule(module[name], target)})
    return tvm.tirx.build(scheduled, target=target.tvm())


def _versions() -> dict[str, str]:
    return {**{name: metadata.version(name) for name in PACKAGES}, "llvm": str(codegen.llvm_version_major())}


def tune_in_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Search for schedules of ``job["program"]``; what is found is in the user's database."""
    target = target_of(job)
    tuning.tune(
        _lowered(job)[0],
        target,
        trials=job["trials"] or None,
        minutes=job["minutes"] or None,
        threads=target.cores,
        progress=worker.report,
        database=Database.of(target, shipped=job["records"] == "all"),
    )
    return {}


def target_of(job: dict[str, Any]) -> targets.BuildTarget:
    """The target that the options name, for the threads that the build may use."""
    return targets.choose(arch=job["arch"], target=job["target"], cores=int(job["threads"] or usable_cores()))


def _lowered(job: dict[str, Any]) -> tuple[Any, list[Origin]]:
    worker.report("import", None)
    return lower_with_origins(loaded(job["program"]), baked=job["baked"])


def schedule(module: Any, target: targets.BuildTarget, records: str = "all") -> tuple[Any, list[str]]:
    """The scheduled module, by the ``records`` (all, own or none) of the database where it has some, and notes on where
    the schedules are from."""
    if target.kind != "llvm":
        return cuda.schedule(module, target), ["scheduled by TVM's default rules for GPUs; not tested by us"]
    if records == "none":
        return schedules.apply(module, target, {}), ["all kernels scheduled by the rules: records=none"]
    database = Database.of(target, shipped=records == "all")
    choices = tuning.known(module, target, database)
    found = tuning.sources(module, target, database)
    counted = ", ".join(f"{count} {_CALLED[name]}" for name, count in found.items() if count)
    return schedules.apply(module, target, choices), [f"tunable kernels scheduled {counted}"] if counted else []


_CALLED = {"own": "by this machine's records", "shipped": "by records that edgevit ships", "rules": "by the rules"}


def kernels(module: Any) -> list[Any]:
    return [function for _, function in module.functions_items() if isinstance(function, tvm.tirx.PrimFunc)]


def compute_layers(module: Any) -> dict[str, int]:
    """Matrix products and convolutions in ``main``, by the type that they multiply."""
    counts: Counter[str] = Counter()
    for call in calls_of(module):
        kernel = read(module[call.args[0]])
        for stage in kernel.stages if kernel else ():
            factors = loads(stage.value) if isinstance(stage.value, tvm.tirx.Mul) else []
            if stage.combiner == "sum" and len(factors) == 2 and not factors[0].source.same_as(factors[1].source):
                counts[str(stage.buffer.dtype)] += 1
    return dict(counts)
