"""Exact rewrites of a captured program, for targets that have no form of an operator, or a wrong one.

A rule says for which calls it is, and writes the same function in operators that every target knows. The rules are in
files by theme, and ``targets`` lists those that each target needs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._decomp import get_decompositions

from edgevit.export.legalise.branches import without_branches
from edgevit.export.legalise.masks import without_places

Operator = Any  # or its name, of one that is there only where its library was imported


def always(_: fx.Node) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """``written`` computes what the operator does, with its signature, or answers NotImplemented; ``needed`` tells the
    calls it is for."""

    written: Callable[..., Any]
    needed: Callable[[fx.Node], bool] = always


Rules = Mapping[Operator, Rule]
_VIEW, _RESHAPE = torch.ops.aten.view.default, torch.ops.aten.reshape.default


def rewritten(program: torch.export.ExportedProgram, rules: Rules) -> torch.export.ExportedProgram:
    """``program`` with every call of an operator written out, where a rule is needed for one of them."""
    table = _table(program, rules)
    if not table:
        return program
    with _reshaping(program):
        program = decomposed(program, table)
    for node in calls_of(program):
        if node.target is _RESHAPE and node.args[0].meta["val"].is_contiguous():  # type: ignore[union-attr]
            node.target = _VIEW
    program.graph_module.recompile()
    return program


def _table(program: torch.export.ExportedProgram, rules: Rules) -> dict[Operator, Callable[..., Any]]:
    """What the operators that a rule is needed for are written by."""
    found = [(node, rule) for node in calls_of(program) if (rule := _rule_of(rules, node.target))]
    return {node.target: rule.written for node, rule in found if rule.needed(node)}


def _rule_of(rules: Rules, target: Any) -> Rule | None:
    return rules.get(target) or rules.get(name_of(target))


def name_of(target: Any) -> str:
    """ "aten::div.Tensor_mode"."""
    return str(target.name()) if hasattr(target, "name") else str(target)


@contextlib.contextmanager
def _reshaping(program: torch.export.ExportedProgram) -> Iterator[None]:
    """With reshapes for views: what is written out may lie in memory in another order than an operator's result."""
    views = [node for node in calls_of(program) if node.target is _VIEW]
    for node in views:
        node.target = _RESHAPE
    program.graph_module.recompile()
    try:
        yield
    finally:
        for node in views:
            node.target = _VIEW
        program.graph_module.recompile()


def decomposed(program: torch.export.ExportedProgram, table: dict[Any, Any]) -> torch.export.ExportedProgram:
    """``program`` with the operators of ``table`` written out, and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own internals
        found: torch.export.ExportedProgram = program.run_decompositions(table)
    return found


def in_known_operators(
    program: torch.export.ExportedProgram, rules: Rules, is_known: Callable[[fx.Node], bool]
) -> torch.export.ExportedProgram:
    """``program`` without edits in place, in whole operators where the target knows them.

    What ``rules`` are for is written out, and of what is then unknown, what PyTorch itself can write out.
    """
    program = without_places(without_branches(decomposed(program, {})))
    table: dict[Any, Any] = {}
    for _ in range(_ROUNDS):
        program = rewritten(program, rules)
        unknown = {node.target for node in calls_of(program) if not is_known(node)}
        again = bool(_table(program, rules))
        if not unknown and not again:
            break
        table = table or {**torch.export.default_decompositions(), **get_decompositions(_RESAMPLING)}
        mendable = {target: table[target] for target in unknown if target in table}
        if not mendable and not again:
            break
        program = decomposed(program, mendable) if mendable else program
    return program


_RESAMPLING = [torch.ops.aten.upsample_nearest2d.vec, torch.ops.aten.upsample_bilinear2d.vec]  # no default has them
_ROUNDS = 4  # what PyTorch writes out may hold what a rule is for


def calls_of(program: torch.export.ExportedProgram) -> list[fx.Node]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator call by name, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    found = {one.name: one.default_value for one in schema if one.has_default_value()}
    found |= {one.name: value for one, value in zip(schema, node.args, strict=False)}
    return {**found, **node.kwargs}
