from __future__ import annotations

import onnx_ir as ir


def apply_all(model: ir.Model) -> None:
    pass
