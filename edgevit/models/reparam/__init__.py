"""Re-parameterisation: a model in train form to the same function in deploy form, with proof.

own       blocks that define fused()
foreign   modules that offer fuse(), reparameterize() or switch_to_deploy()
pairs     BatchNorm and LayerScale beside a linear map, where the traced graph proves it
proof     float64 equality on random inputs, with randomised statistics and with the actual weights
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgevit.errors import UsageError
from edgevit.models.reparam.foreign import fold_by_methods, methods_of
from edgevit.models.reparam.own import fold_own_blocks
from edgevit.models.reparam.pairs import fold_pairs
from edgevit.models.reparam.plan import Plan
from edgevit.models.reparam.proof import (
    DAMPINGS,
    TOLERANCE,
    amplifies_rounding,
    calibrated,
    random_inputs,
    randomise,
    relative_error,
    require_equal,
    run_whole,
)
from edgevit.models.reparam.report import ReparamReport, attach_report, report_of
from edgevit.models.spec import attach_spec, spec_of

__all__ = ["ReparamReport", "reparameterize", "report_of"]


def reparameterize(
    model: nn.Module, *, prove: bool = True, example_inputs: Tensor | Sequence[Tensor] | None = None
) -> nn.Module:
    """A new module in eval mode that computes what ``model`` does in eval mode, with everything foldable folded.

    ``model`` is never edited. Folds are computed in float64 and rounded once to its dtypes. The result carries the
    model's spec and a ``ReparamReport`` as ``reparam_report``. ``example_inputs`` gives shapes for models that do not
    take square images of the size in their spec. ``prove=False`` skips the comparison of whole models (needed on the
    meta device); what foreign modules offer is then proved on the model's own weights only.

    Raises ParityFailed when a fold changes the function (relative error over 1e-10 in float64), UsageError when the
    model does not run on the inputs, Unsupported when it does not run in float64.
    """
    hollow = any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    if hollow and prove:
        raise UsageError("a model on the meta device has no weights to prove", hint="use prove=False")
    inputs = None if hollow else random_inputs(model, example_inputs)
    if prove:
        result, plan, error = _proved(model, inputs)
    else:
        plan, error = _planned(_double_copy(model), inputs), None
        result = plan.root
    result = _settled(result, model)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, result))
    spec = spec_of(model)
    if spec is not None:
        attach_spec(result, spec)
    return attach_report(result, ReparamReport(dict(plan.folded), dict(plan.left), before, after, error))


def _proved(model: nn.Module, inputs: Sequence[Any] | None) -> tuple[nn.Module, Plan, float]:
    """Plan on a randomised copy and prove it there, then take the same steps on the actual weights and prove those."""
    inputs = inputs or ()
    plan, error = _proved_at_random(model, inputs)
    actual = _double_copy(model)
    expected = run_whole(actual, inputs)
    result = plan.replay(actual)
    own = require_equal(relative_error(expected, run_whole(result, inputs)), "its own weights")
    return result, plan, max(error, own)


def _proved_at_random(model: nn.Module, inputs: Sequence[Any]) -> tuple[Plan, float]:
    """The plan and its error with randomised statistics; they are drawn anew where they make the model chaotic."""
    for damping in DAMPINGS:
        work, expected = _randomised(model, inputs, damping)
        plan = _planned(work, inputs)
        error = relative_error(expected, run_whole(plan.root, inputs))
        del work
        plan.root = nn.Identity()  # float64 copies of a large model are not kept side by side
        if error <= TOLERANCE or not amplifies_rounding(_randomised(model, inputs, damping)[0], inputs):
            break
    return plan, require_equal(error, "randomised statistics")


def _randomised(model: nn.Module, inputs: Sequence[Any], damping: float) -> tuple[nn.Module, Any]:
    work = _double_copy(model)
    randomise(work)
    with calibrated(work, damping):
        return work, run_whole(work, inputs)


def _planned(work: nn.Module, inputs: Sequence[Any] | None) -> Plan:
    plan = Plan(work, inputs)
    with torch.no_grad():
        plan.root = fold_own_blocks(work, plan.folded)
        plan.steps.append(lambda root: fold_own_blocks(root, Counter()))
        if inputs is not None and any(methods_of(m) for m in plan.root.modules()):
            fold_by_methods(plan)
        fold_pairs(plan)
    return plan


def _double_copy(model: nn.Module) -> nn.Module:
    """A float64 copy in eval mode. Tensors cached by forward (attention biases) go, by way of train mode."""
    return copy.deepcopy(model).double().train().eval()


def _settled(result: nn.Module, model: nn.Module) -> nn.Module:
    """Back from float64: tensors that kept their name take their old dtype, new ones the model's commonest."""
    named = [*model.named_parameters(), *model.named_buffers()]
    old = {name: t.dtype for name, t in named if t.is_floating_point()}
    commonest = Counter(old.values()).most_common(1)[0][0] if old else torch.get_default_dtype()
    for name, tensor in [*result.named_parameters(), *result.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(old.get(name, commonest))
    return result.train().eval()
