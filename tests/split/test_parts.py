"""What the parts of a split share."""

from __future__ import annotations

import pytest

from edgevit.split.parts import MEMORY_LIMIT, token_views
from edgevit.split.retrain import FEWEST_VIEWS, TOKEN_VIEWS


@pytest.mark.parametrize(
    ("images_bytes", "views"),
    [
        (1, TOKEN_VIEWS),
        (MEMORY_LIMIT // (1 + TOKEN_VIEWS), TOKEN_VIEWS),
        (MEMORY_LIMIT // 21, 20),
        (MEMORY_LIMIT // (1 + FEWEST_VIEWS), FEWEST_VIEWS),
        (MEMORY_LIMIT // FEWEST_VIEWS, 0),
        (2 * MEMORY_LIMIT, 0),
    ],
)
def test_as_many_copies_are_made_beforehand_as_fit_in_memory_or_none(images_bytes: int, views: int) -> None:
    assert token_views(images_bytes) == views
