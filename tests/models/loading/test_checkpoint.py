"""Weights on disk: what is written comes back, and what cannot be loaded says why."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.models.loading.checkpoint import CheckpointMeta, load_state, read_checkpoint, save_checkpoint

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


class Code:
    """Something whose unpickling would run code."""

    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_tensors_and_metadata_come_back_as_written(tmp_path, suffix):
    shared = torch.randn(4, 3)
    state = {"a": shared, "b": shared, "t": shared.t(), "n": torch.tensor(3), "h": torch.ones(2, dtype=torch.float16)}
    path = tmp_path / "deep" / f"w.{suffix}"
    save_checkpoint(path, state, META)
    found, meta = read_checkpoint(path)
    assert meta == META
    assert set(found) == set(state)
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_trainers_wrappers_and_prefixes_are_taken_off(tmp_path, wrap):
    path = tmp_path / "w.pth"
    torch.save(wrap({"module.fc.weight": torch.ones(2)}), path)
    state, meta = read_checkpoint(path)
    assert list(state) == ["fc.weight"]
    assert meta is None


def test_averaged_weights_are_preferred_to_raw_ones(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": {"w": torch.zeros(1)}, "model_ema": {"w": torch.ones(1)}}, path)
    assert read_checkpoint(path)[0]["w"].item() == 1


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, capfd):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Code()}, path)
    with pytest.raises(UsageError, match="would run code") as caught:
        read_checkpoint(path)
    assert "safetensors" in caught.value.hint
    assert "must not run" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.safetensors", None, "no weights at"),
        ("w.safetensors", b"\x00" * 40, "cannot be read as safetensors"),
        ("w.pt", b"not a checkpoint", "run code|cannot be read as a torch checkpoint"),
        ("w.pt", b"", "cannot be read as a torch checkpoint"),
        ("w.onnx", b"x", "not a kind of weights file"),
    ],
)
def test_files_that_are_no_checkpoints_get_one_sentence(tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path):
    for suffix in ("safetensors", "pt"):
        path = tmp_path / f"w.{suffix}"
        save_checkpoint(path, {"w": torch.randn(1000)}, META)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(UsageError, match="cannot be read"):
            read_checkpoint(path)


def test_things_that_are_not_tensors_are_named(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"w": torch.ones(1), "epoch": 4}, path)
    with pytest.raises(UsageError, match="epoch is no tensor"):
        read_checkpoint(path)
    torch.save([torch.ones(1)], path)
    with pytest.raises(UsageError, match="holds a list"):
        read_checkpoint(path)
    torch.save({}, path)
    with pytest.raises(UsageError, match="holds no tensors"):
        read_checkpoint(path)


def test_metadata_of_another_shape_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    broken = json.dumps({**json.loads(META.model_dump_json()), "num_classes": "three"})
    save_file({"w": torch.ones(1)}, path, metadata={"edgevit": broken})
    with pytest.raises(UsageError, match="num_classes"):
        read_checkpoint(path)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


def test_loading_is_all_or_nothing():
    target = model()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {**model().state_dict(), "extra": torch.ones(1)}
    state.pop("2.bias")
    with pytest.raises(UsageError, match=r"w\.pt does not fit the model: 2\.bias is missing; extra is unexpected"):
        load_state(target, state, "w.pt")
    assert all(torch.equal(target.state_dict()[name], value) for name, value in before.items())


def test_the_number_of_classes_is_suggested_when_only_the_classifier_differs():
    target, other = nn.Module(), nn.Module()
    target.head, other.head = nn.Linear(4, 2), nn.Linear(4, 7)
    with pytest.raises(UsageError, match=r"head\.weight is 7×4 in the file and 2×4 in the model") as caught:
        load_state(target, other.state_dict(), "w.pt")
    assert "--classes N" in caught.value.hint
    assert "7 classes" in caught.value.hint


def test_a_conversion_is_tried_when_the_names_are_not_ours():
    target, source = model(), model()
    renamed = {f"x.{name}": value for name, value in source.state_dict().items()}
    load_state(target, renamed, "w.pt", lambda state: {name[2:]: value for name, value in state.items()})
    assert torch.equal(target[0].weight, source[0].weight)


def test_a_conversion_that_fails_leaves_the_first_complaint():
    def convert(state):
        raise KeyError("no such layer")

    with pytest.raises(UsageError, match=r"0\.weight is missing"):
        load_state(model(), {"y": torch.ones(1)}, "w.pt", convert)


def test_batch_counters_may_be_missing():
    target, source = model(), model()
    state = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    load_state(target, state, "w.pt")
    assert torch.equal(target[2].bias, source[2].bias)
