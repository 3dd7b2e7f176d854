"""TVM: the compiled model of an artifact, opened with TVM's runtime library and called directly."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, EdgeVitError, UnknownName, Unsupported, first_line
from edgevit.quantize.alone import Layers, Tally
from edgevit.quantize.operators import Operator
from edgevit.quantize.plan import QuantPlan
from edgevit.runtimes.base import LayerTime, Session
from edgevit.runtimes.tvm import integers, library, lock

ENTRY_FUNCTION = "main"
PROVIDERS = ("cpu", "cuda")
LAYERS = "layers.json"  # written by the exporter: the module of every kernel call
BUILTIN = "vm.builtin."  # allocation and shapes: no kernels
ALLOCATE = "vm.builtin.alloc_storage"


class TvmSession(Session):
    """One loaded ``model.so``. Inputs are copied into tensors that are made once for each batch size."""

    runtime = "tvm"

    def __init__(self, artifact: Artifact, threads: int, machine: _Machine) -> None:
        super().__init__(artifact, threads)
        self._machine: _Machine | None = machine
        self._main = machine.function()
        self._slots: dict[tuple[tuple[int, ...], ...], list[_Slot]] = {}
        self._names = [spec.name for spec in self.outputs]
        self.provider = machine.provider
        self.details = machine.details() | {"threads": str(threads)}

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        machine = self._opened()
        library.use_threads(self.threads)
        try:
            found = self._main(*self._bound(feeds))
        except Exception as exc:
            raise EdgeVitError(f"TVM could not run {self.artifact.path}: {first_line(exc)}") from exc
        outputs = [found] if len(self._names) == 1 and hasattr(found, "numpy") else list(found)
        machine.synchronise()
        return {name: value.numpy() for name, value in zip(self._names, outputs, strict=True)}

    def _bound(self, feeds: Mapping[str, Array]) -> list[Any]:
        """The inputs in TVM tensors, in the order of the compiled function."""
        arrays = [feeds[spec.name] for spec in self.inputs]
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._slots:
            self._slots[shapes] = [_Slot(self._opened(), array) for array in arrays]
        slots = self._slots[shapes]
        for slot, array in zip(slots, arrays, strict=True):
            slot.fill(array)
        return [slot.tensor for slot in slots]

    def _opened(self) -> _Machine:
        if self._machine is None:
            raise EdgeVitError(f"the session on {self.artifact.path} was closed", hint="open another one")
        return self._machine

    def layers(self, feeds: Sequence[Mapping[str, Array]], runs: int) -> list[LayerTime]:
        """Median time of every kernel call, in running order, by the instrument of a second virtual machine.

        The parts of one kernel are not told apart: a layer is what TVM fused. Its module is that of its product,
        convolution or reduction, from the artifact's ``layers.json``.
        """
        for feed in feeds:
            self.check(feed)
        library.use_threads(self.threads)
        traced = self._opened().traced()
        traced.calls(self._bound(feeds[0]))  # not counted: what is allocated on first use
        samples = [traced.calls(self._bound(feeds[run % len(feeds)])) for run in range(runs)]
        return layer_times(samples, self.provider, read_modules(self.artifact.path))

    def working_memory(self, feeds: Mapping[str, Array]) -> int:
        """Bytes of the blocks that the compiled function asks for in one inference: the planned memory of its
        intermediate values, one block serving several, and of its outputs."""
        self.check(feeds)
        library.use_threads(self.threads)
        traced = self._opened().traced()
        traced.calls(self._bound(feeds))
        return traced.allocated

    def kernels(self, feeds: Mapping[str, Array]) -> tuple[dict[str, int], dict[str, int]]:
        symbols: list[str] = []
        self._watched(feeds, lambda symbol, before, _: symbols.append(symbol) if before else None)
        return integers.counted(symbols)

    def operators(self, plan: QuantPlan) -> Sequence[Operator]:
        reading = integers.Reading(plan)
        self._watched(self._golden(), reading.take)
        return reading.operators()

    def held(self, operators: Sequence[Operator], plan: QuantPlan, layers: Layers) -> Tally:
        holding = integers.Holding(operators, plan, layers)
        self._watched(self._golden(), holding.take)
        return holding.tally

    def _golden(self) -> dict[str, Array]:
        """The first golden rows, as many as the function takes."""
        inputs, _ = self.artifact.golden()
        return {
            name: np.resize(rows, (self.artifact.manifest.batch.max, *rows.shape[1:])) for name, rows in inputs.items()
        }

    def _watched(self, feeds: Mapping[str, Array], hook: integers.Hook) -> None:
        """One inference with ``hook`` before and after every kernel; what it raises ends no call of TVM's."""
        self.check(feeds)
        library.use_threads(self.threads)
        self._opened().watched(hook)(*self._bound(feeds))

    def close(self) -> None:
        self._machine = None
        self._main = None
        self._slots.clear()


class _Slot:
    """One input of one shape: a tensor made once, and where it is in this memory a view that numpy copies into."""

    def __init__(self, machine: _Machine, like: Array) -> None:
        self.tensor = machine.empty(like)
        self._view = np.from_dlpack(self.tensor) if machine.provider == "cpu" else None

    def fill(self, array: Array) -> None:
        if self._view is None:
            self.tensor.copyfrom(array)
        else:
            np.copyto(self._view, array)


class _Machine:
    """TVM's virtual machine of one loaded library, on one device."""

    def __init__(self, artifact: Artifact, provider: str) -> None:
        self.provider = provider
        self._tvm = library.load()
        self._device = self._tvm.cuda(0) if provider == "cuda" else self._tvm.cpu(0)
        try:
            self._module = self._tvm.runtime.load_module(str(artifact.entry))
            self._machine = self._start()
            self.takes = int(self._machine._get_function_arity(ENTRY_FUNCTION))
        except Exception as exc:
            raise BadArtifact(f"TVM cannot load {artifact.named}: {first_line(exc)}", hint="export anew") from exc

    def _start(self) -> Any:
        from tvm.runtime.vm import VirtualMachine

        return VirtualMachine(self._module, self._device)

    def function(self) -> Any:
        """The compiled function; called with tensors it returns one, or a list."""
        return self._machine[ENTRY_FUNCTION]

    def empty(self, like: Array) -> Any:
        """A tensor on the device for an array of this shape and type."""
        return self._tvm.runtime.empty(like.shape, str(like.dtype), self._device)

    def synchronise(self) -> None:
        """Wait for the GPU; a CPU has finished when the call returns."""
        if self.provider != "cpu":
            self._device.sync()

    def traced(self) -> _Traced:
        """Another virtual machine of the same library, so that timing never slows the session's own calls."""
        return _Traced(self._start(), self.synchronise)

    def watched(self, hook: integers.Hook) -> Callable[..., None]:
        """The compiled function in a virtual machine of its own that calls ``hook``; the first thing it raises is
        raised when the function is done, since TVM would make an error of its own of it."""
        machine = self._start()
        raised: list[Exception] = []

        def instrument(_function: Any, symbol: str, before: bool, _result: Any, *arguments: Any) -> None:
            if raised or symbol.startswith(BUILTIN):
                return
            try:
                hook(str(symbol), before, arguments)
            except Exception as exc:
                raised.append(exc)

        def run(*inputs: Any) -> None:
            machine.set_instrument(instrument)
            machine[ENTRY_FUNCTION](*inputs)
            if raised:
                raise raised[0]

        return run

    def details(self) -> dict[str, str]:
        """Versions and settings, for the record."""
        return {
            "tvm": str(self._tvm.__version__),
            "provider": self.provider,
            "library": "runtime" if library.is_runtime_only() else "runtime and compiler",
        }


class _Traced:
    """A virtual machine that times every kernel it calls."""

    def __init__(self, machine: Any, synchronise: Callable[[], None]) -> None:
        self._function = machine[ENTRY_FUNCTION]
        self._synchronise = synchronise
        self._started = 0.0
        self._calls: list[tuple[str, float]] = []
        self.allocated = 0  # bytes, by the last inference
        machine.set_instrument(self._instrument)

    def _instrument(self, _function: Any, symbol: str, before: bool, _result: Any, *arguments: Any) -> None:
        if before:
            if symbol == ALLOCATE:
                self.allocated += int(arguments[1][0])  # (machine, (bytes,), device, type, scope)
            self._started = time.perf_counter()
        elif not symbol.startswith(BUILTIN):
            self._synchronise()
            self._calls.append((str(symbol), 1e3 * (time.perf_counter() - self._started)))

    def calls(self, inputs: list[Any]) -> list[tuple[str, float]]:
        """(kernel, ms) of one inference, in order."""
        self._calls, self.allocated = [], 0
        self._function(*inputs)
        return self._calls


def read_modules(folder: Path) -> dict[str, list[str | None]]:
    """Kernel -> the PyTorch module of each of its calls, in order; empty for an artifact that has no ``layers.json``.

    BadArtifact for one that cannot be read.
    """
    path = folder / LAYERS
    if not path.is_file():
        return {}
    found: dict[str, list[str | None]] = {}
    try:
        for row in json.loads(path.read_text("utf-8")):
            found.setdefault(str(row["name"]), []).append(row["module"])
    except (ValueError, TypeError, KeyError) as exc:
        raise BadArtifact(f"{path} cannot be read: {first_line(exc)}", hint="export anew") from exc
    return found


def layer_times(
    samples: Sequence[Sequence[tuple[str, float]]], unit: str, modules: Mapping[str, Sequence[str | None]]
) -> list[LayerTime]:
    """Medians over inferences. A kernel called again is ``NAME#2``; its operator is its name without numbers.

    ``modules``: kernel -> the module of each call.
    """
    found: list[LayerTime] = []
    seen: Counter[str] = Counter()
    for each in zip(*samples, strict=True):
        symbol = each[0][0]
        known = modules.get(symbol, ())
        module = known[seen[symbol]] if seen[symbol] < len(known) else None
        seen[symbol] += 1
        name = symbol if seen[symbol] == 1 else f"{symbol}#{seen[symbol]}"
        operator = re.sub(r"\d+$", "", symbol).removeprefix("fused_")
        found.append(LayerTime(name, operator, module, unit, median(ms for _, ms in each)))
    return found


class TvmRuntime:
    """Opens tvm artifacts. It takes no options."""

    name = "tvm"

    def open(self, artifact: Artifact, *, threads: int, provider: str | None, options: Mapping[str, Any]) -> Session:
        """A session on the device that the artifact was built for.

        Unsupported ("needs …") when this machine cannot run it, BadArtifact when TVM cannot load the file or it is not
        what the manifest says.
        """
        for key in options:
            raise UnknownName("option of tvm", key, ())
        lock.check(artifact)
        built_for = str(artifact.manifest.lock["device"])
        check_provider(provider, built_for)
        if built_for == "cuda" and not library.load().cuda(0).exist:
            raise Unsupported("needs an NVIDIA GPU", hint="run it on such a machine, or export without tvm.target=cuda")
        machine = _Machine(artifact, built_for)
        if machine.takes != len(artifact.manifest.inputs):
            raise BadArtifact(
                f"{artifact.named} takes {machine.takes} inputs, the manifest says {len(artifact.manifest.inputs)}",
                hint="export anew",
            )
        library.use_threads(threads)
        return TvmSession(artifact, threads, machine)


def check_provider(asked: str | None, built_for: str) -> None:
    """UnknownName for a provider TVM has not, Unsupported for one the artifact was not built for."""
    if asked is None:
        return
    name = asked.lower().removesuffix("executionprovider")
    if name not in PROVIDERS:
        raise UnknownName("provider", asked, PROVIDERS)
    if name != built_for:
        option = " --option tvm.target=cuda" if name == "cuda" else ""
        raise Unsupported(
            f"this artifact was built for the {built_for} provider",
            hint=f"leave --provider out, or export -t tvm{option}",
        )
