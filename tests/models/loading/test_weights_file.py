"""Files of weights as trainers leave them: read by content, without running code; what is none of them is named."""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import io
import os
import pathlib
import pickle
import types
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.errors import UsageError
from edgevit.models.loading.checkpoint import CheckpointMeta, save_checkpoint
from edgevit.models.loading.weights_file import read_weights

META = CheckpointMeta(model="vit_nano", num_classes=3, image_size=(32, 32))
WEIGHTS = {"w": torch.arange(4.0)}


class Code:
    """Something whose unpickling would run code."""

    def __reduce__(self):
        return (print, ("this must not run",))


class Other:
    """A class of somebody's own."""


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1, out=pathlib.Path("runs"), decay=np.float32(0.1)),  # timm's trainer
        np.float64(0.5),
        np.int64(7),
        np.bool_(True),
        np.array(["a", "b"]),
        np.array([1, None], dtype=object),
        collections.defaultdict(list, {"loss": [1.0, np.float64(2)]}),
        collections.deque([1, 2], maxlen=3),
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        pathlib.PurePosixPath("a/b"),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        datetime.timedelta(3),
        types.SimpleNamespace(a=1),
        torch.__version__,
        frozenset([1]),
        range(3),
        int,
        3j,
        b"bytes",
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_trainers_put_beside_weights_is_passed_over(tmp_path, beside, zipped):
    path = tmp_path / "w.pth"
    content = {"args": beside, "model": WEIGHTS, "best": beside}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    sets = read_weights(path).sets
    assert list(sets) == ["model"]
    assert torch.equal(sets["model"]["w"], WEIGHTS["w"])


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">f4"),
        np.array(2.5),
        np.zeros((0, 3), np.float32),
        np.array([1 + 2j]),
        np.array([True, False]),
        np.arange(4, dtype=np.int8),
    ],
    ids=str,
)
def test_numpy_arrays_are_weights_too(tmp_path, array):
    torch.save({"w": array}, tmp_path / "w.pt")
    found = read_weights(tmp_path / "w.pt").sets[""]["w"]
    assert np.array_equal(found.numpy(), array)
    assert found.shape == array.shape
    assert found.dtype == torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype


@pytest.mark.parametrize(
    "broken", [{"state": (1, (2,), "x", False, b"1234")}, {"state": ()}, {"state": (1, (9,), None)}]
)
def test_an_array_that_contradicts_itself_is_no_weight(broken):
    from edgevit.models.loading.inert import DType, NumpyArray

    array = NumpyArray()
    array.__setstate__(broken["state"])
    assert array.tensor() is None
    for shape in ((3,), (10**12,), (-1,), (True,), [1], "4"):
        array.__setstate__((1, shape, DType("f4"), False, b"12345678"))
        assert array.tensor() is None


@pytest.mark.parametrize(
    ("thing", "name"),
    [(Code(), "print"), (Other(), "test_weights_file.Other"), (nn.Linear(1, 1), "torch.nn.modules.linear.Linear")],
)
def test_a_file_with_code_in_it_is_refused_with_its_name_and_not_run(tmp_path, capfd, thing, name):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": WEIGHTS, "x": thing}, path)
    with pytest.raises(UsageError, match="would run code") as caught:
        read_weights(path)
    assert name in str(caught.value)
    assert "safetensors" in caught.value.hint
    assert "must not run" not in capfd.readouterr().out


def packed(pack) -> bytes:
    buffer = io.BytesIO()
    pack(buffer)
    return buffer.getvalue()


def a_zip(buffer, **files: bytes) -> None:
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", data)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "a web page, not weights"),
        (b"\xef\xbb\xbf\r\n  <html>", "a web page, not weights"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer"),
        (b"/annex/objects/SHA256E-s1--00.pth\n", "a git-annex pointer"),
        (b'{"error": "not found"}', "JSON, not weights"),
        (gzip.compress(b"x", mtime=0), "a gzip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        (packed(lambda buffer: np.save(buffer, np.ones(3))), "a NumPy array"),
        (packed(lambda buffer: a_zip(buffer, w_npy=b"x")), "a zip archive, not a torch checkpoint"),
        (packed(lambda buffer: torch.jit.save(torch.jit.script(nn.Linear(1, 1)), buffer)), "a TorchScript program"),
        (packed(lambda buffer: a_zip(buffer, data_pkl=bytes(3_000_000))), "a compressed archive"),
        (packed(lambda buffer: pickle.dump(WEIGHTS, buffer)), "a pickle that torch.save did not write"),
        (packed(lambda buffer: torch.save(torch.ones(1), buffer)), "holds one tensor"),
        (packed(lambda buffer: torch.save([torch.ones(1)], buffer)), "holds a list"),
        (b"not a checkpoint", "no file of weights"),
        (bytes(5000), "no file of weights"),
        (
            packed(lambda buffer: torch.save(WEIGHTS, buffer, _use_new_zipfile_serialization=False))[:90],
            "cannot be read as a torch checkpoint",
        ),
        (b"PK\x03\x04" + bytes(50), "cannot be read as a torch checkpoint"),
        ((50).to_bytes(8, "little") + b"{" + bytes(99), "cannot be read as safetensors"),
        ((10**15).to_bytes(8, "little") + b'{"w": {"dtype": "F32"', "cannot be read as safetensors"),
        (b"", "is empty"),
    ],
)
def test_files_that_are_no_checkpoints_are_named_in_one_sentence(tmp_path, content, says):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_truncated_file_is_refused(tmp_path):
    for suffix in ("safetensors", "pt"):
        path = tmp_path / f"w.{suffix}"
        save_checkpoint(path, {"w": torch.randn(1000)}, META)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(UsageError, match="cannot be read"):
            read_weights(path)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", pathlib.Path("/dev/zero"), tmp_path):
        with pytest.raises(UsageError, match="not a file of weights"):
            read_weights(path)


def test_every_dict_of_tensors_is_found_by_where_it_lies(tmp_path):
    ema = {"w": torch.ones(1)}
    content = {
        "state_dict": WEIGHTS,
        "callbacks": {"EMA": {"decay": 0.9, "weights": ema}},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": [{"lr": 1}]},
        "again": {"same": ema},
        "shadow_params": [torch.ones(1), torch.ones(2)],
    }
    content["itself"] = content
    torch.save(content, tmp_path / "w.pt")
    sets = read_weights(tmp_path / "w.pt").sets
    assert set(sets) == {"state_dict", "shadow_params", "again.same", "callbacks.EMA.weights", "optimizer.state.0"} - (
        {"callbacks.EMA.weights"} if "again.same" in sets else {"again.same"}
    )
    assert list(sets["shadow_params"]) == ["0", "1"]
