from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgevit.data.labelled import LabelledData, from_arrays
from edgevit.data.source import open_data
from edgevit.data.targets import IGNORE, Targets
from edgevit.errors import Unsupported, UsageError
from edgevit.images import Preprocess
from edgevit.models.loading.checkpoint import read_checkpoint
from edgevit.models.loading.source import create_model
from edgevit.models.spec import spec_of
from edgevit.train import TrainOptions, fit
from edgevit.train.augment import Augment, move, moved_labels
from edgevit.train.options import command_line
from edgevit.train.subjects.masks import balanced, seen
from edgevit.train.subjects.pictures import Pictures, tiled

SEGMENTER = """
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, classes, 1))
    def forward(self, image):
        return {"masks": self.net(image)}
def build(num_classes=3, image_size=12):
    return Net(num_classes)
"""


@pytest.fixture
def squares(tmp_path: Path) -> str:
    """40 pictures, each with a bright square on the left (class 1) or a dark one on the right (class 2)."""
    random = np.random.RandomState(0)
    for index in range(40):
        image, mask = random.randint(100, 120, (12, 12, 3)).astype(np.uint8), np.zeros((12, 12), np.uint8)
        place = slice(0, 6) if index % 2 else slice(6, 12)
        image[3:9, place], mask[3:9, place] = (250, 1) if index % 2 else (5, 2)
        for folder, pixels, name in (("images", image, "png"), ("masks", mask, "png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index:02}.{name}")
    return f"masks:{tmp_path}"


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """Tiles of the real held-out photos as files, the first six."""
    data = open_data("pairs:samples×2", split="held-out")
    for index in range(6):
        for folder, pixels in (("low", data.images[index][:24, :24]), ("high", data.targets[index][:48, :48])):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    return f"pairs:{tmp_path}"


def options(**changes: object) -> TrainOptions:
    return TrainOptions(**{"epochs": 3, "batch_size": 8, "threads": 1, **changes})  # type: ignore[arg-type]


# --- the whole loop ------------------------------------------------------------------------------


def test_a_segmenter_of_ones_own_learns_masks_from_files_and_the_checkpoint_says_so(
    squares: str, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(SEGMENTER)
    seen_losses: list[float] = []
    result = fit(
        f"{tmp_path / 'net.py'}:build",
        squares,
        tmp_path / "a.safetensors",
        options=options(epochs=12, image_size=12, lr=0.02, augment=False, smoothing=0.0),
        progress=lambda _, __, loss, ___: seen_losses.append(loss),
    )
    assert seen_losses[-1] < seen_losses[0] / 2
    assert (result.task, result.metric, result.accuracy) == ("segment", "mIoU", None)
    assert result.figure > 0.5
    _, meta = read_checkpoint(tmp_path / "a.safetensors")
    assert meta is not None
    assert (meta.task, meta.metric, meta.figure, meta.accuracy) == ("segment", "mIoU", result.figure, None)
    assert meta.num_classes == 3


def test_the_zoos_segmenter_lowers_its_loss_in_a_few_steps_on_scenes() -> None:
    from edgevit.train.dense import prepare

    data = open_data("scenes:32", split="train").take(range(16))
    run, _, _ = prepare("segmenter_nano", data, data, options(augment=False), torch.device("cpu"))
    losses = []
    for _ in range(25):
        (batch,) = run.train.shuffled(16, torch.Generator().manual_seed(0))
        images, truth = run.view(batch[0], batch[1], torch.Generator())
        loss = run.loss(run.model, images, truth, batch[1])
        run.steps.follow(loss, run.model, run.optimizer, 1.0)
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.9


def test_a_super_resolver_begins_as_bicubic_and_is_trained_on_pairs_of_files(pairs: str, tmp_path: Path) -> None:
    result = fit(
        "sesr_nano_x2", pairs, tmp_path / "a.safetensors", options=options(epochs=1, batch_size=2, image_size=24)
    )
    assert (result.task, result.metric, result.accuracy) == ("restore", "PSNR", None)
    data = open_data(pairs, split="held-out")
    bicubic = [
        np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC)).astype(float)
        for image in data.images
    ]
    model = create_model("sesr_nano_x2").eval()
    for image, wanted in zip(data.images, bicubic, strict=True):
        with torch.no_grad():
            made = model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0) * 255
        inner = np.s_[4:-4, 4:-4]
        assert np.abs(made.numpy()[inner].clip(0, 255) - wanted[inner]).max() < 2  # Pillow rounds in between


def test_a_trained_checkpoint_is_opened_again_with_its_task_and_answers_with_labels(tmp_path: Path) -> None:
    from edgevit.models.loading.checkpoint import CheckpointMeta, save_checkpoint

    model = create_model("segmenter_nano", num_classes=4, image_size=32)
    meta = CheckpointMeta(model="segmenter_nano", num_classes=4, image_size=(32, 32), task="segment", metric="mIoU")
    save_checkpoint(tmp_path / "a.safetensors", model.state_dict(), meta)
    again = create_model("segmenter_nano", weights=tmp_path / "a.safetensors")
    spec = spec_of(again)
    assert spec is not None
    assert (spec.task, spec.num_classes) == ("segment", 4)
    labels = again(torch.zeros(1, 3, 32, 32))
    assert (labels.dtype, tuple(labels.shape)) == (torch.int64, (1, 32, 32))
    assert again.train()(torch.zeros(2, 3, 32, 32)).shape == (2, 4, 32, 32)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "data", "changes", "error", "said"),
    [
        ("segmenter_nano", "digits", {}, UsageError, "segmenter_nano is made to segment, digits teaches to classify"),
        ("vit_nano", "scenes:32", {}, UsageError, "vit_nano is made to classify, scenes:32 teaches to segment"),
        ("vit_nano", "digits", {"task": "segment"}, UsageError, "digits teaches classify, not segment"),
        ("segmenter_nano", "scenes:32:objects", {}, Unsupported, "nothing is trained on objects"),
        ("segmenter_nano", "scenes:32", {"mixup": 0.2}, UsageError, "--mixup mixes the classes of whole images"),
        ("sesr_nano_x3", "pairs:samples×2", {}, UsageError, "the model makes pictures of 144×144 pixels"),
    ],
    ids=["dense model", "classifier", "another task", "boxes", "mixup", "another scale"],
)
def test_what_a_model_cannot_learn_from_is_refused(model, data, changes, error, said, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        fit(model, data, tmp_path / "a.safetensors", options=options(epochs=1, **changes))
    assert not (tmp_path / "a.safetensors").exists()


def test_a_model_that_decides_while_it_learns_is_told_to_give_scores(tmp_path: Path, squares: str) -> None:
    decided = SEGMENTER.replace('{"masks": self.net(image)}', "self.net(image).argmax(1)")
    (tmp_path / "net.py").write_text(decided)
    with pytest.raises(Unsupported, match="gives no masks of numbers"):
        fit(f"{tmp_path / 'net.py'}:build", squares, tmp_path / "a.safetensors", options=options(image_size=12))


# --- the parts -----------------------------------------------------------------------------------


def test_a_mask_is_seen_as_its_image_is() -> None:
    mask = np.arange(64).reshape(8, 8)
    squashed = Preprocess(size=(4, 4), crop="squash")
    assert np.array_equal(seen(mask, squashed), mask[1::2, 1::2])
    same = Preprocess(size=(8, 8), crop="squash")
    assert np.array_equal(seen(mask, same), mask)
    middle = seen(mask, Preprocess(size=(4, 4), crop="center", crop_pct=0.5))
    assert np.array_equal(middle, mask[2:6, 2:6])


def test_masks_move_with_their_images() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (4, 1, 16, 16), generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    transforms = Augment(degrees=20.0).transforms(4, generator)
    moved = moved_labels(labels[:, 0], transforms)
    as_image = move((labels == 2).float(), transforms)[:, 0]
    assert ((moved == 2) == (as_image > 0.5)).float().mean() > 0.98
    assert set(moved.unique().tolist()) <= {0, 1, 2}
    ignored = moved_labels(torch.full((4, 8, 8), IGNORE), transforms)
    assert (ignored == IGNORE).all()


def test_rare_classes_weigh_more_and_what_is_ignored_counts_for_nothing() -> None:
    masks = torch.tensor([[0] * 16 + [1] * 4 + [2] + [IGNORE] * 9])
    assert balanced(masks, 4).tolist() == pytest.approx([0.5**0.5, 1.0, 2**0.5, 2**0.5])


def test_pairs_are_cut_into_tiles_that_belong_together() -> None:
    low = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    high = low.repeat(2, 0).repeat(2, 1)
    data = LabelledData("pairs:here", from_arrays([low]), targets=Targets("pictures", [high].__getitem__, [0]))
    cut = tiled(data, (2, 3))
    assert len(cut) == 4
    for image, picture in zip(cut.images, cut.targets, strict=True):
        assert np.array_equal(picture[::2, ::2], image)
    with pytest.raises(UsageError, match="no picture of pairs:here has the 8×8 pixels"):
        tiled(data, (8, 8))


def test_turned_pictures_stay_pairs() -> None:
    low = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    high = (low.repeat_interleave(2, 2).repeat_interleave(2, 3)).numpy().astype(np.uint8).transpose(0, 2, 3, 1)
    subject = Pictures(Targets("pictures", list(high).__getitem__, range(2)), options())
    for seed in range(6):
        images, pictures = subject.view(low, torch.arange(2), torch.Generator().manual_seed(seed))
        assert torch.equal(pictures[:, :, ::2, ::2] * 255, images)


def test_the_command_that_a_checkpoint_keeps_names_the_task_that_was_asked_for() -> None:
    line = command_line("segmenter_nano", "scenes:32", Path("a.safetensors"), options(task="segment"))
    assert "--task segment" in line


def test_the_deploy_form_of_a_super_resolver_is_plain_convolutions() -> None:
    from edgevit.models import reparameterize

    deploy = reparameterize(create_model("sesr_nano_x4"))
    assert deploy.reparam_report.max_rel_error <= 1e-10
    assert sum(isinstance(module, nn.Conv2d) for module in deploy.modules()) == 7
