"""A float ONNX graph by other int8 tools: run by int8_rivals.py in an environment of their own, without edgevit.

python rivals_quantize.py MODEL.onnx ROWS.npz FOLDER     # the last line of stdout: {tool: {file, seconds} or {failed}}
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

MODEL, ROWS, FOLDER = (Path(word) for word in sys.argv[1:])
IMAGES = np.load(ROWS)["image"]


class Reader:
    """ONNX Runtime's calibration reader."""

    def __init__(self, name: str) -> None:
        self.rows: Iterator[dict[str, Any]] = iter([{name: IMAGES[i : i + 1]} for i in range(len(IMAGES))])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.rows, None)


def input_name() -> str:
    import onnx

    return str(onnx.load(MODEL, load_external_data=False).graph.input[0].name)


def stacked_products() -> list[str]:
    """Products by constants of three axes, which ONNX Runtime refuses per channel when it runs them."""
    import onnx

    graph = onnx.load(MODEL).graph
    stacked = {one.name for one in graph.initializer if len(one.dims) > 2}
    return [node.name for node in graph.node if node.op_type == "MatMul" and stacked & set(node.input)]


def ort_defaults(out: Path) -> Path:
    from onnxruntime.quantization import quantize_static

    quantize_static(MODEL, out / "model.onnx", Reader(input_name()))
    return out / "model.onnx"


def ort_best(out: Path) -> Path:
    """Unsigned activations, signed weights per channel, weighted operators only: what its documents advise for VNNI."""
    from onnxruntime.quantization import QuantType, quantize_static

    quantize_static(
        MODEL,
        out / "model.onnx",
        Reader(input_name()),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        nodes_to_exclude=stacked_products(),
        extra_options={"MatMulConstBOnly": True},
    )
    return out / "model.onnx"


def nncf_with(out: Path, *, transformer: bool) -> Path:
    import nncf
    import openvino as ov

    dataset = nncf.Dataset([IMAGES[index : index + 1] for index in range(len(IMAGES))])
    kind = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
    made = nncf.quantize(ov.Core().read_model(MODEL), dataset, subset_size=len(IMAGES), **kind)
    ov.save_model(made, out / "model.xml", compress_to_fp16=False)
    return out / "model.xml"


def modelopt(out: Path) -> Path:
    from modelopt.onnx.quantization import quantize

    copied = shutil.copy(MODEL, out / "float.onnx")
    quantize(
        str(copied),
        quantize_mode="int8",
        calibration_data={input_name(): IMAGES},
        calibration_eps=["cpu"],
        output_path=str(out / "model.onnx"),
        high_precision_dtype="fp32",
    )
    return out / "model.onnx"


TOOLS: dict[str, Callable[[Path], Path]] = {
    "quantize_static, defaults": ort_defaults,
    "quantize_static, best layout": ort_best,
    "NNCF": lambda out: nncf_with(out, transformer=False),
    "NNCF, transformer": lambda out: nncf_with(out, transformer=True),
    "modelopt": modelopt,
}


def main() -> None:
    logging.disable(logging.WARNING)
    found: dict[str, dict[str, Any]] = {}
    for number, (name, make) in enumerate(TOOLS.items()):
        out, begun = FOLDER / f"rival-{number}", time.monotonic()
        out.mkdir()
        try:
            with redirect_stdout(sys.stderr):
                found[name] = {"file": str(make(out)), "seconds": round(time.monotonic() - begun, 1)}
        except Exception as exc:  # whatever it raises is what its users see
            found[name] = {"failed": f"{type(exc).__name__}: {exc}".splitlines()[0][:300]}
        package = {"quantize_static": "onnxruntime", "NNCF": "nncf", "modelopt": "nvidia-modelopt"}[name.split(",")[0]]
        found[name]["version"] = version(package)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
