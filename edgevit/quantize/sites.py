"""Where a captured program multiplies by a weight: what a plan may turn into integers, and why it may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from edgevit.export.capture import program_module
from edgevit.export.precision import module_path
from edgevit.quantize.plan import Weight

_aten = torch.ops.aten
# operator -> (kind, place of the input, of the weight, of the bias or None, axis of the weight's output channels)
_TAKEN: Mapping[Any, tuple[Literal["conv", "linear"], int, int, int | None, int]] = {
    _aten.conv1d.default: ("conv", 0, 1, 2, 0),
    _aten.conv1d.padding: ("conv", 0, 1, 2, 0),
    _aten.conv2d.default: ("conv", 0, 1, 2, 0),
    _aten.conv2d.padding: ("conv", 0, 1, 2, 0),
    _aten.linear.default: ("linear", 0, 1, 2, 0),
    _aten.matmul.default: ("linear", 0, 1, None, 1),
    _aten.mm.default: ("linear", 0, 1, None, 1),
    _aten.addmm.default: ("linear", 1, 2, 0, 1),
}
_LEFT = (
    _aten.conv3d.default, _aten.conv3d.padding, _aten.convolution.default, _aten.conv_transpose1d.default,
    _aten.conv_transpose2d.input, _aten.conv_transpose3d.input, _aten.bmm.default, _aten.einsum.default,
    _aten.bilinear.default, _aten.baddbmm.default,
)  # fmt: skip
_RELU = (_aten.relu.default, _aten.relu_.default)
_RANKS = {"conv": (3, 4), "linear": (2,)}  # of weights


@dataclass(frozen=True)
class Site:
    """One operator that multiplies by a weight.

    name    of the weight in the program's state: layers are known by it
    places  of input, weight and bias among the operator's arguments
    axis    of the weight's output channels
    relu    the ReLU that alone reads its result
    """

    name: str
    node: fx.Node
    kind: Literal["conv", "linear"]
    places: tuple[int, int, int | None]
    axis: int
    relu: fx.Node | None

    @property
    def module(self) -> str:
        return module_path(self.node)

    @property
    def bias(self) -> str | None:
        """Name of its bias in the program's state, where it has one."""
        given = _argument(self.node, self.places[2])
        return None if given is None else str(given.target)

    @property
    def input(self) -> fx.Node:
        found: fx.Node = self.node.args[self.places[0]]  # type: ignore[assignment]
        return found

    @property
    def output(self) -> fx.Node:
        """What its result is read as: behind its ReLU, where it has one."""
        return self.relu or self.node


@dataclass(frozen=True)
class Sites:
    """Of one program.

    module   the program, to be run
    taken    what may be integers, in order
    kept     name of every other weight that something is multiplied by -> why it stays float
    weights  of ``taken``, by name
    """

    module: fx.GraphModule
    taken: tuple[Site, ...]
    kept: Mapping[str, str]
    weights: Mapping[str, Weight]


def sites_of(program: torch.export.ExportedProgram, *, alone: bool = False) -> Sites:
    """Every operator with a weight; a weight that one operator cannot have in integers stays float for all. Where
    weights alone are integers, the first layer's may be too: what it is given is not."""
    module = program_module(program)
    found: list[Site] = []
    kept: dict[str, str] = {}
    behind: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "call_function" and (names := _weights_read(node)):
            why = _why_not(module, node, first=not alone and not any(one in behind for one in node.all_input_nodes))
            kept |= dict.fromkeys(names, why) if why else {}
            found += [] if why else [_site(node)]
            behind.add(node)
        elif any(one in behind for one in node.all_input_nodes):
            behind.add(node)
    kept |= _shared_otherwise(found)
    taken = tuple(site for site in found if site.name not in kept)
    return Sites(module, taken, kept, {site.name: _weight(module, site) for site in taken})


def _weights_read(node: fx.Node) -> list[str]:
    """Names of what a product is with, [] for what is no product with a weight."""
    if node.target in _LEFT:
        operands: Sequence[fx.Node] = node.all_input_nodes
    elif node.target in _TAKEN:
        _, x, weight, _, _ = _TAKEN[node.target]
        operands = [one for one in (node.args[x], node.args[weight]) if isinstance(one, fx.Node)]
    else:
        return []
    return [str(one.target) for one in operands if one.op == "get_attr"]


def _why_not(module: fx.GraphModule, node: fx.Node, *, first: bool) -> str | None:
    """Why a product stays float, None where it may be of integers."""
    if node.target not in _TAKEN:
        return f"no engine here has {node.target.__name__.partition('.')[0]} in integers"  # type: ignore[union-attr]
    kind, x, weight, bias, _ = _TAKEN[node.target]
    operand, constant = node.args[x], node.args[weight]
    if not isinstance(operand, fx.Node) or operand.op == "get_attr" or constant.op != "get_attr":  # type: ignore[union-attr]
        return "the weight is multiplied from the left"
    values = _attribute(module, constant)
    if values.ndim not in _RANKS[kind]:
        return f"a product with a constant of {values.ndim} axes, for which ONNX Runtime has no integer kernel"
    if not torch.isfinite(values).all() or values.dtype is not torch.float32:
        return "its weights are no float32 numbers"
    given = _argument(node, bias)
    if isinstance(given, fx.Node) and (given.op != "get_attr" or _attribute(module, given).ndim != 1):
        return "its bias is computed"
    if node.kwargs or (node.target is _aten.addmm.default and len(node.args) > 3):
        return "its terms are scaled"
    if first:
        return "the first layer: 8-bit inputs lie between the steps of any other grid"
    return None


def _shared_otherwise(found: Sequence[Site]) -> dict[str, str]:
    """Weights that operators of different kinds, or with different biases, share."""
    uses: dict[str, set[Any]] = {}
    for site in found:
        uses.setdefault(site.name, set()).add((site.kind, site.axis, _argument(site.node, site.places[2])))
    return {
        name: "several layers share its weight and differ in the rest" for name, ways in uses.items() if len(ways) > 1
    }


def _site(node: fx.Node) -> Site:
    kind, x, weight, bias, axis = _TAKEN[node.target]
    readers = list(node.users)
    relu = readers[0] if len(readers) == 1 and readers[0].target in _RELU and kind == "conv" else None
    return Site(str(node.args[weight].target), node, kind, (x, weight, bias), axis, relu)  # type: ignore[union-attr]


def _argument(node: fx.Node, place: int | None) -> Any:
    return node.args[place] if place is not None and place < len(node.args) else None


def _attribute(module: fx.GraphModule, node: Any) -> Tensor:
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    value: Tensor = found
    return value.detach()


def _weight(module: fx.GraphModule, site: Site) -> Weight:
    values = _attribute(module, site.node.args[site.places[1]])
    given = _argument(site.node, site.places[2])
    bias = None if given is None else _attribute(module, given).numpy()
    return Weight((values if site.axis == 0 else values.transpose(0, 1).contiguous()).numpy(), bias)
