from __future__ import annotations

import math

import pytest
import torch

from edgevit.train.augment import Augment, mixed, move

STILL = Augment(degrees=0, scale=0, shear=0, shift=0, brightness=0, contrast=0, erase=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_amount_of_change_leaves_images_as_they_are() -> None:
    images = torch.randn(4, 3, 16, 12)
    torch.testing.assert_close(STILL(images, generator()), images, atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_images_and_another_one_others() -> None:
    images = torch.randn(4, 3, 16, 16)
    first, again, other = (Augment()(images, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_augmentation_leaves_its_argument_and_the_global_random_state_alone() -> None:
    images = torch.randn(4, 3, 16, 16)
    before, state = images.clone(), torch.get_rng_state()
    Augment(hflip=True)(images, generator())
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_shift_moves_by_the_stated_fraction() -> None:
    images = torch.zeros(1, 1, 10, 10)
    images[0, 0, 4, 4] = 1
    one_right = torch.tensor([[[1.0, 0, -0.2], [0, 1, 0]]])  # positions in -1..1: a tenth of the side is 0.2
    assert move(images, one_right)[0, 0, 4, 5] == pytest.approx(1, abs=1e-5)


def test_transforms_stay_within_their_bounds() -> None:
    maps = Augment(degrees=15, scale=0.1, shear=0, shift=0.1).transforms(500, generator())
    turned = torch.atan2(maps[:, 1, 0], maps[:, 0, 0])
    assert turned.abs().max() <= math.radians(15) + 1e-6
    assert turned.abs().max() > math.radians(13)
    zoom = torch.linalg.det(maps[:, :, :2])
    assert 0.81 - 1e-6 <= zoom.min() <= zoom.max() <= 1.21 + 1e-6
    assert 0.19 < maps[:, :, 2].abs().max() <= 0.2 + 1e-6


def test_images_are_mirrored_only_when_asked() -> None:
    plain = Augment(degrees=0).transforms(64, generator())
    mirrored = Augment(degrees=0, hflip=True).transforms(64, generator())
    assert (plain[:, 0, 0] > 0).all()
    assert 10 < int((mirrored[:, 0, 0] < 0).sum()) < 54


def test_erasing_paints_small_rectangles_in_some_images() -> None:
    images = torch.ones(200, 2, 20, 20)
    changed = Augment(degrees=0, scale=0, shear=0, shift=0, brightness=0, contrast=0, erase=0.5, erase_side=0.3)(
        images, generator()
    )
    erased = (changed == 0).all(dim=1).sum(dim=(1, 2))
    assert 60 < int((erased > 0).sum()) < 140
    assert int(erased.max()) <= 49  # at most 7 × 7 pixels of a 6 × 6 rectangle that lies between them


def test_mixup_keeps_targets_a_distribution_and_mixes_pixels_alike() -> None:
    images, targets = torch.randn(8, 3, 4, 4), torch.eye(8)
    pixels, shares = mixed(images, targets, 0.4, generator())
    assert torch.allclose(shares.sum(dim=1), torch.ones(8))
    assert float(shares.diagonal().min()) >= 0.6
    torch.testing.assert_close(pixels, torch.einsum("bn,nchw->bchw", shares, images))
