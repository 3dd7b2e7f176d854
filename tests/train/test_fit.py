from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgevit.data.source import open_data
from edgevit.errors import EdgeVitError, Interrupted, Unsupported, UsageError
from edgevit.images import Preprocess
from edgevit.models.loading.checkpoint import read_checkpoint
from edgevit.models.loading.source import create_model
from edgevit.models.spec import spec_of
from edgevit.train import TrainOptions, epochs, fit, loop
from edgevit.train.batches import make_batches
from edgevit.train.optim import Ema, learning_rate, parameter_groups
from edgevit.train.options import command_line

ONE = TrainOptions(epochs=2, batch_size=32, threads=1)
MODEL = """
import torch
from torch import nn
def build(num_classes=10, image_size=8):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes))
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A small convolution net in a file: with BatchNorm and dropout, so that hidden state would show."""
    (tmp_path / "net.py").write_text(MODEL)
    return f"{tmp_path / 'net.py'}:build"


@pytest.fixture
def some_digits(tmp_path: Path) -> str:
    """240 of the real digits, 12 of each class held out or so."""
    digits = open_data("digits")
    images = np.stack([digits.images[index] for index in range(240)])
    np.savez(tmp_path / "some.npz", images=images, labels=digits.labels[:240])
    return f"npz:{tmp_path / 'some.npz'}"


def options(**changes: object) -> TrainOptions:
    return TrainOptions(**{"epochs": 2, "batch_size": 32, "threads": 1, "image_size": 8, **changes})  # type: ignore[arg-type]


# --- the whole loop ------------------------------------------------------------------------------


def test_two_epochs_on_real_digits_lower_the_loss_and_are_recorded(
    model: str, some_digits: str, tmp_path: Path
) -> None:
    seen: list[tuple[int, int, float, float | None]] = []
    result = fit(
        model,
        some_digits,
        tmp_path / "a.safetensors",
        options=options(epochs=4),
        progress=lambda *row: seen.append(row),
    )
    assert [row[:2] for row in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert seen[-1][2] < seen[0][2] - 0.05
    _, meta = read_checkpoint(tmp_path / "a.safetensors")
    assert meta is not None
    assert (meta.model, meta.num_classes, meta.image_size, meta.epochs) == (model, 10, (8, 8), 4)
    assert (meta.labels, meta.data, meta.split_seed) == (tuple("0123456789"), some_digits, 0)
    assert meta.accuracy == result.accuracy == seen[-1][3]
    assert (result.train_images, result.held_out_images) == (192, 48)
    assert meta.command is not None
    assert "--epochs 4" in meta.command
    assert not (tmp_path / "a.safetensors.resume").exists()


def test_the_saved_weights_have_the_recorded_accuracy(model: str, some_digits: str, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    result = fit(model, some_digits, out, options=options(epochs=5))
    loaded = create_model(model, weights=out)
    spec = spec_of(loaded)
    assert spec is not None
    assert spec.preprocess is not None
    held = open_data(some_digits, split="held-out")
    rows = torch.from_numpy(spec.preprocess.batch(list(held.images)))
    assert held.labels is not None
    with torch.no_grad():
        right = (loaded(rows).argmax(1).numpy() == held.labels).mean()
    assert right == result.accuracy
    assert spec.accuracy == result.accuracy


def test_a_zoo_model_trains_in_its_own_image_size(some_digits: str, tmp_path: Path) -> None:
    out = tmp_path / "v.safetensors"
    fit("vit_nano", some_digits, out, options=TrainOptions(epochs=1, threads=1, augment=False))
    _, meta = read_checkpoint(out)
    assert meta is not None
    assert meta.image_size == (32, 32)
    assert spec_of(create_model("vit_nano", weights=out)).data == some_digits  # type: ignore[union-attr]


def test_the_same_run_twice_gives_the_same_bytes(model: str, some_digits: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fit(model, some_digits, tmp_path / f"{name}.safetensors", options=options(seed=5))
    first, again = (read_checkpoint(tmp_path / f"{name}.safetensors").sets[""] for name in "ab")
    assert all(torch.equal(first[key], again[key]) for key in first)
    fit(model, some_digits, tmp_path / "c.safetensors", options=options(seed=6))
    other = read_checkpoint(tmp_path / "c.safetensors").sets[""]
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_training_leaves_the_callers_random_state_and_threads_alone(
    model: str, some_digits: str, tmp_path: Path
) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    fit(model, some_digits, tmp_path / "a.safetensors", options=options(epochs=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_model_that_knows_its_classes_keeps_their_order_whatever_that_of_the_data(
    model: str, some_digits: str, tmp_path: Path
) -> None:
    first, again, names = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tuple("0123456789")
    fit(model, some_digits, first, options=options(epochs=20))
    with np.load(some_digits.removeprefix("npz:")) as stored:
        images, labels = stored["images"], stored["labels"]
    np.savez(tmp_path / "turned.npz", images=images, labels=9 - labels, classes=np.array(names[::-1]))
    before = fit(model, some_digits, tmp_path / "c.safetensors", options=options(epochs=1, weights=str(first), lr=1e-9))
    result = fit(model, f"npz:{tmp_path / 'turned.npz'}", again, options=options(epochs=1, weights=str(first), lr=1e-9))
    assert read_checkpoint(again)[1].labels == names  # type: ignore[union-attr]
    assert result.accuracy == pytest.approx(before.accuracy, abs=0.1)
    assert result.accuracy > 0.3


# --- resume --------------------------------------------------------------------------------------


def stop_after(epoch: int):  # type: ignore[no-untyped-def]
    def progress(done: int, *_rest: object) -> None:
        if done == epoch:
            raise KeyboardInterrupt

    return progress


def test_a_resumed_run_ends_with_the_same_bytes_as_an_uninterrupted_one(
    model: str, some_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "SAVE_EVERY_S", 0.0)
    whole, cut = tmp_path / "whole" / "x.safetensors", tmp_path / "cut" / "x.safetensors"
    fit(model, some_digits, whole, options=options(epochs=4, mixup=0.3))
    with pytest.raises(Interrupted, match="after epoch 2 of 4") as caught:
        fit(model, some_digits, cut, options=options(epochs=4, mixup=0.3), progress=stop_after(2))
    assert "--resume" in caught.value.hint
    assert not cut.exists()
    fit(model, some_digits, cut, options=options(epochs=4, mixup=0.3, resume=True))
    first, second = read_checkpoint(whole), read_checkpoint(cut)
    assert first.meta == second.meta
    assert all(
        value.numpy().tobytes() == second.sets[""][name].numpy().tobytes() for name, value in first.sets[""].items()
    )
    assert sorted(path.name for path in cut.parent.iterdir()) == ["x.safetensors"]


def test_an_unfinished_run_is_never_thrown_away_unasked(model: str, some_digits: str, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    with pytest.raises(Interrupted):
        fit(model, some_digits, out, options=options(), progress=stop_after(1))
    with pytest.raises(UsageError, match="unfinished") as caught:
        fit(model, some_digits, out, options=options())
    assert "--resume" in str(caught.value.hint)
    with pytest.raises(UsageError, match=r"lr 0\.002"):
        fit(model, some_digits, out, options=options(lr=0.1, resume=True))
    fit(model, some_digits, out, options=options(force=True))
    assert out.exists()


def test_resume_without_a_state_and_with_a_broken_one_are_sentences(
    model: str, some_digits: str, tmp_path: Path
) -> None:
    out = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match="nothing to resume"):
        fit(model, some_digits, out, options=options(resume=True))
    (tmp_path / "a.safetensors.resume").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="not the state"):
        fit(model, some_digits, out, options=options(resume=True))


# --- refusals ------------------------------------------------------------------------------------


def test_an_existing_checkpoint_is_not_overwritten(model: str, some_digits: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists"):
        fit(model, some_digits, tmp_path / "a.safetensors", options=options())
    assert (tmp_path / "a.safetensors").read_bytes() == b"precious"
    with pytest.raises(UsageError, match="kind of weights file"):
        fit(model, some_digits, tmp_path / "a.onnx", options=options())


def test_data_that_teaches_nothing_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no labels"):
        fit(model, "samples", tmp_path / "a.safetensors", options=options())
    np.savez(tmp_path / "one.npz", images=np.zeros((9, 8, 8), np.uint8), labels=np.zeros(9, int))
    with pytest.raises(UsageError, match="single class"):
        fit(model, f"npz:{tmp_path / 'one.npz'}", tmp_path / "a.safetensors", options=options())
    np.savez(tmp_path / "two.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))
    with pytest.raises(UsageError, match="too few"):
        fit(model, f"npz:{tmp_path / 'two.npz'}", tmp_path / "a.safetensors", options=options())


def test_a_diverging_run_stops_and_advises_a_smaller_rate(some_digits: str, tmp_path: Path) -> None:
    bad = MODEL.replace("return nn.Sequential(", "return nn.Sequential(Explode(), ")
    bad += "class Explode(nn.Module):\n    def forward(self, x):\n        return x * float('inf')\n"
    (tmp_path / "bad.py").write_text(bad)
    with pytest.raises(EdgeVitError, match="became nan in epoch 1") as caught:
        fit(f"{tmp_path / 'bad.py'}:build", some_digits, tmp_path / "a.safetensors", options=options())
    assert "--lr" in str(caught.value.hint)
    assert not (tmp_path / "a.safetensors").exists()


def test_a_device_that_is_not_here_is_unsupported(model: str, some_digits: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        fit(model, some_digits, tmp_path / "a.safetensors", options=options(device="abacus"))
    with pytest.raises(Unsupported, match="mps"):
        fit(model, some_digits, tmp_path / "a.safetensors", options=options(device="mps"))
    if not torch.cuda.is_available():
        with pytest.raises(Unsupported, match="cuda"):
            fit(model, some_digits, tmp_path / "a.safetensors", options=options(device="cuda"))


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"lr": math.nan}, {"batch_size": 1}, {"ema": 1.0}, {"epochs": 0}])
def test_options_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="out of range"):
        TrainOptions(**bad)  # type: ignore[arg-type]


def test_a_broken_image_is_named(model: str, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (9, 9)).save(tmp_path / "data" / label / f"{index}.png")
    for path in (tmp_path / "data" / "b").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(EdgeVitError, match=r"\.png"):
        fit(model, f"folder:{tmp_path / 'data'}", tmp_path / "a.safetensors", options=options())


# --- parts ---------------------------------------------------------------------------------------


def test_the_average_is_that_of_the_formula() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = Ema(model, decay=0.6)
    start = model[0].weight.detach().clone()
    expected = start.clone()
    for update in range(12):
        with torch.no_grad():
            model[0].weight.copy_(start + update)
        model[1].num_batches_tracked.fill_(update)
        keep = min(0.6, (1 + update) / (10 + update))
        expected = keep * expected + (1 - keep) * (start + update)
        ema.update(model)
    torch.testing.assert_close(ema.module[0].weight, expected)  # type: ignore[index]
    assert int(ema.module[1].num_batches_tracked) == 11  # type: ignore[index]
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [learning_rate(step, 100, 0.5, 0.1) for step in range(100)]
    assert rates.index(max(rates)) in (9, 10)
    assert max(rates) == pytest.approx(0.5)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert learning_rate(0, 1, 0.5, 0.0) == 0.5


def test_only_weights_of_linear_and_convolution_layers_decay() -> None:
    model = create_model("vit_nano")
    decaying, rest = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    chosen = {id(parameter) for parameter in decaying["params"]}  # type: ignore[attr-defined]
    names = {name for name, parameter in model.named_parameters() if id(parameter) in chosen}
    assert names
    assert all(name.endswith("weight") and "norm" not in name and "pos" not in name for name in names)
    assert len(decaying["params"]) + len(rest["params"]) == len(list(model.parameters()))  # type: ignore[arg-type]


def test_batches_from_disk_equal_batches_from_memory() -> None:
    digits = open_data("digits").take(range(50))
    preprocess = Preprocess(size=(12, 12), crop="squash", layout="NHWC")
    kept, made = (make_batches(digits, preprocess, memory_limit=limit) for limit in (1 << 30, 0))
    assert isinstance(kept.rows, torch.Tensor)
    assert not isinstance(made.rows, torch.Tensor)
    for batches in ("shuffled", "ordered"):
        pairs = [
            list(b.shuffled(16, torch.Generator().manual_seed(0)) if batches == "shuffled" else b.ordered(16))
            for b in (kept, made)
        ]
        for (x, y, *_), (x2, y2, *_) in zip(*pairs, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)
    sizes = [len(y) for _, y, _ in kept.shuffled(49, torch.Generator())]
    assert sizes == [25, 25], "no batch of one, which BatchNorm could not learn from"


def test_the_command_repeats_the_recipe_and_leaves_defaults_out() -> None:
    out = Path("/somewhere/x.safetensors")
    assert command_line("vit_nano", "digits", out, TrainOptions(threads=2, force=True)) == (
        "edgevit train vit_nano --data digits -o x.safetensors"
    )
    changed = command_line("vit_nano", "folder:my photos", out, TrainOptions(lr=0.01, hflip=True, augment=False))
    assert changed.endswith("--data 'folder:my photos' -o x.safetensors --lr 0.01 --hflip --no-augment")


def test_the_split_does_not_depend_on_the_seed_option(model: str, some_digits: str, tmp_path: Path) -> None:
    assert loop.SPLIT_SEED == 0
    fit(model, some_digits, tmp_path / "a.safetensors", options=options(epochs=1, seed=9))
    _, meta = read_checkpoint(tmp_path / "a.safetensors")
    assert meta is not None
    assert meta.split_seed == 0


def test_a_state_is_not_saved_again_at_once(
    model: str, some_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "SAVE_EVERY_S", 3600.0)
    with pytest.raises(Interrupted, match="after epoch 1 of 4"):
        fit(model, some_digits, tmp_path / "x.safetensors", options=options(epochs=4), progress=stop_after(3))
