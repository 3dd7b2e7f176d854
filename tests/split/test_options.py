from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.errors import Unsupported
from edgevit.request import ModelChoice
from edgevit.split.options import FusionOptions, SplitJob, SplitOptions
from edgevit.split.refusals import check


@pytest.mark.parametrize(
    ("images", "views", "epochs"), [(10, 16, 60), (1_437, 16, 31), (2_500, 9, 30), (50_000, 4, 10), (10**6, 4, 10)]
)
def test_the_fusion_head_sees_more_copies_of_fewer_images_and_more_epochs_of_those(
    images: int, views: int, epochs: int
) -> None:
    options = FusionOptions()
    assert options.views_for(images) == views
    assert options.epochs_for((1 + views) * images) == epochs


def test_what_was_asked_for_is_not_fitted() -> None:
    options = FusionOptions(epochs=3, views=0)
    assert (options.views_for(10), options.epochs_for(10)) == (0, 3)


def test_few_epochs_of_the_fusion_head_need_few_copies_of_the_images() -> None:
    assert FusionOptions().views_for(1437) == 16
    assert FusionOptions(epochs=1).views_for(1437) == 1
    assert FusionOptions(epochs=40).views_for(1437) == 16
    assert FusionOptions(epochs=1, views=3).views_for(1437) == 3


def test_integers_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    job = SplitJob(ModelChoice("vit_nano"), "digits", tmp_path / "out", SplitOptions(parts=2), precision="int8")
    with pytest.raises(Unsupported, match="no rows to find ranges on"):
        check(job)
