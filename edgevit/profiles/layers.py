"""Where the milliseconds went: time of every layer in one schema for all runtimes, by operator, module and unit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field, field_validator

from edgevit.artifact.opened import Artifact
from edgevit.errors import GateMissed, UsageError
from edgevit.profiles.measure import load_feeds
from edgevit.runtimes.base import LayerTime, open_session

RUNS = 20


class Layers(BaseModel):
    """Layers in the order they ran. Timing single layers slows them down: ``total_ms`` is not the model's latency.

    source  who timed them, the runtime
    runs    inferences behind each figure
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    source: str
    runs: int
    layers: tuple[LayerTime, ...]

    @field_validator("layers")
    @classmethod
    def _times(cls, layers: tuple[LayerTime, ...]) -> tuple[LayerTime, ...]:
        for layer in layers:
            if not 0 <= layer.ms < inf:
                raise ValueError(f"{layer.name} took {layer.ms} ms")
        return layers

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator above property
    @property
    def total_ms(self) -> float:
        return sum(layer.ms for layer in self.layers)

    def by(self, field: str) -> dict[str, float]:
        """ms by "op", "module" or "unit", the largest first; layers without a known module are "(unknown)"."""
        found: dict[str, float] = {}
        for layer in self.layers:
            name = getattr(layer, field)
            key = "(unknown)" if name is None else name or "(model)"
            found[key] = found.get(key, 0.0) + layer.ms
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def share(self, unit: str) -> float:
        """Share of the time that was spent on ``unit`` (a provider or compute unit)."""
        return self.by("unit").get(unit.lower().removesuffix("executionprovider"), 0.0) / (self.total_ms or 1.0)


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: the ``Layers`` of ``payload["artifact"]`` as JSON. Raises what ``open_session`` raises, and
    Unsupported when the runtime does not tell."""
    feeds = load_feeds(Path(payload["feeds"]))
    opening = {key: payload[key] for key in ("threads", "provider", "trust", "options")}
    with open_session(Artifact.open(payload["artifact"]), payload["runtime"], **opening) as session:
        layers = tuple(session.layers(feeds, RUNS))
        return Layers(source=session.runtime, runs=RUNS, layers=layers).model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class Requirement:
    """``UNIT>=95%``: at least this share of the layers' time must be spent on a provider or compute unit."""

    unit: str
    share: float

    def check(self, layers: Layers) -> None:
        """GateMissed when less of the time was spent there; the sentence says where the rest went."""
        found = layers.share(self.unit)
        if found >= self.share:
            return
        rest = ", ".join(
            f"{ms / (layers.total_ms or 1.0):.0%} on {unit}"
            for unit, ms in layers.by("unit").items()
            if unit != self.unit
        )
        worst = ", ".join(dict.fromkeys(layer.op for layer in _elsewhere(layers, self.unit)))
        raise GateMissed(
            f"{found:.1%} of the time was spent on {self.unit}, {self.share:.0%} is required; {rest or 'no layer ran'}",
            hint=f"these operators ran elsewhere: {worst}" if worst else None,
        )


def _elsewhere(layers: Layers, unit: str) -> Sequence[LayerTime]:
    return sorted((layer for layer in layers.layers if layer.unit != unit), key=lambda layer: -layer.ms)[:5]


def parse_requirement(text: str) -> Requirement:
    """``cuda>=95%`` or ``ane>=0.95``; UsageError for anything else."""
    found = re.fullmatch(r"\s*([\w.-]+)\s*>=\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text)
    if not found:
        raise UsageError(f"--require {text!r} is not PROVIDER>=SHARE", hint='for example --require "cuda>=95%"')
    share = float(found[2]) / (100 if found[3] else 1)
    if not 0 < share <= 1:
        raise UsageError(
            f"--require {text!r} asks for a share of {share:.0%}", hint="a share is over 0 and at most 100 %"
        )
    return Requirement(found[1].lower().removesuffix("executionprovider"), share)
