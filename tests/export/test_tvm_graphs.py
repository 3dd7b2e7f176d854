"""Random graphs compute the same whether their kernels are scheduled or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")
from hypothesis import HealthCheck, Phase, given, settings
from tvm_graphs import graphs, machines, outputs, scheduled, sizes

from edgevit.export.tvm import targets
from edgevit.export.tvm.schedules.machine import Machine


# no shrinking: each try compiles two programs, and the kernel's name says enough
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(module=graphs(), machine=machines())
def test_a_scheduled_graph_computes_what_the_unscheduled_one_does(module: Any, machine: Machine) -> None:
    target = targets.host(1)
    shape = sizes(module["main"].params[0])
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    plain, fast = (outputs(each, target, image) for each in (module, scheduled(module, machine)))
    for wanted, got in zip(plain, fast, strict=True):
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= 5e-6 * max(1.0, np.abs(wanted).max())
