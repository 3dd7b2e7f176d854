"""What the tests of the exact rewrites share: a rule computes what its operator does, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgevit.export.legalise import Rules, calls_of, name_of, rewritten


class Calls(nn.Module):
    """A module around a function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def assert_written_out(module: nn.Module, rules: Rules, *shape: int, tolerance: float = 1e-14) -> None:
    """The same values (exactly those of integers) for two rows traced with a dynamic batch, and no call left."""
    torch.manual_seed(0)
    module, x = module.double().eval(), torch.randn(2, *shape, dtype=torch.float64)
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    program = torch.export.export(module, (x,), dynamic_shapes=(batch,), strict=False)
    program = program.run_decompositions({})
    assert called(program) & rules.keys(), "the operator is in the program"
    found = rewritten(program, rules)
    assert not called(found) & rules.keys()
    for rows in (x, torch.randn(5, *shape, dtype=torch.float64)):
        with torch.no_grad():
            torch.testing.assert_close(found.module()(rows), module(rows), rtol=tolerance, atol=tolerance)


def assert_mended(module: nn.Module, rules: Rules, *shape: int, tolerance: float = 1e-14) -> None:
    """The same values for two rows, and no call left that a rule is needed for: what is written may call the operator
    in a form that needs none."""
    torch.manual_seed(0)
    module, x = module.double().eval(), torch.randn(2, *shape, dtype=torch.float64)
    program = torch.export.export(module, (x,), strict=False).run_decompositions({})
    assert wanting(program, rules), "a rule is needed"
    found = rewritten(rewritten(program, rules), rules)  # what is written may hold what a rule is for
    assert not wanting(found, rules)
    for rows in (x, torch.randn(2, *shape, dtype=torch.float64)):
        with torch.no_grad():
            torch.testing.assert_close(found.module()(rows), module(rows), rtol=tolerance, atol=tolerance)


def wanting(program: torch.export.ExportedProgram, rules: Rules) -> set[Any]:
    """The operators of calls that a rule is needed for."""
    return {node.target for node in calls_of(program) if node.target in rules and rules[node.target].needed(node)}


def called(program: torch.export.ExportedProgram) -> set[Any]:
    """The operators of a program, and their names."""
    found = {node.target for node in calls_of(program)}
    return found | {name_of(one) for one in found}
