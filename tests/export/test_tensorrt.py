"""Real engines, built ahead of time by TensorRT-RTX on this machine. Opening them needs a GPU and is not tested."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import edgevit
from edgevit import worker
from edgevit.artifact.files import sha256_of
from edgevit.artifact.manifest import BatchRange
from edgevit.engines.nvidia import FLAVORS
from edgevit.errors import ExportFailed, MissingDependency, UnknownName, Unsupported, UsageError
from edgevit.export.base import Built, Capture, Context, parse_options
from edgevit.export.capture import bake_preprocess, capture
from edgevit.export.onnx import OnnxExporter, OnnxOptions
from edgevit.export.tensorrt.compile import Job
from edgevit.export.tensorrt.exporter import TensorRtExporter, make_job, profile_shapes, run
from edgevit.export.tensorrt.graph import cast_bytes_first, prepare_graph
from edgevit.export.tensorrt.here import here
from edgevit.export.tensorrt.options import TensorRtOptions
from edgevit.images import Preprocess
from edgevit.quantize.plan import NVIDIA
from edgevit.quantize.planning import plan_int8
from edgevit.sizes import as_sizes

NANOS = ("vit_nano", "efficientformer_nano", "fmvit_nano")
QUICK = {"sm": "89", "optimization_level": 0}  # one GPU's engine, not the best one: where that is not the subject
ONE, RANGE = BatchRange(min=1, max=1), BatchRange(min=1, max=8)
RTX = FLAVORS["rtx"]


def captured(name: str, batch: BatchRange) -> Capture:
    deploy = edgevit.reparameterize(edgevit.create_model(name, weights="digits"))
    images = np.random.default_rng(0).standard_normal((16, 3, 32, 32)).astype(np.float32)
    return capture(deploy, {"image": images}, batch, alone="logits")


@pytest.fixture(scope="module")
def captures() -> dict[str, Capture]:
    return {name: captured(name, RANGE if name == "vit_nano" else ONE) for name in NANOS}


@pytest.fixture(scope="module", autouse=True)
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The ONNX graph of a capture is made once for all the engines that are built from it."""
    kept: dict[tuple[int, str], tuple[Capture, Path, Built]] = {}

    class Kept(OnnxExporter):
        def write(self, capture: Capture, folder: Path, *, precision: str, **given) -> Built:
            key = (id(capture), precision)
            if key not in kept:
                made = tmp_path_factory.mktemp("graph")
                kept[key] = (capture, made, super().write(capture, made, precision=precision, **given))
            shutil.copytree(kept[key][1], folder, dirs_exist_ok=True)
            return kept[key][2]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgevit.export.tensorrt.exporter.OnnxExporter", Kept)
        yield


def write(found: Capture, folder: Path, precision: str = "fp32", context: Context | None = None, **options) -> Built:
    chosen = TensorRtOptions(**options)
    return TensorRtExporter().write(
        found, folder, precision=precision, options=chosen, context=context or Context(threads=1)
    )


def stored(folder: Path) -> dict:
    return json.loads((folder / "layers.json").read_text())


@dataclasses.dataclass(frozen=True)
class Engine:
    folder: Path
    built: Built
    heard: list[tuple[str, float | None]]

    @property
    def layers(self) -> dict:
        return stored(self.folder)


@pytest.fixture(scope="module")
def engines(captures: dict[str, Capture], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Engine]:
    """A nano model's engine in a precision, built once."""

    @functools.cache
    def engine(name: str, precision: str) -> Engine:
        folder, heard = tmp_path_factory.mktemp(name), list[tuple[str, float | None]]()
        context = Context(progress=lambda stage, done: heard.append((stage, done)), threads=1)
        chosen = {"fmvit_nano": {}, "vit_nano": {**QUICK, "opt_batch": 4}, "efficientformer_nano": QUICK}[name]
        return Engine(folder, write(captures[name], folder, precision, context, **chosen), heard)

    return engine


@pytest.mark.parametrize(
    ("name", "precision"),
    [("vit_nano", "fp32"), ("vit_nano", "fp16"), ("fmvit_nano", "fp32"), ("efficientformer_nano", "fp16")],
)
def test_a_nano_model_becomes_an_engine_of_the_asked_precision(engines, name: str, precision: str) -> None:
    engine = engines(name, precision)
    built, kernels = engine.built, engine.layers["engine"]
    assert sorted(path.name for path in engine.folder.iterdir()) == ["layers.json", "model.engine"]
    assert set(built.precision.layers) == {precision.replace("fp", "float")}
    assert sum(built.precision.layers.values()) >= 25
    reads = {dtype for kernel in kernels for dtype in kernel["reads"]}
    assert reads == ({"float32"} if precision == "fp32" else {"float16", "float32"})
    assert f"{len(kernels)} kernels" in built.notes[1]
    assert built.lock["sha256"] == sha256_of(engine.folder / "model.engine")
    assert built.versions["tensorrt-rtx"] == built.lock["version"] == RTX.version()


def test_integers_are_multiplied_by_kernels_that_read_them(captures: dict[str, Capture], tmp_path: Path) -> None:
    rows = {"image": np.random.default_rng(1).standard_normal((32, 3, 32, 32)).astype(np.float32)}
    found = captures["efficientformer_nano"]
    built = write(dataclasses.replace(found, plan=plan_int8(found, rows, "rows")), tmp_path, "int8", **QUICK)
    assert built.plan is not None
    assert built.plan.encoding == NVIDIA
    assert built.operators == built.precision.layers["int8"] == len(built.plan.layers) == 22
    assert "22 int8" in built.notes[1].partition("found among")[2]
    kinds = {layer["kind"] for layer in stored(tmp_path)["engine"] if "int8" in layer["reads"]}
    assert kinds & {"gemm", "correlation"}


def test_without_a_gpu_the_default_capabilities_are_said_and_locked(engines) -> None:
    engine = engines("fmvit_nano", "fp32")
    lock = engine.built.lock
    assert lock["sm"] == [86, 89, 120]
    assert "SM 8.6, 8.9 and 12.0 (default without a GPU)" in engine.built.notes[0]
    assert any("for SM 8.6, 8.9 and 12.0" in stage for stage, _ in engine.heard)
    assert [lock[key] for key in ("flavor", "accepts", "platform", "driver")] == ["rtx", "same", "any", "r580"]
    assert lock["cuda_driver"] == 13000


def test_progress_grows_through_the_builder_s_phases(engines) -> None:
    heard = engines("fmvit_nano", "fp32").heard
    fractions = [done for _, done in heard if done is not None]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1
    assert any("optimizing graph" in stage for stage, _ in heard)


def test_a_batch_range_becomes_the_engine_s_own_profile(engines) -> None:
    image, logits = engines("vit_nano", "fp32").layers["ends"]
    assert (image["name"], image["shape"]) == ("image", [-1, 3, 32, 32])
    assert image["profiles"] == [[[1, 3, 32, 32], [4, 3, 32, 32], [8, 3, 32, 32]]]
    assert (logits["name"], logits["shape"], logits["dtype"]) == ("logits", [-1, 10], "float32")


def test_the_profile_is_tuned_for_the_largest_batch_unless_told(captures: dict[str, Capture]) -> None:
    inputs = captures["vit_nano"].inputs
    assert profile_shapes(inputs, RANGE, TensorRtOptions())["image"][1] == (8, 3, 32, 32)
    assert profile_shapes(captures["fmvit_nano"].inputs, ONE, TensorRtOptions()) == {}
    with pytest.raises(UsageError, match=r"opt_batch=9 lies outside the batch range 1-8"):
        profile_shapes(inputs, RANGE, TensorRtOptions(opt_batch=9))


def test_a_range_of_sizes_is_in_the_profile_too_tuned_for_the_model_s_own(captures: dict[str, Capture]) -> None:
    (image,) = captures["vit_nano"].inputs
    free = image.model_copy(update={"sides": {"2": "height", "3": "width"}})
    found = profile_shapes((free,), RANGE, TensorRtOptions(opt_batch=2), as_sizes("16-64x32-96/16"))
    assert found == {"image": ((1, 3, 16, 32), (2, 3, 32, 32), (8, 3, 64, 96))}


def test_kernels_name_the_nodes_and_modules_that_were_fused_into_them(engines) -> None:
    found = engines("vit_nano", "fp16").layers
    modules = {module for kernel in found["engine"] for module in kernel["modules"]}
    assert {"patch_embed.proj", "blocks.0.attn.q", "head"} <= modules
    assert any(len(kernel["nodes"]) > 2 for kernel in found["engine"])
    by_node = {layer["node"]: layer for layer in found["network"]}
    assert by_node["head/Gemm"]["module"] == "head"
    assert not any("_empty_nn_module_stack" in layer["module"] for layer in found["network"])


def test_two_builds_give_the_same_bytes(engines, captures: dict[str, Capture], tmp_path: Path) -> None:
    first = engines("vit_nano", "fp16").folder
    write(captures["vit_nano"], tmp_path, "fp16", **QUICK, opt_batch=4)
    for file in ("model.engine", "layers.json"):
        assert (tmp_path / file).read_bytes() == (first / file).read_bytes()


def test_pixels_go_in_as_bytes_where_preprocessing_is_baked_and_one_capability_may_be_asked_for(
    tmp_path: Path,
) -> None:
    deploy = edgevit.reparameterize(edgevit.create_model("fmvit_nano", weights="digits"))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    baked = bake_preprocess(deploy, Preprocess(size=(32, 32)))
    built = write(capture(baked, {"image": pixels}, ONE, alone="logits"), tmp_path, **QUICK)
    image = stored(tmp_path)["ends"][0]
    assert (image["dtype"], image["shape"]) == ("uint8", [1, 32, 32, 3])
    assert built.lock["sm"] == [89]
    assert "SM 8.9 (as asked)" in built.notes[0]


def test_bytes_are_cast_before_anything_else_and_mean_the_same() -> None:
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 4, 4, 3])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 4, 4])
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["moved"], perm=[0, 3, 1, 2], name="move"),
        helper.make_node("Cast", ["moved"], ["float"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Neg", ["float"], ["out"], name="negate"),
    ]
    imports = [helper.make_opsetid("", 20)]
    model = helper.make_model(helper.make_graph(nodes, "g", [pixels], [out]), opset_imports=imports, ir_version=10)
    feeds = {"pixels": np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)}
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    assert cast_bytes_first(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.name for node in model.graph.node] == ["cast", "move", "negate"]
    assert (onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0] == before).all()
    assert not cast_bytes_first(model)


def test_a_capability_that_the_flavour_lacks_is_refused_with_those_it_knows(
    captures: dict[str, Capture], tmp_path: Path
) -> None:
    with pytest.raises(Unsupported, match=r"TensorRT-RTX does not build for SM 9\.0") as caught:
        write(captures["fmvit_nano"], tmp_path, sm="89,90")
    assert "12.0" in caught.value.hint


def test_fp32_for_turing_is_refused_by_node_and_fp16_builds(captures: dict[str, Capture], tmp_path: Path) -> None:
    with pytest.raises(
        Unsupported,
        match=r"cannot compile blocks\.\d\.attn\.\w/Gemm \(module .*\) for SM 7\.5: FP32 GEMM is not supported",
    ) as caught:
        write(captures["vit_nano"], tmp_path, sm="75", optimization_level=0)
    assert "--precision fp16" in caught.value.hint
    assert write(captures["vit_nano"], tmp_path, "fp16", sm="75", optimization_level=0).lock["sm"] == [75]


@pytest.mark.parametrize("option", [{"timing_cache": "t.cache"}, {"version_compatible": True}])
def test_what_rtx_lacks_is_refused_with_the_alternative(captures: dict[str, Capture], tmp_path: Path, option) -> None:
    with pytest.raises(Unsupported, match="TensorRT-RTX") as caught:
        write(captures["fmvit_nano"], tmp_path, **option)
    assert "runtime_cache" in caught.value.hint or "flavor=tensorrt" in caught.value.hint


def test_a_flavour_that_is_not_installed_gets_its_pip_line(captures: dict[str, Capture], tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match="TensorRT is not installed") as caught:
        write(captures["fmvit_nano"], tmp_path, flavor="tensorrt")
    assert caught.value.hint == "pip install tensorrt"


def test_options_of_the_command_line_are_checked() -> None:
    exporter = TensorRtExporter()
    made = parse_options(exporter, {"sm": "8.6, 8.9", "optimization_level": "5", "workspace_mb": "256"})
    assert made.model_dump()["sm"] == "86,89"
    with pytest.raises(UsageError, match=r"tensorrt\.sm: .*'ada' is not a compute capability"):
        parse_options(exporter, {"sm": "ada"})
    with pytest.raises(UsageError, match=r"tensorrt\.optimization_level"):
        parse_options(exporter, {"optimization_level": "6"})
    with pytest.raises(UsageError, match=r"tensorrt\.flavor"):
        parse_options(exporter, {"flavor": "trt"})
    with pytest.raises(UnknownName, match="option of tensorrt 'opt_bach'"):
        parse_options(exporter, {"opt_bach": "4"})


@pytest.fixture(scope="module")
def exported(captures: dict[str, Capture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    OnnxExporter().write(
        captures["fmvit_nano"], folder, precision="fp32", options=OnnxOptions(), context=Context(threads=1)
    )
    return folder / "model.onnx"


@pytest.fixture
def graph(exported: Path, tmp_path: Path) -> Path:
    """A copy, which a build may rewrite."""
    return shutil.copy(exported, tmp_path / "graph.onnx")


def job_for(graph: Path, folder: Path, **changes) -> dict:
    made = make_job(graph, folder, RTX, (89,), {}, TensorRtOptions(), 1)
    return {**made, **changes}


def test_a_build_that_takes_too_long_is_killed_and_says_so(graph: Path, tmp_path: Path) -> None:
    context = Context(timeout_s=0.3)
    with pytest.raises(ExportFailed, match=r"did not finish within 0\.3 s") as caught:
        run(job_for(graph, tmp_path), RTX, context, time.monotonic())
    assert "--timeout" in caught.value.hint
    assert not (tmp_path / "model.engine").exists()
    with pytest.raises(ExportFailed, match="did not finish"):  # spent before the worker could begin
        run(job_for(graph, tmp_path), RTX, context, time.monotonic() - 1)


def test_a_build_that_dies_is_an_export_that_failed(graph: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no such folder" / "model.engine")
    with pytest.raises(ExportFailed, match="TensorRT-RTX build failed: FileNotFoundError"):
        run(job_for(graph, tmp_path, engine=nowhere), RTX, Context(), time.monotonic())


def test_a_workspace_that_fits_nothing_is_said(captures: dict[str, Capture], tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="fits the workspace limit") as caught:
        write(captures["vit_nano"], tmp_path, workspace_mb=1, **QUICK)
    assert "workspace_mb" in caught.value.hint


def one_node(folder: Path, operator: str, inputs: int = 1, domain: str = "") -> Path:
    names = [f"in{index}" for index in range(inputs)]
    node = helper.make_node(operator, names, ["out"], name=f"stem.act/{operator}", domain=domain)
    node.metadata_props.append(onnx.StringStringEntryProto(key="edgevit.module", value="stem.act"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in names]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    imports = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(helper.make_graph([node], "g", ends, [out]), opset_imports=imports, ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize(("operator", "domain"), [("Det", ""), ("Unique", ""), ("Wavelet", "my.ops")])
def test_an_operator_that_tensorrt_lacks_is_named_with_its_module(tmp_path: Path, operator: str, domain: str) -> None:
    path = one_node(tmp_path, operator, domain=domain)
    with pytest.raises(Unsupported, match=rf"{operator}.*\(node stem\.act/{operator}, module stem\.act\)") as caught:
        run(job_for(path, tmp_path), RTX, Context(), time.monotonic())
    assert "-t onnx" in caught.value.hint
    assert not (tmp_path / "model.engine").exists()


def test_a_layer_that_the_builder_refuses_is_named_with_its_module(tmp_path: Path) -> None:
    path = one_node(tmp_path, "GridSample", inputs=2)
    with pytest.raises(ExportFailed, match=r"at stem\.act/GridSample \(module stem\.act\): .*must be 2"):
        run(job_for(path, tmp_path), RTX, Context(), time.monotonic())


def test_a_file_that_is_no_graph_is_an_export_that_failed(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage" * 10)
    job = Job(
        "rtx", str(tmp_path / "model.onnx"), str(tmp_path / "e"), str(tmp_path / "l"), (), {}, {}, 3, 0, "", False
    )
    with pytest.raises(ExportFailed, match="could not read the ONNX graph"):
        worker.call("edgevit.export.tensorrt.compile:compile_engine", dataclasses.asdict(job))


def test_node_names_lead_to_modules(graph: Path) -> None:
    found = prepare_graph(graph).modules
    assert found
    assert all(not module or node.startswith(f"{module}/") for node, module in found.items())


def test_this_machine_builds_ahead_of_time() -> None:
    found = here()
    assert found.able
    assert found.sentence == f"TensorRT-RTX {RTX.version()} builds without a GPU, by default for SM 8.6, 8.9 and 12.0"
