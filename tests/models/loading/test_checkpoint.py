"""Weights on disk: what is written comes back with its story."""

from __future__ import annotations

import json

import pytest
import torch

from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.models.loading.checkpoint import CheckpointMeta, read_checkpoint, save_checkpoint

META = CheckpointMeta(
    model="vit_nano",
    num_classes=3,
    image_size=(32, 32),
    labels=("a", "b", "c"),
    preprocess=Preprocess(size=(32, 32)),
    data="digits",
    split_seed=0,
    accuracy=0.98,
    epochs=5,
    command="edgevit train vit_nano --data digits",
    edgevit="0.1.0",
)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_tensors_and_metadata_come_back_as_written(tmp_path, suffix):
    shared = torch.randn(4, 3)
    state = {"a": shared, "b": shared, "t": shared.t(), "n": torch.tensor(3), "h": torch.ones(2, dtype=torch.float16)}
    path = tmp_path / "deep" / f"w.{suffix}"
    save_checkpoint(path, state, META)
    sets, meta = read_checkpoint(path)
    assert meta == META
    (found,) = sets.values()
    assert set(found) == set(state)
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("written", ["safetensors", "pth"])
@pytest.mark.parametrize("name", ["model_best.pth.tar", "last.ckpt", "pytorch_model.bin", "W.PTH", "weights", "w.onnx"])
def test_the_content_says_what_a_file_is_not_its_name(tmp_path, written, name):
    save_checkpoint(tmp_path / f"w.{written}", {"w": torch.ones(2)}, META)
    (tmp_path / f"w.{written}").rename(tmp_path / name)
    sets, meta = read_checkpoint(tmp_path / name)
    assert [list(state) for state in sets.values()] == [["w"]]
    assert meta == META


def test_a_suffix_that_says_no_format_is_not_written(tmp_path):
    with pytest.raises(UsageError, match="not a kind of weights file"):
        save_checkpoint(tmp_path / "w.onnx", {}, META)


def test_a_missing_file_and_one_without_tensors_are_said(tmp_path):
    with pytest.raises(UsageError, match="no weights at"):
        read_checkpoint(tmp_path / "gone.safetensors")
    for content in ({}, {"epoch": 4, "args": {"lr": 0.1}}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(UsageError, match="holds no tensors"):
            read_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"num_classes": "three"},
        {"num_classes": 0},
        {"num_classes": 10**12},
        {"image_size": [32, 10**9]},
        {"image_size": [32, -1]},
        {"labels": {"a": 1}},
    ],
)
def test_metadata_that_describes_no_model_is_refused(tmp_path, change):
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    broken = json.dumps({**json.loads(META.model_dump_json()), **change})
    save_file({"w": torch.ones(1)}, path, metadata={"edgevit": broken})
    with pytest.raises(UsageError, match=next(iter(change))):
        read_checkpoint(path)


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"a":' * 50_000, "7" * 20_000_000, "null", ""])
def test_metadata_without_end_or_meaning_is_refused_in_one_sentence(tmp_path, text):
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(1)}, path, metadata={"edgevit": text})
    with pytest.raises(UsageError, match=r"metadata of .* is not valid") as caught:
        read_checkpoint(path)
    assert len(str(caught.value)) < 400


def test_metadata_of_another_version_may_say_more(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    more = json.dumps({**json.loads(META.model_dump_json()), "key_format": "native", "later": 1})
    save_file({"w": torch.ones(1)}, path, metadata={"edgevit": more})
    assert read_checkpoint(path).meta == META
