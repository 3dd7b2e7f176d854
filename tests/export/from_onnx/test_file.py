from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_files import classifier, saved

from edgevit.errors import Unsupported, UsageError
from edgevit.export.from_onnx.file import read
from edgevit.request import ModelChoice


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest of a checkpoint", "PyTorch checkpoints"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"just some words that are no graph", "is not an ONNX file, or not all of it"),
        (b"\x08\x08", "holds no graph"),
    ],
    ids=["empty", "zip", "lfs", "html", "keras", "text", "headless"],
)
def test_what_is_no_onnx_file_is_said_to_be_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        read(path)
    assert caught.value.hint


def test_a_file_that_is_not_there_and_a_folder_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "none.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        read(tmp_path / "folder.onnx")


def test_half_a_file_is_no_file(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UsageError, match="not all of it"):
        read(path)


def test_a_file_beyond_what_protobuf_holds_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.write(b"\x08\x08\x12\x04")
        file.truncate((1 << 31) + 1)
    with pytest.raises(UsageError, match="larger than 2 GiB"):
        read(path)


def test_the_content_decides_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "net.bin")
    assert ModelChoice(str(path)).format == "onnx"
    assert ModelChoice(str(tmp_path / "missing.onnx")).format == "onnx"
    (tmp_path / "words.txt").write_text("fmvit_nano")
    for other in ("fmvit_nano", "timm:resnet18", str(tmp_path / "words.txt"), str(tmp_path / "x.py:make")):
        assert ModelChoice(other).format == "torch"


def test_weights_beside_the_file_are_part_of_it(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "model.onnx", external="w.data")
    first = read(path).sha256
    content = bytearray((tmp_path / "w.data").read_bytes())
    content[0] ^= 1
    (tmp_path / "w.data").write_bytes(content)
    assert read(path).sha256 != first
    (tmp_path / "w.data").write_bytes(content[:-8])
    with pytest.raises(UsageError, match=r"w\.data.* is shorter"):
        read(path)
    (tmp_path / "w.data").unlink()
    with pytest.raises(UsageError, match=r"are in w\.data, which is not there") as caught:
        read(path)
    assert caught.value.hint == "copy w.data beside it"


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.data", "a/../../w.data", ""])
def test_weights_outside_the_folder_are_not_read(tmp_path: Path, location: str) -> None:
    path = saved(classifier(), tmp_path / "model.onnx", external="w.data")
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="not in its folder"):
        read(path)


def without(model: ModelProto, name: str) -> None:
    (node,) = (node for node in model.graph.node if node.name == name)
    model.graph.node.remove(node)


def foreign(model: ModelProto) -> None:
    next(node for node in model.graph.node if node.name == "relu").domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def unknown(model: ModelProto) -> None:
    next(node for node in model.graph.node if node.name == "relu").op_type = "Rely"


def quantised(model: ModelProto) -> None:
    next(node for node in model.graph.node if node.name == "head").op_type = "MatMulInteger"


def inside_a_branch(model: ModelProto) -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    cast = helper.make_node("QuantizeLinear", ["relu", "s"], ["y"], "q")
    branch = helper.make_graph([cast], "b", [], [value])
    model.graph.node.append(helper.make_node("If", ["c"], ["unused"], "if", then_branch=branch, else_branch=branch))


def halved(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def new(model: ModelProto) -> None:
    model.ir_version = onnx.IR_VERSION + 1


def newer(model: ModelProto) -> None:
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1


def old(model: ModelProto) -> None:
    model.opset_import[0].version = 6


def sequence(model: ModelProto) -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.output[0].type.CopyFrom(kind)


def handed_back(model: ModelProto) -> None:
    model.graph.output.append(model.graph.input[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (handed_back, "gives its input images back as an output"),
        (foreign, r"operators that are not ONNX's own: com\.microsoft\.Relu"),
        (unknown, "operators that ONNX does not have: Rely"),
        (quantised, "quantised already: it holds MatMulInteger"),
        (inside_a_branch, "quantised already: it holds QuantizeLinear"),
        (halved, "is in float16 already"),
        (new, "is newer than the onnx"),
        (newer, "is newer than the onnx"),
        (old, "is of opset 6, older than 7"),
        (sequence, "output output0 .* is no tensor"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_nothing_can_be_built_from_is_refused_with_the_way_out(
    tmp_path: Path, change: Callable[[ModelProto], None], said: str
) -> None:
    with pytest.raises(Unsupported, match=said) as caught:
        read(saved(classifier(change=change), tmp_path / "model.onnx"))
    assert caught.value.hint


def test_a_graph_whose_ends_do_not_meet_is_no_valid_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no valid ONNX model"):
        read(saved(classifier(change=lambda model: without(model, "relu")), tmp_path / "model.onnx"))


def test_functions_of_the_files_own_are_no_foreign_operators(tmp_path: Path) -> None:
    def own(model: ModelProto) -> None:
        node = next(node for node in model.graph.node if node.name == "relu")
        node.domain, node.op_type = "mine", "Rectify"
        body = [helper.make_node("Relu", ["a"], ["b"])]
        opsets = [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("mine", "Rectify", ["a"], ["b"], body, opsets))
        model.opset_import.append(helper.make_opsetid("mine", 1))

    assert read(saved(classifier(change=own), tmp_path / "model.onnx")).sha256
