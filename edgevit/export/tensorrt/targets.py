"""Compute capabilities: 89 is SM 8.9. Which ones an engine is built for, and which GPU is in this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgevit.engines.nvidia import Flavor
from edgevit.errors import Unsupported

WITHOUT_GPU = (86, 89, 120)  # the desktop and laptop RTX generations: Ampere, Ada, Blackwell
# TensorRT-RTX knows none of them: ComputeCapability of 1.7.1 has 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1, for desktop GPUs
JETSONS = {72: "Jetson Xavier", 87: "Jetson Orin", 101: "Jetson Thor", 110: "Jetson Thor"}


def parse_sms(text: str) -> tuple[int, ...]:
    """ "86,89,120" or "8.6, 8.9": capabilities in the order given. ValueError for anything else."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(?:sm_?)?(?:(\d{1,2})\.(\d)|(\d{2,3}))", part.strip().lower())
        if match is None:
            raise ValueError(f"{part.strip()!r} is not a compute capability; write for example 86,89,120")
        found.append(int(match[3] or match[1] + match[2]))
    if len(set(found)) != len(found):
        raise ValueError(f"{text} names a compute capability twice")
    return tuple(found)


def sm_name(sm: int) -> str:
    """89 -> "8.9"."""
    return f"{sm // 10}.{sm % 10}"


def sm_names(sms: Iterable[int], last: str = "and") -> str:
    """(86, 89, 120) -> "8.6, 8.9 and 12.0"."""
    names = [sm_name(sm) for sm in sms]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _elsewhere(asked: Iterable[int], otherwise: str) -> str:
    """The next step for capabilities that are not built for here: ``otherwise``, but for a Jetson's."""
    board = next((JETSONS[sm] for sm in asked if sm in JETSONS), None)
    if board is None:
        return otherwise
    return f"for a {board} export -t onnx here, and build the engine on it (docs/how-to/jetson.md)"


def _own_sm(flavor: Flavor, asked: tuple[int, ...], gpu: int | None) -> int:
    """The GPU's, for a flavour that builds on the GPU that its engine is for."""
    if gpu is None:
        other = "add --option tensorrt.flavor=rtx (pip install tensorrt-rtx): it builds without one"
        raise Unsupported(
            f"needs an NVIDIA GPU: {flavor.title} builds on the GPU that its engine is for",
            hint=_elsewhere(asked, other),
        )
    if asked not in ((), (gpu,)):
        raise Unsupported(
            f"{flavor.title} builds for the GPU that is there, SM {sm_name(gpu)}, not for SM {sm_names(asked)}",
            hint=_elsewhere(asked, "build on that GPU, or add --option tensorrt.flavor=rtx"),
        )
    return gpu


def choose_sms(flavor: Flavor, asked: tuple[int, ...], gpu: int | None, known: Iterable[int]) -> tuple[int, ...]:
    """What to build for: ``asked``, else the GPU's, else ``WITHOUT_GPU``.

    ``known`` are the capabilities that the flavour can target (empty where it takes only the GPU that is there).
    Unsupported, with the alternative, for one that cannot be built.
    """
    if not flavor.ahead_of_time:
        return (_own_sm(flavor, asked, gpu),)
    chosen = asked or ((gpu,) if gpu is not None else WITHOUT_GPU)
    known = sorted(known)
    if lacking := [sm for sm in chosen if sm not in known]:
        there = "use --option tensorrt.flavor=tensorrt on that GPU"
        hint = _elsewhere(asked, f"it knows SM {sm_names(known)}") if asked else there
        raise Unsupported(f"{flavor.title} does not build for SM {sm_names(lacking)}", hint=hint)
    return chosen
