"""Exact rewrites of a captured program, for targets that have no form of an operator, or a wrong one.

A rule says for which calls it is, and writes the same function in operators that every target knows. A program without
such a call is handed on as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

Operator = Any


@dataclass(frozen=True)
class Rule:
    """``written`` computes what the operator does, with its signature; ``needed`` tells the calls it is for."""

    needed: Callable[[fx.Node], bool]
    written: Callable[..., torch.Tensor]


def rewritten(program: torch.export.ExportedProgram, rules: Mapping[Operator, Rule]) -> torch.export.ExportedProgram:
    """``program`` with every call of an operator written out, where a rule is needed for one of them."""
    called = [node for node in program.graph.nodes if node.op == "call_function" and node.target in rules]
    wanted = {node.target for node in called if rules[node.target].needed(node)}
    if not wanted:
        return program
    written: torch.export.ExportedProgram = program.run_decompositions({name: rules[name].written for name in wanted})
    return written


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator call by name, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    found = {one.name: one.default_value for one in schema if one.has_default_value()}
    found |= {one.name: value for one, value in zip(schema, node.args, strict=False)}
    return {**found, **node.kwargs}
