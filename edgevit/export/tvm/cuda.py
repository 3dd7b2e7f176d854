"""GPU schedules: TVM's own default rules. Not tested by us; kept thin."""

from __future__ import annotations

from typing import Any

from tvm.s_tir import dlight

from edgevit.export.tvm.targets import BuildTarget


def schedule(module: Any, target: BuildTarget) -> Any:
    """Every function of ``module`` bound to blocks and threads."""
    gpu = dlight.gpu
    rules = (gpu.Matmul(), gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction(), gpu.Transpose(), gpu.Fallback())
    with target.tvm():
        return dlight.ApplyDefaultSchedule(*rules)(module)
