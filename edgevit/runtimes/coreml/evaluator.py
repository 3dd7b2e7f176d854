"""The reference evaluator: what a saved .mlpackage computes, by numpy, on any machine.

It proves off a Mac that the package computes its model. It is not Core ML: Apple's runtimes accumulate and fuse in ways
of their own, and its time means nothing, so it is never used for latency.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, UnknownName, Unsupported, UsageError
from edgevit.quantize.operators import Operator
from edgevit.quantize.plan import QuantPlan
from edgevit.runtimes.base import Session
from edgevit.runtimes.coreml.integers import Stored
from edgevit.runtimes.coreml.program import Program, load

NAME = "coreml-reference"


class ReferenceSession(Session):
    """One opened package, evaluated with numpy."""

    runtime = NAME
    provider = "numpy"

    def __init__(self, artifact: Artifact, threads: int, program: Program) -> None:
        super().__init__(artifact, threads)
        self._program = program
        self.words = dict(program.words)
        self.details = {
            "evaluator": f"numpy {np.__version__}",
            "program": program.opset,
            "coremltools": metadata.version("coremltools"),
            "threads": "those of numpy's BLAS",
        }

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = self._program.run(feeds)
        return {spec.name: found[spec.name].astype(spec.dtype, copy=False) for spec in self.outputs}

    def kernels(self, feeds: Mapping[str, Array]) -> tuple[dict[str, int], dict[str, int]]:
        raise Unsupported("which operators of integers a device computes so, its compiler decides: never run by us")

    def operators(self, plan: QuantPlan) -> Sequence[Operator]:
        return self._stored.operators(plan)

    def pieces(self, places: Sequence[tuple[str, str]], given: Iterable[Array]) -> Iterator[Array]:
        return self._stored.pieces(places, given)

    @cached_property
    def _stored(self) -> Stored:
        return Stored.of(self.artifact)


class ReferenceEvaluator:
    """Opens coreml artifacts for verification. It has one provider, numpy, and no options."""

    name = NAME

    def open(self, artifact: Artifact, *, threads: int, provider: str | None, options: Mapping[str, Any]) -> Session:
        """A session that evaluates the package with numpy.

        Raises BadArtifact when the package cannot be read or its inputs and outputs are not the manifest's, Unsupported
        naming an operation that is missing here, UnknownName and UsageError for a provider or options.
        """
        if provider not in (None, "numpy"):
            raise UnknownName("provider", str(provider), ("numpy",))
        if options:
            raise UsageError(f"the reference evaluator has no option {sorted(options)[0]}", hint="leave --option out")
        program = load(artifact.entry)
        _check_names(artifact, program)
        return ReferenceSession(artifact, threads, program)


def _check_names(artifact: Artifact, program: Program) -> None:
    """BadArtifact unless the package has the manifest's inputs and outputs."""
    manifest = artifact.manifest
    for kind, listed, found in (
        ("inputs", {spec.name for spec in manifest.inputs}, set(program.inputs)),
        ("outputs", {spec.name for spec in manifest.outputs}, set(program.outputs)),
    ):
        if listed != found:
            raise BadArtifact(
                f"{artifact.named} has the {kind} {', '.join(sorted(found))}; its manifest lists "
                f"{', '.join(sorted(listed))}",
                hint="export anew",
            )
