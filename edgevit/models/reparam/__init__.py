"""Re-parameterisation: a model in train form to the same function in deploy form, with proof.

own       blocks that define fused()
foreign   modules that offer fuse(), reparameterize() or switch_to_deploy()
aside     what waits to be compared
pairs     BatchNorm and LayerScale beside a linear map, where the traced graph proves it
proof     float64 equality on random inputs, with randomised statistics and with the actual weights
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgevit.errors import UsageError
from edgevit.models.eager.copying import copied
from edgevit.models.eager.faults import no_numbers, unsound_weights
from edgevit.models.eager.promotion import doubled
from edgevit.models.eager.wrappers import unwrapped
from edgevit.models.reparam.aside import set_aside
from edgevit.models.reparam.foreign import fold_by_methods, methods_of
from edgevit.models.reparam.own import batch_norms, fold_own_blocks
from edgevit.models.reparam.pairs import fold_pairs
from edgevit.models.reparam.plan import Plan
from edgevit.models.reparam.proof import (
    DAMPINGS,
    TOLERANCE,
    Refusal,
    amplifies_rounding,
    calibrated,
    finite,
    in_float64,
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

    A model that cannot be run in float64, or whose answers to random inputs are no numbers, keeps what could be folded,
    each with that reason: nothing could prove a fold.

    Raises ParityFailed when a fold changes the function (relative error over 1e-10 in float64) or the weights hold NaN,
    UsageError when the model does not run on the inputs, Unsupported for a model whose answers change from call to call
    or that is no plain module (``unwrapped``).
    """
    model = unwrapped(model)
    hollow = any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    if hollow and prove:
        raise UsageError("a model on the meta device has no weights to prove", hint="use prove=False")
    inputs = None if hollow else random_inputs(model, example_inputs)
    if not prove:
        plan, error = _planned(doubled(model), inputs), None
        result = _settled(plan.root if inputs is None else plan.replay(doubled(model)), model)
    else:
        expected = in_float64(model, inputs or ())
        if why := _unprovable(model, expected):
            plan, error, result = _unfolded(model, why), 0.0, copied(model).eval()
        else:
            result, plan, error = _proved(model, inputs or (), expected)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, result))
    spec = spec_of(model)
    if spec is not None:
        attach_spec(result, spec)
    return attach_report(result, ReparamReport(dict(plan.folded), dict(plan.left), before, after, error))


def _unprovable(model: nn.Module, expected: Any) -> str | None:
    """Why no fold of a model that answers this can be proved, or None."""
    if isinstance(expected, Refusal):
        return f"no fold can be proved, as the model does not run in float64: {expected.reason}"
    if finite(expected):
        return None
    if unsound_weights(model):
        raise no_numbers(model, "on random inputs")
    return "no fold can be proved, as the model's answers to random inputs are no numbers"


def _unfolded(model: nn.Module, why: str) -> Plan:
    return Plan(model, None, left=dict.fromkeys(batch_norms(model), why))


def _proved(model: nn.Module, inputs: Sequence[Any], expected: Any) -> tuple[nn.Module, Plan, float]:
    """Plan on a randomised copy and prove it there, then take the same steps on the actual weights and prove those.

    What is handed out is a third copy, which never ran: forward may keep what it computed, here in float64.
    """
    plan, error = _proved_at_random(model, inputs)
    own = relative_error(expected, run_whole(plan.replay(doubled(model)), inputs))
    error = max(error, require_equal(own, "its own weights", model, inputs))
    return _settled(plan.replay(doubled(model)), model), plan, error


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
    return plan, require_equal(error, "randomised statistics", model, inputs)


def _randomised(model: nn.Module, inputs: Sequence[Any], damping: float) -> tuple[nn.Module, Any]:
    work = doubled(model)
    randomise(work)
    with calibrated(work, damping):
        return work, set_aside(run_whole(work, inputs))


def _planned(work: nn.Module, inputs: Sequence[Any] | None) -> Plan:
    plan = Plan(work, inputs)
    with torch.no_grad():
        plan.root = fold_own_blocks(work, plan.folded)
        plan.steps.append(lambda root: fold_own_blocks(root, Counter()))
        if inputs is not None and any(methods_of(m) for m in plan.root.modules()):
            fold_by_methods(plan)
        fold_pairs(plan)
    return plan


def _settled(result: nn.Module, model: nn.Module) -> nn.Module:
    """Back from float64: tensors that kept their name take their old dtype, new ones the model's commonest."""
    named = [*model.named_parameters(), *model.named_buffers()]
    old = {name: t.dtype for name, t in named if t.is_floating_point()}
    commonest = Counter(old.values()).most_common(1)[0][0] if old else torch.get_default_dtype()
    for name, tensor in [*result.named_parameters(), *result.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(old.get(name, commonest))
    return result.train().eval()
