"""Three node processes, and an operator who looks at them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from fleet.fleet_nodes import Nodes, nodes
from fleet.tiny_fleet import make_bundle
from waiting import wait_for

from edgevit.bundle.opened import Bundle
from edgevit.fleet.agent.known import known_infos
from edgevit.fleet.bus.messages import Info
from edgevit.fleet.operating.deploy import drain, undeploy
from edgevit.fleet.operating.operator import Operator

NAMES = ("a", "b", "c")


class Operated:
    def __init__(self, running: Nodes, operator: Operator, memory_bytes: int) -> None:
        self.running, self.operator, self.memory_bytes = running, operator, memory_bytes

    @classmethod
    @contextmanager
    def by(cls, home: Path, memory_bytes: int) -> Iterator[Self]:
        """Nodes of so much memory and their operator, all with this ``EDGEVIT_HOME``."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGEVIT_HOME", str(home))
            with nodes(home) as running, Operator.on(None) as operator:
                made = cls(running, operator, memory_bytes)
                made.start(*NAMES)
                yield made

    def start(self, *names: str) -> None:
        self.running.start(*names, memory_bytes=self.memory_bytes)

    def emptied(self) -> Self:
        """Once all of them are there, hold nothing, and take what they are given."""
        wait_for(lambda: tuple(sorted(self.infos())) == NAMES)
        for name, known in self.operator.placements().items():
            if not known.withdrawn:
                undeploy(name)
        for name, info in self.infos().items():
            if info.drained:
                drain(name, undo=True)
        return self

    def infos(self) -> dict[str, Info]:
        return {one.node: one for one in known_infos(self.operator.bus, self.operator.names)}

    def ready(self) -> dict[str, list[str]]:
        """node -> its loaded parts."""
        held = {name: info.held for name, info in self.infos().items()}
        return {name: sorted(one.part for one in parts if one.state == "ready") for name, parts in held.items()}


def bundle_of(folder: Path, parts: int = 3, seed: int = 0) -> Bundle:
    return Bundle.open(make_bundle(folder, parts=parts, seed=seed))
