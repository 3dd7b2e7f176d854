"""What the parts of a split share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from edgevit.split import parts
from edgevit.split.parts import MEMORY_LIMIT, PartTask, Source, save_tokens
from edgevit.split.retrain import TOKEN_VIEWS
from edgevit.split.work import Work
from edgevit.train.batches import Batches


@pytest.mark.parametrize(("bytes_too_many", "made"), [(0, True), (4, False)])
def test_copies_to_distil_from_are_made_beforehand_where_they_fit_in_memory(
    bytes_too_many: int, made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = MEMORY_LIMIT // (1 + TOKEN_VIEWS) // 4 + bytes_too_many // 4
    rows = torch.zeros(1, 1, 1, 1).expand(1, 1, 1, numbers)  # one number in memory
    source = cast(Source, SimpleNamespace(trunk=None, train=Batches(rows, torch.zeros(1, dtype=torch.long))))
    monkeypatch.setattr(parts, "tokens_of", lambda *_, **__: torch.ones(1))
    task = PartTask(cast(Any, None), Work(tmp_path), 0, (0,), 1, "cpu")
    save_tokens(task, source, lambda what, share: None)
    assert (task.work.load_tokens() is not None) == made
