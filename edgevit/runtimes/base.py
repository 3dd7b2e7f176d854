"""What every runtime offers, and the checks that all sessions share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from typing_extensions import Self

from edgevit import cpu, registry, signing
from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.cpu import checked_threads
from edgevit.errors import Unsupported, UsageError
from edgevit.quantize.alone import Layers, Tally, held_alone
from edgevit.quantize.operators import Operator
from edgevit.quantize.plan import QuantPlan


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One node of the graph that the engine really runs.

    module  path of the PyTorch module it came from, "" for the model itself; None where the engine does not tell
    unit    the provider or compute unit that ran it
    ms      of one inference
    """

    name: str
    op: str
    module: str | None
    unit: str
    ms: float


def parse_options(texts: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` strings as a runtime's options; UsageError for anything else. The runtime knows the keys."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key and value):
            raise UsageError(f"--runtime-option {text!r} is not KEY=VALUE", hint="for example precision=bf16")
        if found.setdefault(key, value) != value:
            raise UsageError(f"--runtime-option {key} is given twice", hint="give it once")
    return found


class Session:
    """An opened model. Subclasses implement ``_run`` (and ``close``); ``infer`` checks what goes in.

    runtime, provider   who runs it, e.g. "onnxruntime", "CPUExecutionProvider"
    threads             threads it was opened with
    precision           what it computes in: the file's own unless the engine was told otherwise
    details             versions and settings, for the record
    words               what the model file says about itself ("labels", "preprocess"), where its format has room for it
    """

    runtime: str
    provider: str

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self.artifact = artifact
        self.inputs: tuple[TensorSpec, ...] = artifact.manifest.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.manifest.outputs
        self.threads = threads
        self.precision: str = artifact.manifest.precision
        self.details: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in self.inputs}

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. Feeds and results by name; UsageError when a name, dtype or shape is not the manifest's."""
        self.check(feeds)
        return self._run(feeds)

    def check(self, feeds: Mapping[str, Array]) -> None:
        """UsageError unless ``feeds`` are exactly the manifest's inputs."""
        if feeds.keys() != self._dtypes.keys():
            names = ", ".join(self._dtypes)
            raise UsageError(f"this model takes {names}; got {', '.join(sorted(feeds)) or 'nothing'}")
        batch, sizes = self.artifact.manifest.batch, self.artifact.manifest.image_sizes
        for spec in self.inputs:
            array = feeds[spec.name]
            if not isinstance(array, np.ndarray):
                raise UsageError(f"{spec.name} must be a numpy array, got {type(array).__name__}")
            if sizes is not None:
                spec = spec.at(spec.taken(array.shape, sizes))
            if array.dtype != self._dtypes[spec.name]:
                raise UsageError(f"{spec.name} must be {spec.dtype}, got {array.dtype}")
            free = spec.shape[:1] == ("batch",)
            fits = array.shape[1:] == spec.shape[1:] and array.ndim if free else array.shape == spec.shape
            if not fits or (free and not batch.min <= array.shape[0] <= batch.max):
                shown = "×".join(str(batch) if side == "batch" else str(side) for side in spec.shape)
                raise UsageError(f"{spec.name} must be {shown}, got {'×'.join(map(str, array.shape)) or 'a scalar'}")
        if len({feeds[spec.name].shape[0] for spec in self.inputs if spec.shape[:1] == ("batch",)}) > 1:
            raise UsageError("all inputs must have the same number of rows")

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        raise NotImplementedError

    def layers(self, feeds: Sequence[Mapping[str, Array]], runs: int) -> list[LayerTime]:
        """Time of every layer over ``runs`` inferences, in the order they run; Unsupported where the engine is mute."""
        raise Unsupported(f"{self.runtime} does not tell the time of single layers", hint="leave --layers out")

    def kernels(self, feeds: Mapping[str, Array]) -> tuple[dict[str, int], dict[str, int]]:
        """Convolutions and matrix products of one inference by kind: those that ran in integers, those that ran in
        floats. Unsupported where the engine is mute."""
        raise Unsupported(f"{self.runtime} does not tell which layers it runs in integers")

    def in_floats(self, feeds: Mapping[str, Array], operators: Sequence[Operator]) -> tuple[str, ...]:
        """Names of those of its operators of integers that one inference runs in floats; none where the engine is
        mute."""
        return ()

    def operators(self, plan: QuantPlan) -> Sequence[Operator]:
        """Those of its integers as the file has them. BadArtifact unless each is as ``plan`` says, Unsupported where
        the file cannot be read here."""
        raise Unsupported(f"{self.runtime} does not tell which numbers its integers stand for")

    def pieces(self, places: Sequence[tuple[str, str]], given: Iterable[Array]) -> Iterator[Array]:
        """What the file makes of each of ``given`` between two of its values, as a model of its own. Unsupported where
        the engine cannot run a part of a file."""
        raise Unsupported(f"{self.runtime} does not run a part of a model")

    def held(self, operators: Sequence[Operator], plan: QuantPlan, layers: Layers) -> Tally:
        """How far its operators of integers are from ``plan``, each given what that gives it. ParityFailed names the
        first that is not what the plan says; Unsupported where the engine cannot run it so."""
        return held_alone(operators, plan, layers, self.pieces)

    def working_memory(self, feeds: Mapping[str, Array]) -> int:
        """Bytes that the engine allocates for one inference besides weights, inputs and outputs; Unsupported where it
        does not tell."""
        raise Unsupported(f"{self.runtime} does not tell how much memory an inference works in")

    def close(self) -> None:
        """Release what the runtime holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Runtime(Protocol):
    """One engine that opens artifacts."""

    name: str

    def open(self, artifact: Artifact, *, threads: int, provider: str | None, options: Mapping[str, Any]) -> Session:
        """A session, or Unsupported / MissingDependency when ``provider`` is not available. Never a silent fallback."""
        ...


def open_session(
    path: Path | str | Artifact,
    runtime: str | None = None,
    *,
    threads: int | None = None,
    provider: str | None = None,
    trust: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Session:
    """Open an artifact to run it: ``open_session(p).infer({"image": array}) -> {"logits": array}``.

    The files that are opened are a private copy whose hashes were checked. ``runtime`` defaults to the target's
    preferred one, ``threads`` to the usable cores. ``trust`` opens a format that runs code (an engine, a compiled
    library) although no known key signed it; other formats need none.
    Raises BadArtifact, MissingDependency, Unsupported, UnknownName, UsageError.
    """
    artifact = path if isinstance(path, Artifact) else Artifact.open(path)
    name = runtime or default_runtime(artifact)
    chosen = registry.row("runtime", name)
    if artifact.manifest.target not in chosen.formats and not _rebuilds(name):
        able = ", ".join(registry.runtimes_for(artifact.manifest.target))
        raise Unsupported(f"{name} cannot open a {artifact.manifest.target} artifact", hint=f"use --runtime {able}")
    how: dict[str, Any] = {"threads": checked_threads(threads), "provider": provider, "options": options or {}}
    if _rebuilds(name):
        artifact.check_files()
        return load_runtime(name).open(artifact, **how)
    artifact.check_files(but_model=True)
    if chosen.carries_code:
        signing.check_signature(artifact, trust=trust)
    with artifact.privately() as private:
        session = load_runtime(name).open(private, **how)
    session.artifact = artifact
    return session


def _rebuilds(runtime: str) -> bool:
    """Whether a runtime makes the source model anew and compares its weights, instead of opening a file."""
    return "*" in registry.row("runtime", runtime).formats


def require_whole_sums(artifact: Artifact) -> None:
    """Unsupported where two products of its integers do not fit in the 16 bits that this processor adds them up in."""
    if not cpu.saturating():
        return
    plan = artifact.plan()
    if plan is not None and plan.encoding.weights == 8 and not plan.encoding.weights_alone:
        raise Unsupported(
            "needs a processor that adds 8-bit products without cutting them off: x86 with VNNI, which this is not",
            hint=f"for this one export with --option {artifact.manifest.target}.encoding=avx2, whose weights have 7 "
            "bits, or --precision fp32",
        )


def default_runtime(artifact: Artifact, *, timed: bool = False) -> str:
    """The target's preferred runtime among those that this machine can run, else the preferred one of all.

    ``timed`` leaves out reference evaluators, whose time means nothing. Unsupported when none is known.
    """
    rows = registry.rows("runtime")
    found = [
        name
        for name in registry.runtimes_for(artifact.manifest.target)
        if name != "torch" and (rows[name].can_profile or not timed)
    ]
    able = [name for name in found if rows[name].on_this_machine().able] if len(found) > 1 else []
    if not found:
        raise Unsupported(
            f"no runtime here opens {artifact.manifest.target} artifacts", hint="edgevit targets lists what is known"
        )
    return (able or found)[0]


def load_runtime(name: str) -> Runtime:
    """A ready runtime by its name."""
    runtime: Runtime = registry.row("runtime", name).load()()
    return runtime
