"""What the TensorRT exporter decides and reads, without building anything."""

from __future__ import annotations

import pytest

from edgevit.engines.nvidia import FLAVORS
from edgevit.errors import ExportFailed, MissingDependency, Unsupported
from edgevit.export.onnx.places import Places
from edgevit.export.tensorrt.exporter import known_capabilities, make_lock
from edgevit.export.tensorrt.flavor import choose_flavor, driver_for
from edgevit.export.tensorrt.layers import (
    NetworkLayer,
    check_engine,
    check_network,
    confirmed,
    count_compute,
    dtype_name,
    engine_ends,
    engine_layers,
)
from edgevit.export.tensorrt.options import TensorRtOptions, check_flavor_has
from edgevit.export.tensorrt.progress import Phases, make_monitor
from edgevit.export.tensorrt.refusals import ParserError, build_refused, parser_refused
from edgevit.export.tensorrt.targets import JETSONS, choose_sms, parse_sms, sm_names

TENSORRT, RTX = FLAVORS["tensorrt"], FLAVORS["rtx"]


def installed(**versions: str):
    return lambda package: versions.get(package.replace("-", "_"))


BOTH = installed(tensorrt="11.1.0", tensorrt_cu13="11.1.0", tensorrt_rtx="1.7.1", tensorrt_rtx_cu13="1.7.1")


def test_the_installed_flavour_is_chosen_and_tensorrt_comes_first() -> None:
    assert choose_flavor("", BOTH) is TENSORRT
    assert choose_flavor("rtx", BOTH) is RTX
    assert choose_flavor("", installed(tensorrt_rtx="1.7.1")) is RTX
    with pytest.raises(MissingDependency, match="neither") as caught:
        choose_flavor("", installed())
    assert caught.value.hint.startswith("pip install")
    with pytest.raises(MissingDependency, match="TensorRT-RTX is not installed") as caught:
        choose_flavor("rtx", installed(tensorrt="10.13.0"))
    assert caught.value.hint == "pip install tensorrt-rtx"


@pytest.mark.parametrize(
    ("flavor", "versions", "cuda", "words"),
    [
        (RTX, {"tensorrt_rtx_cu13": "1"}, 13000, "r580"),
        (RTX, {"tensorrt_rtx_cu12": "1"}, 12090, "r575"),
        (TENSORRT, {"tensorrt_cu12": "10"}, 12020, "r535"),
        (TENSORRT, {"tensorrt": "10"}, 0, "unknown"),  # a system package: nothing says its CUDA
    ],
)
def test_the_driver_follows_from_the_wheel_s_cuda(flavor, versions, cuda, words) -> None:
    found = driver_for(flavor, installed(**versions))
    assert (found.cuda, found.words) == (cuda, words)


def test_capabilities_are_read_in_several_spellings() -> None:
    assert parse_sms("86,89,120") == parse_sms("8.6, sm_89 ,12.0") == (86, 89, 120)
    assert sm_names((89,)) == "8.9"
    assert sm_names((86, 89, 120), "or") == "8.6, 8.9 or 12.0"
    for bad in ("", "8.66", "ada", "86;89"):
        with pytest.raises(ValueError, match="not a compute capability"):
            parse_sms(bad)
    with pytest.raises(ValueError, match="twice"):
        parse_sms("86,8.6")


def test_rtx_builds_for_the_asked_the_present_or_the_usual_gpus() -> None:
    known = known_capabilities(RTX)
    assert {75, 86, 89, 120} <= set(known)
    assert choose_sms(RTX, (), None, known) == (86, 89, 120)
    assert choose_sms(RTX, (), 89, known) == (89,)
    assert choose_sms(RTX, (75,), 89, known) == (75,)
    with pytest.raises(Unsupported, match=r"SM 9\.0") as caught:  # a data-centre GPU
        choose_sms(RTX, (), 90, known)
    assert "flavor=tensorrt" in caught.value.hint


def test_tensorrt_builds_only_for_the_gpu_that_is_there() -> None:
    assert known_capabilities(TENSORRT) == []
    assert choose_sms(TENSORRT, (), 90, []) == choose_sms(TENSORRT, (90,), 90, []) == (90,)
    with pytest.raises(Unsupported, match="needs an NVIDIA GPU") as caught:
        choose_sms(TENSORRT, (), None, [])
    assert "flavor=rtx" in caught.value.hint
    with pytest.raises(Unsupported, match=r"SM 9\.0, not for SM 8\.6"):
        choose_sms(TENSORRT, (86,), 90, [])


def test_for_a_jetson_no_flavour_builds_elsewhere_and_the_hint_says_where() -> None:
    assert choose_sms(TENSORRT, (), 87, []) == (87,)
    known = known_capabilities(RTX)
    assert not set(JETSONS) & set(known)
    for flavor, gpu in ((RTX, None), (RTX, 89), (TENSORRT, None), (TENSORRT, 89)):
        with pytest.raises(Unsupported, match=r"GPU|SM") as caught:
            choose_sms(flavor, (87,), gpu, known)
        assert "Jetson Orin" in caught.value.hint, (flavor, gpu)
        assert "jetson.md" in caught.value.hint
        assert "flavor=rtx" not in caught.value.hint
    with pytest.raises(Unsupported, match=r"SM 8\.7") as caught:  # on the Jetson itself
        choose_sms(RTX, (), 87, known)
    assert "flavor=tensorrt" in caught.value.hint


def test_what_only_tensorrt_has_is_taken_there(tmp_path) -> None:
    options = TensorRtOptions(timing_cache="t", version_compatible=True)
    check_flavor_has(options, TENSORRT)
    with pytest.raises(Unsupported, match="timing cache"):
        check_flavor_has(options, RTX)
    (tmp_path / "e").write_bytes(b"engine")
    lock = make_lock(TENSORRT, "10.13", (87,), driver_for(TENSORRT, installed()), options, tmp_path / "e")
    assert (lock["accepts"], lock["sm"], lock["driver"]) == ("newer", [87], "unknown")
    assert lock["platform"] != "any"


# One layer each as TensorRT 10 and TensorRT-RTX 1.7 write it; RTX's is from a real build of vit_nano, shortened.
TRT10 = (
    "Layers:\nName: conv1 + relu1, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, Dimensions: "
    "[1,3,8,8], Format/Datatype: Row major linear FP16 format }], Outputs: [ { Name: y, Location: Device, Dimensions: "
    "[1,8,8,8], Format/Datatype: Channel major FP16 format where channel % 8 == 0 }], ParameterType: Convolution, "
    "TacticName: sm80_xmma, StreamId: 0, Metadata: [ONNX Layer: a/Conv]\x1f[ONNX Layer: a/Relu]\n\nBindings:\nx\ny"
)
RTX17 = (
    "Layers:\nName: s_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0"
    ", Metadata: \nName: a/Gemm_myl0_4, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [-1,64], Strides: [64,1], "
    "StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear format }], Constants: [ { Name: alpha, "
    "Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, Format: (Linear) Row major linear format }], "
    "Outputs: [ { Name: y, Dimensions: [-1,192], Strides: [192,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear)"
    " Row major linear format }], TacticName: __stub, StreamId: 0, Metadata: [ONNX Layer: a/Gemm][ONNX Layer: b/Gemm]"
    "\n\n"
    "I/O Tensors:\n Name: image, IOMode: Input, DataType: UInt8, Dimensions: [-1,8], Location: Device, "
    "IsShapeInferenceIO: false, ProfileInfo: [ { MinShape: [1,8], OptShape: [2,8], MaxShape: [4,8], Format: linear }]"
)


def test_a_listing_of_tensorrt_10_is_read() -> None:
    (layer,) = engine_layers(TRT10, {"a/Conv": "a", "a/Relu": "a"})
    assert (layer.name, layer.kind, layer.reads, layer.writes) == (
        "conv1 + relu1",
        "CaskConvolution",
        ("float16",),
        ("float16",),
    )
    assert layer.nodes == ("a/Conv", "a/Relu")
    assert layer.modules == ("a",)
    assert engine_ends(TRT10) == []


def test_a_listing_of_rtx_is_read_with_its_ends() -> None:
    shape, gemm = engine_layers(RTX17, {"a/Gemm": "a", "b/Gemm": "b"})
    assert (shape.kind, shape.reads, shape.nodes) == ("shape_call", (), ())
    assert (gemm.reads, gemm.writes, gemm.modules) == (("float16", "float32"), ("float16",), ("a", "b"))
    (end,) = engine_ends(RTX17)
    assert (end.mode, end.dtype, end.shape, end.profiles) == ("input", "uint8", (-1, 8), (((1, 8), (2, 8), (4, 8)),))


def test_a_builder_that_lists_nothing_gives_no_kernels() -> None:
    assert engine_layers("", {}) == []


@pytest.mark.parametrize(
    ("said", "name"), [("HALF", "float16"), ("Float", "float32"), ("INT64", "int64"), ("Bool", "bool")]
)
def test_types_are_called_as_in_numpy(said: str, name: str) -> None:
    assert dtype_name(said) == name


def network(*dtypes: str) -> list[NetworkLayer]:
    names = ("a/Gemm", "b/Gemm", "c/Gemm")
    return [NetworkLayer(name, "MATRIX_MULTIPLY", dtype, name, "") for name, dtype in zip(names, dtypes, strict=False)]


def test_a_layer_counts_as_fp16_when_a_kernel_of_it_reads_fp16() -> None:
    kernels = engine_layers(RTX17, {})
    assert count_compute(network("float16", "float32")) == {"float16": 1, "float32": 1}
    assert confirmed(network("float16", "float16"), kernels) == {"float16": 2}
    assert confirmed(network("float16", "float16", "float16"), kernels) == {"float16": 2}  # no kernel names c/Gemm


def test_precision_that_was_lost_on_the_way_is_an_error() -> None:
    kernels = engine_layers(RTX17, {})
    check_network({"float16": 2}, {"float16": 2})
    check_engine({"float16": 2}, {"float16": 2}, kernels)
    with pytest.raises(ExportFailed, match=r"ONNX graph has 2 float16 .* network 1 float16 and 1 float32"):
        check_network({"float16": 2}, {"float16": 1, "float32": 1})
    with pytest.raises(ExportFailed, match="1 fp16 layers have no fp16 kernel"):
        check_engine({"float16": 3}, {"float16": 2}, kernels)
    with pytest.raises(ExportFailed, match="a/Gemm_myl0_4 of an fp32 engine reads fp16"):
        check_engine({"float32": 2}, {"float32": 2}, kernels)


def test_parser_errors_are_told_apart() -> None:
    places = Places({"stem/Resize": "stem"}, {"stem/Resize": "net.py:7"})

    def refused(code: str, known: bool = True, said: str = "mode  cubic\n"):
        return parser_refused([ParserError(code, "stem/Resize", "Resize", said)], {"Resize": known}, places, "T")

    assert isinstance(refused("INVALID_NODE", known=False), Unsupported)
    attribute = refused("UNSUPPORTED_NODE_ATTR")
    assert isinstance(attribute, Unsupported)
    assert (
        str(attribute)
        == "T cannot take Resize with these attributes (node stem/Resize, module stem, net.py:7): mode cubic"
    )
    assert isinstance(refused("INVALID_NODE"), ExportFailed)
    lacking = refused("UNSUPPORTED_NODE", said="creator && V3: Resize plugin was not found in plugin registry.")
    assert str(lacking) == "T has no Resize (node stem/Resize, module stem, net.py:7)"
    assert "no reason" in str(parser_refused([], {}, Places({}), "T"))


def test_builder_errors_are_one_line_without_source_positions() -> None:
    said = "IBuilder: Error Code 1: Myelin (stem/Conv_U2 failed. In compileGraph at /_src/optimizer/x.cpp:12)\n"
    error = build_refused([said], Places({"stem/Conv": "stem", "stem": ""}), "T")
    assert str(error).startswith("T could not build the engine at stem/Conv (module stem): IBuilder")
    assert "/_src" not in str(error)
    assert "no reason" in str(build_refused([], Places({}), "T"))


def test_nested_phases_add_up_and_never_go_back() -> None:
    phases, seen = Phases(), list[float]()

    def then(call, *args) -> None:
        call(*args)
        seen.append(phases.fraction)

    then(phases.start, "build", 2)
    then(phases.start, "inner", 4)
    then(phases.step, "inner", 1)
    assert seen[-1] == pytest.approx(0.25)
    then(phases.finish, "inner")  # before its parent counts the step
    then(phases.step, "build", 0)
    assert phases.stage == "build"
    then(phases.step, "build", 1)
    then(phases.step, "never started", 0)
    then(phases.finish, "build")
    assert seen == sorted(seen)
    assert (seen[-1], phases.stage) == (1.0, "done")


def test_a_busy_builder_is_reported_a_few_times_a_second() -> None:
    trt, said, now = RTX.load(), list[str](), [0.0]
    monitor = make_monitor(trt, lambda stage, done: said.append(stage), clock=lambda: now[0])
    monitor.phase_start("Cloning network graph", None, 1000)
    for step in range(1000):
        now[0] += 0.011
        assert monitor.step_complete("Cloning network graph", step)
    monitor.phase_finish("Cloning network graph")
    assert 40 <= len(said) <= 60
    assert list(dict.fromkeys(said)) == [f"cloning network graph{elapsed}" for elapsed in ("", ", 5 s", ", 10 s")]
