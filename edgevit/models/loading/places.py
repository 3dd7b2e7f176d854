"""Where in a file of weights the names of a model stand: under which keys, behind which prefix, in whose wrappers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Value = TypeVar("Value")

# What DistributedDataParallel, torch.compile, FSDP, checkpointing and Lightning put into names, at any depth.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Words in a key that say that the weights under it are averages of training's, whoever's trainer wrote them.
_AVERAGED = re.compile(r"(model|net|params?|weights?|state|dict)?(ema|swa)(model|net|params?|weights?|state|dict)?\d*")
_AVERAGED_WORDS = {"averaged", "average", "avg", "polyak", "shadow"}
_COUNT = "n_averaged"  # beside the weights of torch.optim.swa_utils.AveragedModel
_MOST, _DEEPEST = 256, 12  # prefixes that are tried, and parts of one


@dataclass(frozen=True, eq=False)
class Place:
    """A part of a file that may hold a model's weights.

    home    the dict that it lies in: "", "state_dict", "callbacks.ema"
    prefix  what its names begin with there, wrappers left out: "", "backbone."
    state   tensors by the rest of the name
    beside  names in the same dict that begin with something else
    updates how often weights were averaged into it; None where it is not counted
    """

    home: str
    prefix: str
    state: Mapping[str, Tensor]
    beside: Mapping[str, Tensor]
    updates: int | None

    @property
    def name(self) -> str:
        """What stands behind "#" to mean this place, as in w.pth#state_dict.backbone."""
        return ".".join(part for part in (self.home, self.prefix.rstrip(".")) if part)

    @property
    def averaged(self) -> bool:
        if self.updates is not None:
            return self.updates > 0  # a copy that was never updated holds what training began with
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name)
        return any(
            word in _AVERAGED_WORDS or _AVERAGED.fullmatch(word) for word in re.split(r"[^a-z0-9]+", words.lower())
        )


def places(sets: Mapping[str, Mapping[str, Tensor]], least: int) -> Iterator[Place]:
    """Every dict of the file as a whole, and its parts of ``least`` tensors or more that share a prefix; the
    shallowest first."""
    for home, state in sets.items():
        named = without_wrappers(state)
        for prefix in _prefixes(named, least):
            below = {name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)}
            count = below.pop(_COUNT, None)
            beside = {name: value for name, value in named.items() if not name.startswith(prefix)}
            yield Place(home, prefix, below, beside, None if count is None or count.numel() != 1 else int(count))


def without_wrappers(state: Mapping[str, Value]) -> dict[str, Value]:
    """``state`` under names without the wrappers' parts; as it is where two names would become one."""
    plain = {".".join(part for part in name.split(".") if part not in _WRAPPERS): name for name in state}
    return {short: state[name] for short, name in plain.items()} if len(plain) == len(state) else dict(state)


def _prefixes(names: Iterable[str], least: int) -> list[str]:
    counted: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        counted.update(".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), _DEEPEST)))
    found = [prefix for prefix, count in counted.items() if count >= least]
    return ["", *sorted(found, key=lambda prefix: prefix.count("."))[:_MOST]]
